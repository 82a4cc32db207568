"""Propagation: every node of the traced graphs, in order, through its rule, into one `ChannelTable`.

An operation without a rule is not followed: all that it reads stays at full width, and what it gives is channels that
stay. Whatever it computes, the slim network then computes the same. The reason names module and operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from earlybird.slimming.channels import Call, Channels, ChannelTable, Opaque, OwnTensor, Size, Unfollowed, values_of
from earlybird.slimming.layers import LayerKind, kind_of, layer_of
from earlybird.slimming.rules import add, divide, multiply, rule_of, unfollowed_channels
from earlybird.slimming.shape_rules import WIDTHLESS_ATTRIBUTES, expand, item, part_of_own_size, reshape, view_of_own
from earlybird.slimming.tracer import IN_PLACE_OPERATORS, module_path, traced_value
from earlybird.slimming.tracing import REMOVE_HOOK, TracedNetwork


def propagate_(network: TracedNetwork, table: ChannelTable) -> None:
    """Enter all channels of a network into a new table.

    Two rounds: which conv or linear is a mask key itself (no norm follows any of some channel's class) is known only
    after the first, and decides in the second what is zero when masked. Ids and ties stay, the rest is found again.
    """
    _propagate_graphs(network, table)
    classes, has_norm = table.classes(), np.zeros(table.size, dtype=bool)
    for name in table.norms:
        has_norm[classes[table.outputs[name]]] = True
    table.keyed = frozenset(name for name in table.producers if not has_norm[classes[table.outputs[name]]].all())
    for found in (table.readings, table.kept, table.adds, table.streams_into_norms):
        found.clear()
    _propagate_graphs(network, table)


def _propagate_graphs(network: TracedNetwork, table: ChannelTable) -> None:
    for path, reason in network.whole.items():
        table.whole.setdefault(path, reason)
    for mode, graph in network.graphs.items():
        values: dict[fx.Node, Any] = {}
        aliasing = Aliasing(graph)
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = _network_input(node, table, mode)
            elif node.op == "output":
                outputs = fx.map_arg(node.args, values.__getitem__)
                for x in values_of(Channels, outputs):
                    table.keep(x.ids, "it is a network output")
                for size in values_of(Size, outputs):
                    if size.ids is not None:
                        table.keep(size.ids, "its width is a network output")
                for tensor in values_of(OwnTensor, outputs):
                    table.whole.setdefault(tensor.path, "its tensor is a network output")
            elif node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                module, shape = network.modules[path], tuple(traced_value(node).shape)
                is_layer = kind_of(module) is not None or type(module).__module__.startswith("torch.nn")
                is_free = name in module._parameters and not is_layer
                values[node] = OwnTensor(path, name, shape, tuple(range(len(shape))) if is_free else None)
            else:
                values[node] = _applied(_call_of(node, network, values, mode, aliasing), node, network, table)


def _call_of(node: fx.Node, network: TracedNetwork, values: dict[fx.Node, Any], mode: str, aliasing: Aliasing) -> Call:
    module = network.modules[str(node.target)] if node.op == "call_module" else None
    target = node.target if module is None else type(module)
    may_return_input = getattr(rule_of(target), "may_return_input", False)
    return Call(
        key=f"{mode}:{node.name}",
        where=module_path(node),
        target=target,
        args=fx.map_arg(node.args, values.__getitem__),
        kwargs=fx.map_arg(node.kwargs, values.__getitem__),
        result=traced_value(node),
        module=module,
        is_in_place=is_in_place(node, module),
        mutates_live_value=aliasing.overwrites_live_value(node, module, may_return_input),
    )


def _applied(call: Call, node: fx.Node, network: TracedNetwork, table: ChannelTable) -> Any:
    call, kind = layer_of(call, network.modules)
    read_by_name = f"{call.name}: its tensors are read by name"
    if kind is not None:
        if node.op == "call_function":
            table.by_function.add(call.where)
        call = _with_channels(call, kind, table)
    elif (part := part_of_own_size(call)) is not None:
        return part
    elif (view := view_of_own(call)) is not None:
        return view
    elif not call.values_of(Channels) and not call.counted():
        if not (call.target is getattr and call.args[1] in WIDTHLESS_ATTRIBUTES):
            _keep_owners_whole(call, table, read_by_name)
        why = next((x.why for x in call.values_of(Opaque)), f"{call.name} is not followed")
        _keep_inside_whole(call, network, table, why)
        return _as_value(call.result, why)
    rule = kind.rule if kind is not None else rule_of(call.target)
    try:
        if call.where in network.hooked and call.module is not None:
            raise Unfollowed(f"{network.hooked[call.where]}; {REMOVE_HOOK}")
        if rule is None:
            entry = network.untraced.get(call.target)
            raise Unfollowed(f"tracing cannot enter it ({entry})" if entry else "slimming has no rule for it")
        if any(name in call.kwargs for name in ("axis", "out")):
            raise Unfollowed("no rule for the arguments 'axis' and 'out'")
        value = rule(call, table)
    except Unfollowed as refused:
        return _unfollowed(call, network, table, str(refused))
    _keep_owners_whole(call, table, read_by_name, is_unfollowed=rule not in (add, multiply, divide))
    if rule not in (reshape, expand) and not (rule is item and not isinstance(call.args[0], Channels)):
        for ids in call.counted():
            table.keep(ids, f"{call.name} takes its width as a number")
    return value


def _with_channels(call: Call, kind: LayerKind, table: ChannelTable) -> Call:
    """A layer that reads what is not followed reads channels that stay."""
    if len(call.args) != 1 or call.kwargs or not isinstance(call.args[0], Opaque):
        return call
    x = call.args[0]
    dim = kind.channel_dim % len(x.shape) if x.shape else 0
    return replace(call, args=(unfollowed_channels(call, table, x, dim, "input"),)) if dim < len(x.shape) else call


def _unfollowed(call: Call, network: TracedNetwork, table: ChannelTable, why: str) -> Any:
    reason = f"{call.name} is not followed: {why}"
    for ids in [*(x.ids for x in call.values_of(Channels)), *call.counted()]:
        table.keep(ids, reason)
    _keep_owners_whole(call, table, reason)
    _keep_inside_whole(call, network, table, reason)
    return _as_value(call.result, reason)


def _keep_inside_whole(call: Call, network: TracedNetwork, table: ChannelTable, reason: str) -> None:
    """Modules inside one that is not entered may be called from elsewhere too."""
    for module in call.module.modules() if call.module is not None else ():
        table.whole.setdefault(network.path_of[id(module)], reason)


def _keep_owners_whole(call: Call, table: ChannelTable, reason: str, *, is_unfollowed: bool = True) -> None:
    for tensor in call.values_of(OwnTensor):
        if tensor.along is not None:  # Of no layer: what else its module holds is not touched.
            if is_unfollowed or (tensor.path, tensor.name) not in table.own:
                table.fixed.setdefault((tensor.path, tensor.name), reason)
        elif tensor.shape:  # Without it is a count, such as the batches that a norm has seen.
            table.whole.setdefault(tensor.path, reason)


def _as_value(result: Any, why: str) -> Any:
    """Result of an operation, its tensors as values that are not followed."""
    if isinstance(result, Tensor):
        return Opaque(tuple(result.shape), why)
    if isinstance(result, Mapping):
        return {key: _as_value(each, why) for key, each in result.items()}
    if isinstance(result, (list, tuple)):
        return tuple(_as_value(each, why) for each in result)
    return result


def _network_input(node: fx.Node, table: ChannelTable, mode: str) -> Any:
    value = traced_value(node)
    if not isinstance(value, Tensor) or value.dim() < 2:
        return _as_value(value, "it is a network input")
    ids = table.fresh(f"{mode}:{node.name}", value.shape[1])
    table.keep(ids, "it is a network input")
    return Channels(ids, np.zeros(len(ids), dtype=bool), 1, tuple(value.shape))


class Aliasing:
    """Nodes of a graph that may be one tensor in memory, node by node: an in-place operation changes every name of it.

    That an operation may return its input, or a view of it, is read from torch's schema of the operation. Where the
    schema hides it (`dropout` in eval mode), or there is none, the operation's rule says it: `may_return_input`.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._owners: dict[fx.Node, set[fx.Node]] = {}
        self._names: dict[fx.Node, list[fx.Node]] = {}

    def owners(self, node: fx.Node) -> set[fx.Node]:
        """Earlier nodes whose memory `node` may be; itself where it made its own."""
        return self._owners.get(node, {node})

    def overwrites_live_value(self, node: fx.Node, module: nn.Module | None, may_return_input: bool) -> bool:
        """Enter the next node; whether it writes into a tensor that another name shows to a later operation."""
        owners: set[fx.Node] = set()
        in_place = is_in_place(node, module)
        if in_place or may_return_input or _is_view(_operation_name(node, module)):
            # Of its first argument; of several tensors where that is a tuple.
            first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensor"))
            fx.map_arg(first, lambda source: owners.update(self.owners(source)) or source)  # type: ignore[func-returns-value]
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


def _operation_name(node: fx.Node, module: nn.Module | None) -> str:
    """As torch's schemas spell it: `nn.Flatten` is `flatten`."""
    if module is not None:
        return type(module).__name__.lower()
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


@cache
def _is_view(operation: str) -> bool:
    """True if torch's schema says of some overload that what it returns may be memory of an argument."""
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{operation}")
    aliases: list[Any] = [result.alias_info for schema in schemas for result in schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)
