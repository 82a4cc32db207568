"""Tracing: the operations a network really runs, in train and in eval mode, with their output shapes.

A copy on the `meta` device is traced by `torch.fx` (modules of `torch.nn` are leaves) and run once on shapes alone, so
that the caller's network, its statistics and the random state stay as found. What cannot be traced is refused with the
module's path. Which operation means what stands in `rules.py`.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from earlybird.errors import SlimError
from earlybird.slimming.select import SELECTING_NORMS

ExampleInput = Tensor | tuple[Tensor, ...]
_VALUE = "earlybird_value"


@dataclass(frozen=True)
class TracedNetwork:
    """One copy of a network and its graphs: one where train and eval mode run the same operations, else one of each.

    Attributes:
        modules: path -> module of the copy, each module once, in `named_modules()` order.
        graphs: mode -> graph; `traced_value(node)` gives what each node's output was, tensors on `meta`.
        whole: path -> why this module's tensors cannot be narrowed (it shares a parameter with another).
        untraced: class name -> why tracing could not enter modules of this class.
    """

    modules: dict[str, nn.Module]
    graphs: dict[str, fx.Graph]
    whole: dict[str, str]
    untraced: dict[str, str]

    @cached_property
    def path_of(self) -> dict[int, str]:
        """`id` of a module -> its path."""
        return {id(module): path for path, module in self.modules.items()}


def trace(model: nn.Module, example_input: ExampleInput) -> TracedNetwork:
    """Trace `model` in both modes with inputs shaped like `example_input` (batch first; a batch of 1 is doubled).

    A module whose own forward cannot be traced becomes one opaque operation, and so do others of its class.

    Raises:
        SlimError: the network's own forward branches on data, or an operation fails on the example. The message names
            the module.
    """
    with random_state_kept():
        whole = _sharing_modules(model)  # Before the move to `meta`, which makes two of a shared parameter.
        model = _copied(model).to("meta")
        remove_user_hooks_(model)
        inputs = tuple(_on_meta(x) for x in as_tuple(example_input))
        untraced: dict[type[nn.Module], str] = {}
        graphs: dict[str, fx.Graph] = {}
        listings: set[str] = set()
        for mode in ("train", "eval"):
            graph = _trace_mode(model.train(mode == "train"), inputs, untraced)
            listing = _listing(graph)
            if listing not in listings:
                listings.add(listing)
                graphs[mode] = graph
    reasons = {kind.__name__: why for kind, why in untraced.items()}
    return TracedNetwork(dict(model.named_modules()), graphs, whole, reasons)


def as_tuple(example_input: ExampleInput) -> tuple[Tensor, ...]:
    """The positional inputs of one call."""
    return example_input if isinstance(example_input, tuple) else (example_input,)


def traced_value(node: fx.Node) -> Any:
    """What a node gave on the example input; tensors on `meta`, so only their shapes mean something."""
    return node.meta[_VALUE]


def module_path(node: fx.Node) -> str:
    """Path of the module whose forward holds this node ("" for the root)."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the CPU generators of torch, numpy and Python back afterwards (a traced forward may draw from any)."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def remove_user_hooks_(model: nn.Module) -> None:
    """Drop forward hooks: a user's (a logger, say) must see no run of ours. Those of `torch.nn.utils` make weights."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if not type(hook).__module__.startswith("torch.nn.utils"):
                    del hooks[key]


class _Value(fx.Proxy):
    """Records `+=` and its kin as the in-place operations they are; `fx` alone would write a plain add."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Keeps the path of the module it is in, for messages; `torch.nn` modules and selecting norms are leaves."""

    def __init__(self, opaque: Collection[type[nn.Module]]) -> None:
        super().__init__()
        self.opaque = opaque
        self.inside: list[str] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in self.opaque or isinstance(m, SELECTING_NORMS):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()  # Not in a `finally`: after an error the innermost path is what the message needs.
        return result


class _Shapes(fx.Interpreter):
    """Runs a graph and notes each node's output shape."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.extra_traceback = False  # It would append lines to our one-line errors.

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            where = module_path(n) or type(self.module).__name__
            first_line = str(error).split("\n", 1)[0]
            raise SlimError(
                f"cannot run {n.op} {_target_name(n)!r} in module {where!r} on the example input: {first_line}; "
                "give an example_input of the network's own shape"
            ) from error
        n.meta[_VALUE] = result
        return result

    def call_module(self, target: fx.node.Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.module.get_submodule(str(target))
        if isinstance(module, nn.SyncBatchNorm):  # In a process group it would wait for the other ranks.
            x: Tensor = args[0]
            return x.new_empty((x.shape[0], module.num_features, *x.shape[2:]))
        return super().call_module(target, args, kwargs)


def _trace_mode(model: nn.Module, inputs: tuple[Tensor, ...], untraced: dict[type[nn.Module], str]) -> fx.Graph:
    """One mode's graph with its values; classes of modules that tracing cannot enter are added to `untraced`."""
    while True:
        tracer = _Tracer(untraced)
        try:
            graph = tracer.trace(model)
            break
        except Exception as error:
            path = tracer.inside[-1] if tracer.inside else ""
            kind = type(model.get_submodule(path))
            why = str(error).split("\n", 1)[0]
            if not path or kind is type(model):
                raise SlimError(
                    f"cannot trace module {path or 'the network'!r} ({kind.__name__}): {why}; "
                    "its forward must not branch on tensor values (torch.fx)"
                ) from error
            untraced[kind] = why
    with torch.no_grad():
        _Shapes(model, graph).run(*inputs, enable_io_processing=False)
    return graph


def _on_meta(x: Tensor) -> Tensor:
    x = torch.empty_like(x, device="meta")
    # BatchNorm on [n, c] refuses a batch of 1 in train mode.
    return x.repeat(2, *[1] * (x.dim() - 1)) if x.dim() and x.shape[0] == 1 else x


def _listing(graph: fx.Graph) -> str:
    """The graph's operations as text; `training` flags that reach dropout do not make another network."""
    lines = []
    for n in graph.nodes:
        kwargs = {key: value for key, value in n.kwargs.items() if key != "training"}
        lines.append(f"{n.name} {n.op} {_target_name(n)} {n.args} {kwargs}")
    return "\n".join(lines)


def _target_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", repr(node.target))


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # A weight that is itself a result of autograd.
        why = str(error).split("\n", 1)[0]
        raise SlimError(
            f"the network cannot be copied: {why}; remove_weight_norm and its kin make plain parameters of such weights"
        ) from error


def _sharing_modules(model: nn.Module) -> dict[str, str]:
    """Path of each module that shares a parameter with another -> the reason to keep it whole."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((path, f"{path}.{name}" if path else name))
    found: dict[str, str] = {}
    for sharing in owners.values():
        names = " and ".join(repr(name) for _, name in sharing)
        for path, _ in sharing if len(sharing) > 1 else ():
            found.setdefault(path, f"{names} are one tensor")
    return found
