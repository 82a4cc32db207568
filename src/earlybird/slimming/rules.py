"""Every operation that slimming follows: one table from module class, function or method name to its rule.

A rule takes the call and the `ChannelTable`, enters what the call reads, writes, ties or keeps, and returns the value
that flows on. Here stand the rules for what flows through channel by channel; `shape_rules.py` has those for shapes,
`layers.py` those of layers. What has no rule is never guessed: all that it reads stays whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import earlybird.slimming.shape_rules as shape
from earlybird.slimming.channels import Call, Channels, ChannelTable, Kept, Opaque, OwnTensor, Rule, Size, Unfollowed


def keeps_zero(call: Call, table: ChannelTable) -> Channels:
    """Element by element with f(0) = 0."""
    return replace(call.only_input(), shape=call.shape)


@shape.may_return_input
def passes_on(call: Call, table: ChannelTable) -> Channels:
    """The same values, often the very tensor: identity, dropout, conversions."""
    return keeps_zero(call, table)


def loses_zero(call: Call, table: ChannelTable) -> Channels:
    """Element by element with f(0) != 0."""
    x = call.only_input()
    _refuse_overwriting(call)
    return replace(x, zero=np.zeros_like(x.zero), shape=call.shape)


def clamp(call: Call, table: ChannelTable) -> Channels:
    """Zero stays zero where the range holds it."""
    low, high = call.argument(1, "min"), call.argument(2, "max")
    if isinstance(call.module, nn.Hardtanh):
        low, high = call.module.min_val, call.module.max_val
    elif call.operation == "hardtanh":
        low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    if not all(bound is None or isinstance(bound, (int, float)) for bound in (low, high)):
        raise Unfollowed("no rule for bounds that are no numbers")
    holds_zero = (low is None or low <= 0) and (high is None or high >= 0)
    return keeps_zero(call, table) if holds_zero else loses_zero(call, table)


def power(call: Call, table: ChannelTable) -> Channels:
    """Zero stays zero under a positive number as exponent."""
    x, exponent = call.argument(0, "input"), call.argument(1, "exponent")
    if not isinstance(x, Channels) or not isinstance(exponent, (int, float)):
        raise Unfollowed("no rule for an exponent that is no number")
    return keeps_zero(call, table) if exponent > 0 else loses_zero(call, table)


def pooling(call: Call, table: ChannelTable) -> Channels:
    """Over space, channel by channel: a zero channel stays zero."""
    x = call.only_input()
    if x.dim != 1 or len(x.shape) < 3:
        raise Unfollowed("the channels must lie on dimension 1, before the spatial ones")
    call.refuse_other_ranks(x)
    return replace(x, shape=call.shape)


def pad(call: Call, table: ChannelTable) -> Channels:
    """Around the channels only; a constant other than zero is no zero."""
    x, amounts = call.first_input(), call.argument(1, "pad")
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value", 0)
    if not isinstance(amounts, (tuple, list)):
        raise Unfollowed("no rule for these arguments")
    if len(amounts) // 2 >= len(x.shape) - x.dim:
        raise Unfollowed("no rule for padding the channels themselves")
    return keeps_zero(call, table) if mode != "constant" or not value else loses_zero(call, table)


def softmax(call: Call, table: ChannelTable) -> Channels:
    """Along the channels it needs all of them; along another dimension it merely loses zeros."""
    x = call.only_input()
    dim = call.module.dim if isinstance(call.module, (nn.Softmax, nn.LogSoftmax)) else call.argument(1, "dim")
    if dim is None or dim % len(x.shape) == x.dim:
        raise Unfollowed("it runs along the channels and needs the full width")
    return loses_zero(call, table)


def spatial_mean(call: Call, table: ChannelTable) -> Channels:
    """Mean or sum over dimensions around the channels; over the channels themselves it needs all of them."""
    x = call.only_input()
    dims = call.argument(1, "dim", None)
    dims = (dims,) if isinstance(dims, int) else dims or range(len(x.shape))  # None and () mean all of them.
    reduced = {dim % len(x.shape) for dim in call.numbers(*dims)}
    if x.dim in reduced:
        raise Unfollowed("it runs over the channels and needs the full width")
    keepdim = len(call.shape) == len(x.shape)
    return replace(x, dim=x.dim if keepdim else x.dim - sum(dim < x.dim for dim in reduced), shape=call.shape)


def _refuse_overwriting(call: Call) -> None:
    if call.mutates_live_value:
        raise Unfollowed("it overwrites a tensor that a later operation reads; make it out of place")


def _two_operands(call: Call, table: ChannelTable) -> tuple[Any, Any]:
    """Two tensors of equally many channels, or one and something that does not tell channels apart (None)."""
    _refuse_overwriting(call)
    a, b = call.argument(0, "input"), call.argument(1, "other")
    if isinstance(a, Channels) and isinstance(b, Channels):
        if a.dim != b.dim or len(a.shape) != len(b.shape):
            raise Unfollowed("its channels do not line up one to one")
        return _broadcast(call, table, a, b)
    if isinstance(a, Channels):
        return a, _uniform(call, table, a, b)
    if isinstance(b, Channels):
        return _uniform(call, table, b, a), b
    raise Unfollowed("it calculates with a channel count")


def _uniform(call: Call, table: ChannelTable, x: Channels, other: Any) -> int | float | None:
    """A number as it is; None for a tensor that is the same for all channels of `x`, or has a value for each."""
    if isinstance(other, Size) and other.ids is None:
        return other.value
    if isinstance(other, (int, float)):
        return other
    if isinstance(other, (Opaque, OwnTensor)) and len(other.shape) <= len(x.shape):
        place = x.dim - (len(x.shape) - len(other.shape))
        if place < 0 or other.shape[place] == 1:
            if isinstance(other, OwnTensor) and max(other.shape, default=1) > 1:
                why = f"{call.name} reads '{other.name}' across the channels"
                table.fixed.setdefault((other.path, other.name), why)
            return None
        is_overwritten = call.is_in_place and other is call.args[0]
        along = other.along if isinstance(other, OwnTensor) and not is_overwritten else None
        dim = along[place] if along else None
        if isinstance(other, OwnTensor) and dim is not None and other.shape[place] == len(x.ids):
            table.scaled_by(other.path, other.name, dim, x.ids)
            return None
        raise Unfollowed("no rule for an operand whose channels are not followed")
    raise Unfollowed(f"no rule for an operand that is a {type(other).__name__}")


def _broadcast(call: Call, table: ChannelTable, a: Channels, b: Channels) -> tuple[Channels, Channels]:
    if len(a.ids) == len(b.ids):
        return a, b
    wide, narrow = (a, b) if len(a.ids) > len(b.ids) else (b, a)
    if len(narrow.ids) != 1:
        raise Unfollowed("its channels do not line up one to one")
    table.keep(narrow.ids, f"{call.name} spreads it over all channels")
    spread = replace(narrow, ids=wide.ids, zero=np.zeros_like(wide.zero))
    return (wide, spread) if wide is a else (spread, wide)


def add(call: Call, table: ChannelTable) -> Channels:
    """Ties its operands channel by channel; under `select` it keeps them and starts a stream of full width instead."""
    a, b = _two_operands(call, table)
    if not isinstance(a, Channels) or not isinstance(b, Channels):
        return _with_uniform(call, a, b, zero_stays=0 in (a, b))
    reason = f"crosses an add ({call.name})"
    if table.breaks_ties:
        ids = table.fresh(call.key, len(a.ids))
        for each in (a.ids, b.ids, ids):
            table.keep(each, reason)
        return Channels(ids, np.zeros_like(a.zero), a.dim, call.shape, is_stream=True)
    table.tie(a.ids, b.ids)
    table.adds.append(Kept(a.ids, reason))
    normed = a.is_normed or b.is_normed
    return Channels(a.ids, a.zero & b.zero, a.dim, call.shape, is_stream=True, is_normed=normed)


def multiply(call: Call, table: ChannelTable) -> Channels:
    """Ties its operands; one zero factor is enough."""
    a, b = _two_operands(call, table)
    if not isinstance(a, Channels) or not isinstance(b, Channels):
        return _with_uniform(call, a, b, zero_stays=True)
    table.tie(a.ids, b.ids)
    return Channels(a.ids, a.zero | b.zero, a.dim, call.shape, is_normed=a.is_normed or b.is_normed)


def divide(call: Call, table: ChannelTable) -> Channels:
    """By what is the same for all channels."""
    a, b = _two_operands(call, table)
    if isinstance(b, Channels) or not isinstance(a, Channels):
        raise Unfollowed("no rule for dividing by a tensor")
    return _with_uniform(call, a, b, zero_stays=True)


def _with_uniform(call: Call, a: Any, b: Any, *, zero_stays: bool) -> Channels:
    x = a if isinstance(a, Channels) else b
    return replace(x, zero=x.zero & zero_stays, shape=call.shape)


def concatenate(call: Call, table: ChannelTable) -> Channels:
    """Along the channels: side by side. Along another dimension: tied."""
    parts, (dim,) = call.argument(0, "tensors"), call.numbers(call.argument(1, "dim", 0))
    if not isinstance(parts, (list, tuple)):
        raise Unfollowed("no rule for these arguments")
    tensors = [_followed(call, table, part, i, dim) for i, part in enumerate(parts)]
    first = tensors[0]
    if len({(x.dim, len(x.shape)) for x in tensors}) != 1:
        raise Unfollowed("its channels do not line up")
    if dim % len(first.shape) == first.dim:
        ids, zero = (np.concatenate([getattr(x, name) for x in tensors]) for name in ("ids", "zero"))
        return Channels(ids, zero, first.dim, call.shape, is_normed=any(x.is_normed for x in tensors))
    if len({len(x.ids) for x in tensors}) != 1:
        raise Unfollowed("its channels do not line up")
    for x in tensors[1:]:
        table.tie(first.ids, x.ids)
    return Channels(first.ids, np.logical_and.reduce([x.zero for x in tensors]), first.dim, call.shape)


def _followed(call: Call, table: ChannelTable, part: Any, position: int, dim: int) -> Channels:
    """A part of a concatenation; one that is not followed becomes channels that stay."""
    if isinstance(part, Channels):
        return part
    if not isinstance(part, Opaque):
        raise Unfollowed("no rule for these arguments")
    return unfollowed_channels(call, table, part, dim % len(part.shape), f"part{position}")


def unfollowed_channels(call: Call, table: ChannelTable, x: Opaque, dim: int, name: str) -> Channels:
    """The channels of a tensor that is not followed: all of them stay."""
    ids = table.fresh(f"{call.key}:{name}", x.shape[dim])
    table.keep(ids, x.why)
    return Channels(ids, np.zeros(len(ids), dtype=bool), dim, x.shape)


def created(call: Call, table: ChannelTable) -> Opaque:
    """A new tensor on the device of another one, which says nothing else of it."""
    return Opaque(call.shape, f"{call.name} made it at full width")


RULES: dict[type[nn.Module] | Callable[..., Any] | str, Rule] = {
    # Element by element, f(0) = 0.
    **dict.fromkeys([nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_", nn.ReLU6], keeps_zero),
    **dict.fromkeys([F.relu6, nn.LeakyReLU, F.leaky_relu, nn.RReLU, nn.ELU, F.elu, nn.CELU, F.celu], keeps_zero),
    **dict.fromkeys([nn.GELU, F.gelu, nn.SiLU, F.silu, nn.Mish, F.mish, nn.Hardswish, F.hardswish], keeps_zero),
    **dict.fromkeys([nn.Tanh, F.tanh, torch.tanh, "tanh", "tanh_", nn.Tanhshrink, F.tanhshrink], keeps_zero),
    **dict.fromkeys([nn.SELU, F.selu, nn.Softsign, F.softsign, nn.Hardshrink, nn.Softshrink], keeps_zero),
    **dict.fromkeys([torch.abs, operator.abs, "abs", torch.neg, operator.neg, "neg", torch.sin, torch.erf], keeps_zero),
    **dict.fromkeys([torch.sqrt, "sqrt", torch.square, "square", torch.clone, "clone"], keeps_zero),
    # The same values, often the very tensor.
    **dict.fromkeys([nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, torch.dropout], passes_on),
    **dict.fromkeys([F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, "stochastic_depth", "to", "type_as"], passes_on),
    **dict.fromkeys(["contiguous", "detach", "float", "half", "double", "bfloat16"], passes_on),
    # Element by element, f(0) != 0, or as the arguments say.
    **dict.fromkeys([nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_", torch.exp, "exp"], loses_zero),
    **dict.fromkeys([nn.Hardsigmoid, F.hardsigmoid, nn.LogSigmoid, F.logsigmoid, nn.Softplus, F.softplus], loses_zero),
    **dict.fromkeys([nn.Hardtanh, F.hardtanh, torch.clamp, "clamp", "clamp_"], clamp),
    **dict.fromkeys([operator.pow, torch.pow, "pow"], power),
    # Over space, or along one dimension.
    **dict.fromkeys([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d], pooling),
    **dict.fromkeys([torch.max_pool1d, torch.max_pool2d, torch.max_pool3d], pooling),
    **dict.fromkeys([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d], pooling),
    **dict.fromkeys([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], pooling),
    **dict.fromkeys([F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d], pooling),
    **dict.fromkeys([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], pooling),
    **dict.fromkeys([F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d], pooling),
    **dict.fromkeys([nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate, F.upsample], pooling),
    **dict.fromkeys([nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d], pooling),
    **dict.fromkeys([nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d], pooling),
    F.pad: pad,
    **dict.fromkeys([nn.Softmax, F.softmax, torch.softmax, "softmax"], softmax),
    **dict.fromkeys([nn.LogSoftmax, F.log_softmax, torch.log_softmax, "log_softmax"], softmax),
    **dict.fromkeys([torch.mean, "mean", torch.sum, "sum"], spatial_mean),
    # Several tensors.
    **dict.fromkeys([operator.add, operator.iadd, torch.add, "add", "add_"], add),
    **dict.fromkeys([operator.sub, operator.isub, torch.sub, "sub", "sub_"], add),
    **dict.fromkeys([operator.mul, operator.imul, torch.mul, "mul", "mul_"], multiply),
    **dict.fromkeys([operator.truediv, operator.itruediv, operator.floordiv, torch.div, "div", "div_"], divide),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], concatenate),
    # Shapes.
    **dict.fromkeys([nn.Flatten, torch.flatten, "flatten"], shape.flatten),
    **dict.fromkeys([torch.reshape, "reshape", "view"], shape.reshape),
    **dict.fromkeys(["reshape_as", "view_as"], shape.reshape_as),
    **dict.fromkeys([torch.permute, "permute"], shape.permute),
    **dict.fromkeys([torch.transpose, torch.swapaxes, "transpose", "swapaxes"], shape.transpose),
    "expand": shape.expand,
    "expand_as": shape.expand_as,
    **dict.fromkeys([torch.unsqueeze, "unsqueeze"], shape.unsqueeze),
    **dict.fromkeys([torch.squeeze, "squeeze"], shape.squeeze),
    **dict.fromkeys([torch.chunk, "chunk"], shape.chunk),
    **dict.fromkeys([torch.split, "split"], shape.split),
    **dict.fromkeys([nn.ChannelShuffle, F.channel_shuffle, torch.channel_shuffle], shape.channel_shuffle),
    operator.getitem: shape.item,
    # Facts about a tensor.
    getattr: shape.attribute,
    "size": shape.size,
    **dict.fromkeys(["dim", "ndimension", "is_floating_point"], shape.metadata),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty"], created),
}


def rule_of(target: Any) -> Rule | None:
    """Rule of a module class, a function or a method name; None where slimming has none."""
    if isinstance(target, type) and issubclass(target, tuple):
        return shape.named_tuple
    is_torchvisions = getattr(target, "__name__", "") == "stochastic_depth"  # Slimming does not import torchvision.
    return RULES.get("stochastic_depth" if is_torchvisions else target)
