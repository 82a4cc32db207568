"""Aliasing: which nodes of a graph may be one tensor in memory. An in-place operation changes every name of it.

That an operation may return its input, or a view of it, is read from torch's schema of the operation. Where the schema
hides it (`dropout` returns its input in eval mode), or there is none, the operation's rule says it: `may_return_input`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx, nn

from earlybird.slimming.operands import Rule

IN_PLACE_OPERATORS: tuple[Callable[..., Any], ...] = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def may_return_input(rule: Rule) -> Rule:
    """Mark a rule as one of operations that may return their input, or a view of it, whatever torch's schema says."""
    rule.may_return_input = True  # type: ignore[attr-defined]
    return rule


class Aliasing:
    """Names of each tensor in memory, gathered node by node in the order of a graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._owners: dict[fx.Node, set[fx.Node]] = {}
        self._names: dict[fx.Node, list[fx.Node]] = {}

    def owners(self, node: fx.Node) -> set[fx.Node]:
        """Earlier nodes whose memory `node` may be; itself where it made its own."""
        return self._owners.get(node, {node})

    def overwrites_live_value(self, node: fx.Node, module: nn.Module | None, rule: Rule | None) -> bool:
        """Enter the next node; whether it writes into a tensor that another name shows to a later operation."""
        owners: set[fx.Node] = set()
        in_place = is_in_place(node, module)
        if in_place or getattr(rule, "may_return_input", False) or _is_view(_operation_name(node, module)):
            owners.update(*(self.owners(source) for source in _first_tensors(node)))
        owners = owners or {node}
        self._owners[node] = owners
        names = [name for owner in owners for name in self._names.setdefault(owner, [owner])]
        for owner in owners:
            self._names[owner].append(node)
        return in_place and any(self._order[user] > self._order[node] for name in names for user in name.users)


def is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """True if a node writes its result into its first argument."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = _operation_name(node, module)
    is_named_so = name.endswith("_") and not name.startswith("_")
    return bool(node.kwargs.get("inplace")) or node.target in IN_PLACE_OPERATORS or is_named_so


def _first_tensors(node: fx.Node) -> list[fx.Node]:
    """The argument that a view is of; several where it is a tuple of tensors."""
    first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensor"))
    found: list[fx.Node] = []
    fx.map_arg(first, lambda each: found.append(each) or each)  # type: ignore[func-returns-value]
    return found


def _operation_name(node: fx.Node, module: nn.Module | None) -> str:
    """As torch's schemas spell it: `nn.Flatten` is `flatten`."""
    if module is not None:
        return type(module).__name__.lower()
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


@cache
def _is_view(operation: str) -> bool:
    """True if torch's schema says of some overload that what it returns may be memory of an argument."""
    results: list[Any] = [
        result for schema in torch._C._jit_get_schemas_for_operator(f"aten::{operation}") for result in schema.returns
    ]
    return any(result.alias_info is not None and not result.alias_info.is_write for result in results)
