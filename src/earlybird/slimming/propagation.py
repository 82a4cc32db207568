"""Propagation: every node of the traced graphs, in order, through its rule, into one `ChannelTable`.

An operation without a rule is not followed: all that it reads stays at full width, and what it gives is channels that
stay. Whatever it computes, the slim network then computes the same. The reason names module and operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from earlybird.slimming.aliasing import Aliasing, is_in_place
from earlybird.slimming.channel_table import ChannelIds, ChannelTable, Flags
from earlybird.slimming.flow_rules import add, divide, multiply, unfollowed_channels
from earlybird.slimming.layers import LayerKind, kind_of, layer_of
from earlybird.slimming.operands import Call, Channels, Opaque, OwnTensor, Size, Unfollowed, named, values_of
from earlybird.slimming.rules import rule_of
from earlybird.slimming.shape_propagation import module_path, traced_value
from earlybird.slimming.shape_rules import (
    WIDTHLESS_ATTRIBUTES,
    expand,
    item,
    part_of_own_size,
    reshape,
    view_of_own,
)
from earlybird.slimming.tracing import TracedNetwork


def propagate(
    network: TracedNetwork, *, gathering: dict[str, Flags], scattering: dict[str, Flags], breaks_ties: bool
) -> ChannelTable:
    """Channel table of a network.

    Two rounds: which conv or linear is a mask key itself (no norm follows any of some channel's class) is known only
    after the first, and decides in the second what is zero when masked.

    Args:
        network: traced graphs.
        gathering: norm name -> bool `[channels]`, the channels that norm gathers from its input.
        scattering: norm name -> bool `[channels]`, the channels that norm writes at full width.
        breaks_ties: whether adds keep their operands (residual policy `select`).
    """
    table = ChannelTable(gathering=gathering, scattering=scattering)
    _propagate_graphs(network, table, breaks_ties)
    table.keyed = _layers_without_norm(table)
    table.forget_findings()
    _propagate_graphs(network, table, breaks_ties)
    return table


def _layers_without_norm(table: ChannelTable) -> frozenset[str]:
    classes = table.classes()
    has_norm = np.zeros(table.size, dtype=bool)
    for name in table.norms:
        has_norm[classes[table.outputs[name]]] = True
    return frozenset(name for name in table.producers if not has_norm[classes[table.outputs[name]]].all())


def _propagate_graphs(network: TracedNetwork, table: ChannelTable, breaks_ties: bool) -> None:
    for path, reason in network.whole.items():
        table.keep_whole(path, reason)
    for mode, graph in network.graphs.items():
        values: dict[fx.Node, Any] = {}
        aliasing = Aliasing(graph)
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = _network_input(node, table, mode)
            elif node.op == "output":
                _give_out(fx.map_arg(node.args, values.__getitem__), table)
            elif node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                values[node] = _own_tensor(network.modules[path], path, name, tuple(traced_value(node).shape))
            else:
                values[node] = _applied(
                    _call_of(node, network, values, mode, breaks_ties, aliasing), node, network, table
                )


def _call_of(
    node: fx.Node, network: TracedNetwork, values: dict[fx.Node, Any], mode: str, breaks_ties: bool, aliasing: Aliasing
) -> Call:
    module = network.modules[str(node.target)] if node.op == "call_module" else None
    target = node.target if module is None else type(module)
    return Call(
        key=f"{mode}:{node.name}",
        where=module_path(node),
        target=target,
        args=fx.map_arg(node.args, values.__getitem__),
        kwargs=fx.map_arg(node.kwargs, values.__getitem__),
        result=traced_value(node),
        module=module,
        is_in_place=is_in_place(node, module),
        mutates_live_value=aliasing.overwrites_live_value(node, module, rule_of(target)),
        breaks_ties=breaks_ties,
    )


def _applied(call: Call, node: fx.Node, network: TracedNetwork, table: ChannelTable) -> Any:
    call, kind = layer_of(call, network.modules)
    if kind is not None:
        if node.op == "call_function":
            table.by_function.add(call.where)
        call = _with_channels(call, kind, table)
    elif (part := part_of_own_size(call)) is not None:
        return part
    elif (view := view_of_own(call)) is not None:
        return view
    elif not _counts_channels(call):
        if not (call.target is getattr and call.args[1] in WIDTHLESS_ATTRIBUTES):
            _keep_owners_whole(call, table, "its tensors are read by name")
        why = next((x.why for x in values_of(Opaque, [call.args, call.kwargs])), f"{named(call)} is not followed")
        _keep_inside_whole(call, network, table, why)
        return _as_value(call.result, why)
    rule = kind.rule if kind is not None else rule_of(call.target)
    try:
        if call.where in network.hooked and call.module is not None:
            raise Unfollowed(
                "a forward hook or a replaced forward of yours may change what it reads or gives; remove it to cut here"
            )
        if rule is None:
            entry = network.untraced.get(call.target)
            raise Unfollowed(f"tracing cannot enter it ({entry})" if entry else "slimming has no rule for it")
        if any(name in call.kwargs for name in ("axis", "out")):
            raise Unfollowed("no rule for the arguments 'axis' and 'out'")
        value = rule(call, table)
    except Unfollowed as refused:
        return _unfollowed(call, network, table, str(refused))
    _keep_owners_whole(call, table, "its tensors are read by name", is_unfollowed=rule not in (add, multiply, divide))
    if rule not in (reshape, expand) and not (rule is item and not isinstance(call.args[0], Channels)):
        for size in _counting_sizes(call):
            table.keep(size, f"{named(call)} takes its width as a number")
    return value


def _counts_channels(call: Call) -> bool:
    return bool(values_of(Channels, [call.args, call.kwargs]) or _counting_sizes(call))


def _counting_sizes(call: Call) -> list[ChannelIds]:
    return [size.ids for size in values_of(Size, [call.args, call.kwargs]) if size.ids is not None]


def _give_out(outputs: Any, table: ChannelTable) -> None:
    for x in values_of(Channels, outputs):
        table.keep(x.ids, "it is a network output")
    for size in values_of(Size, outputs):
        if size.ids is not None:
            table.keep(size.ids, "its width is a network output")
    for tensor in values_of(OwnTensor, outputs):
        table.keep_whole(tensor.path, "its tensor is a network output")


def _with_channels(call: Call, kind: LayerKind, table: ChannelTable) -> Call:
    """A layer that reads what is not followed reads channels that stay."""
    if len(call.args) != 1 or call.kwargs or not isinstance(call.args[0], Opaque):
        return call
    x = call.args[0]
    dim = kind.channel_dim % len(x.shape) if x.shape else 0
    return replace(call, args=(unfollowed_channels(call, table, x, dim, "input"),)) if dim < len(x.shape) else call


def _unfollowed(call: Call, network: TracedNetwork, table: ChannelTable, why: str) -> Any:
    reason = f"{named(call)} is not followed: {why}"
    for ids in [*(x.ids for x in values_of(Channels, [call.args, call.kwargs])), *_counting_sizes(call)]:
        table.keep(ids, reason)
    _keep_owners_whole(call, table, reason)
    _keep_inside_whole(call, network, table, reason)
    return _as_value(call.result, reason)


def _keep_inside_whole(call: Call, network: TracedNetwork, table: ChannelTable, reason: str) -> None:
    """Modules inside one that is not entered may be called from elsewhere too."""
    for module in call.module.modules() if call.module is not None else ():
        table.keep_whole(network.path_of[id(module)], reason)


def _own_tensor(module: nn.Module, path: str, name: str, shape: tuple[int, ...]) -> OwnTensor:
    is_layer = kind_of(module) is not None or type(module).__module__.startswith("torch.nn")
    is_free = name in module._parameters and not is_layer
    return OwnTensor(path, name, shape, tuple(range(len(shape))) if is_free else None)


def _keep_owners_whole(call: Call, table: ChannelTable, reason: str, *, is_unfollowed: bool = True) -> None:
    for tensor in values_of(OwnTensor, [call.args, call.kwargs]):
        why = f"{named(call)}: {reason}" if reason.startswith("its") else reason
        if tensor.along is not None:  # Of no layer: what else its module holds is not touched.
            if is_unfollowed or (tensor.path, tensor.name) not in table.own:
                table.fixed.setdefault((tensor.path, tensor.name), why)
        elif tensor.shape:  # Without it is a count, such as the batches that a norm has seen.
            table.keep_whole(tensor.path, why)


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
