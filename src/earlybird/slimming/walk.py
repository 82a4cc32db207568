"""The walk: every node of the traced graphs, in order, through its rule, into one `SlotBook`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from earlybird.slimming.calls import Call, Channels, Rule, tensors_in
from earlybird.slimming.graph import TracedNetwork, module_path, shape_of
from earlybird.slimming.rules import FUNCTION_RULES, METHOD_RULES, MODULE_RULES
from earlybird.slimming.shape_rules import named_tuple
from earlybird.slimming.slots import Flags, SlotBook

_INPLACE_FUNCTIONS = frozenset({"iadd", "isub", "imul", "itruediv"})
# Operations whose output may be the very memory of their input.
_ALIASES = frozenset(
    {"Identity", "Dropout", "dropout", "Flatten", "flatten", "view", "reshape", "contiguous", "detach", "float"}
)


def walk(network: TracedNetwork, selecting: dict[str, Flags], *, breaks_ties: bool) -> SlotBook:
    """Ties, readings and pins of a network.

    Two rounds: which conv or linear is a mask key itself (no norm follows any of some channel's class) is known only
    after the first, and decides in the second what is zero when masked.

    Args:
        network: traced graphs.
        selecting: norm name -> bool `[channels]`, the channels that norm gathers.
        breaks_ties: whether adds pin their operands (residual policy `select`).

    Raises:
        SlimError: an operation without a rule, or one whose channels do not line up.
    """
    book = SlotBook(selecting=selecting)
    _walk_graphs(network, book, breaks_ties)
    book.keyed = _layers_without_norm(book)
    book.forget_findings()
    _walk_graphs(network, book, breaks_ties)
    return book


def _layers_without_norm(book: SlotBook) -> frozenset[str]:
    classes = book.classes()
    has_norm = np.zeros(book.size, dtype=bool)
    for name in book.norms:
        has_norm[classes[book.outputs[name]]] = True
    return frozenset(name for name in book.producers if not has_norm[classes[book.outputs[name]]].all())


def _walk_graphs(network: TracedNetwork, book: SlotBook, breaks_ties: bool) -> None:
    for mode, graph in network.graphs.items():
        values: dict[fx.Node, Any] = {}
        memory = _Memory(graph)
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = _network_input(node, book, mode)
            elif node.op == "output":
                for x in tensors_in(_filled(node.args, values)):
                    book.pin(x.slots, "it is a network output")
            elif node.op == "get_attr":
                values[node] = shape_of(node)  # No rule takes it: an operation that reads it is refused.
            else:
                values[node] = _applied(node, network, values, book, mode, breaks_ties, memory)


def _applied(
    node: fx.Node,
    network: TracedNetwork,
    values: dict[fx.Node, Any],
    book: SlotBook,
    mode: str,
    breaks_ties: bool,
    memory: _Memory,
) -> Any:
    module = network.modules[str(node.target)] if node.op == "call_module" else None
    call = Call(
        key=f"{mode}:{node.name}",
        where=module_path(node),
        operation=_operation(node, network),
        args=_filled(node.args, values),
        kwargs=_filled(node.kwargs, values),
        shape=shape_of(node),
        module=module,
        mutates_live_value=memory.overwrites_live_value(node, module),
        breaks_ties=breaks_ties,
    )
    rule = _rule_of(node, network)
    if rule is None:
        raise call.refusal("slimming has no rule for it yet; it is refused rather than guessed")
    if any(name in call.kwargs for name in ("axis", "out")):
        raise call.refusal("no rule for the arguments 'axis' and 'out'; use 'dim' and the returned value")
    return rule(call, book)


def _rule_of(node: fx.Node, network: TracedNetwork) -> Rule | None:
    if node.op == "call_module":
        return MODULE_RULES.get(type(network.modules[str(node.target)]))
    if node.op == "call_method":
        return METHOD_RULES.get(str(node.target))
    if isinstance(node.target, type) and issubclass(node.target, tuple):
        return named_tuple
    return FUNCTION_RULES.get(node.target) if callable(node.target) else None


def _operation(node: fx.Node, network: TracedNetwork) -> str:
    if node.op == "call_module":
        return type(network.modules[str(node.target)]).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _network_input(node: fx.Node, book: SlotBook, mode: str) -> Any:
    shape = shape_of(node)
    if not isinstance(shape, tuple) or len(shape) < 2:
        return shape
    slots = book.fresh(f"{mode}:{node.name}", shape[1])
    book.pin(slots, "it is a network input")
    return Channels(slots, np.zeros(shape[1], dtype=bool), 1, shape)


def _filled(arguments: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(arguments, fx.Node):
        return values[arguments]
    if isinstance(arguments, (tuple, list)):
        return tuple(_filled(each, values) for each in arguments)
    if isinstance(arguments, dict):
        return {key: _filled(each, values) for key, each in arguments.items()}
    if isinstance(arguments, slice):
        return slice(*(_filled(each, values) for each in (arguments.start, arguments.stop, arguments.step)))
    return arguments


class _Memory:
    """Which nodes may be one tensor in memory: an in-place operation changes every name of it."""

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.owner: dict[fx.Node, fx.Node] = {}
        self.names: dict[fx.Node, list[fx.Node]] = {}

    def overwrites_live_value(self, node: fx.Node, module: Any) -> bool:
        """Whether `node` writes into a tensor that another name of it shows to a later operation."""
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        inplace = self._is_inplace(node, module)
        kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        owner = self.owner.get(source, source) if source is not None and (inplace or kind in _ALIASES) else node
        owner = node if owner is None else owner
        self.owner[node] = owner
        earlier = self.names.setdefault(owner, [owner])
        late_reads = (user for name in earlier for user in name.users if self.order[user] > self.order[node])
        result = inplace and any(True for _ in late_reads)
        earlier.append(node)
        return result

    def _is_inplace(self, node: fx.Node, module: Any) -> bool:
        if module is not None:
            return bool(getattr(module, "inplace", False))
        name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
        return bool(node.kwargs.get("inplace")) or name in _INPLACE_FUNCTIONS or (name.endswith("_") and name[0] != "_")
