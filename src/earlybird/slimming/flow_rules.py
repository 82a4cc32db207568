"""Rules for what flows through channel by channel: activations, pooling, dropout, arithmetic, concatenation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from earlybird.slimming.aliasing import may_return_input
from earlybird.slimming.channel_table import ChannelTable, Kept
from earlybird.slimming.operands import (
    Call,
    Channels,
    Opaque,
    OwnTensor,
    Size,
    Unfollowed,
    first_input,
    named,
    numbers,
    only_input,
    refuse_other_ranks,
)


def keeps_zero(call: Call, table: ChannelTable) -> Channels:
    """Element by element with f(0) = 0."""
    return replace(only_input(call), shape=call.shape)


@may_return_input
def passes_on(call: Call, table: ChannelTable) -> Channels:
    """The same values, often the very tensor: identity, dropout, conversions."""
    return keeps_zero(call, table)


def loses_zero(call: Call, table: ChannelTable) -> Channels:
    """Element by element with f(0) != 0."""
    x = only_input(call)
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
    x = only_input(call)
    if x.dim != 1 or len(x.shape) < 3:
        raise Unfollowed("the channels must lie on dimension 1, before the spatial ones")
    refuse_other_ranks(call, x)
    return replace(x, shape=call.shape)


def pad(call: Call, table: ChannelTable) -> Channels:
    """Around the channels only; a constant other than zero is no zero."""
    x, amounts = first_input(call), call.argument(1, "pad")
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value", 0)
    if not isinstance(amounts, (tuple, list)):
        raise Unfollowed("no rule for these arguments")
    if len(amounts) // 2 >= len(x.shape) - x.dim:
        raise Unfollowed("no rule for padding the channels themselves")
    return keeps_zero(call, table) if mode != "constant" or not value else loses_zero(call, table)


def softmax(call: Call, table: ChannelTable) -> Channels:
    """Along the channels it needs all of them; along another dimension it merely loses zeros."""
    x = only_input(call)
    dim = call.module.dim if isinstance(call.module, (nn.Softmax, nn.LogSoftmax)) else call.argument(1, "dim")
    if dim is None or dim % len(x.shape) == x.dim:
        raise Unfollowed("it runs along the channels and needs the full width")
    return loses_zero(call, table)


def spatial_mean(call: Call, table: ChannelTable) -> Channels:
    """Mean or sum over dimensions around the channels; over the channels themselves it needs all of them."""
    x = only_input(call)
    dims = call.argument(1, "dim", None)
    dims = (dims,) if isinstance(dims, int) else dims or range(len(x.shape))  # None and () mean all of them.
    reduced = {dim % len(x.shape) for dim in numbers(*dims)}
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
                table.fixed.setdefault(
                    (other.path, other.name), f"{named(call)} reads '{other.name}' across the channels"
                )
            return None
        dim = _own_dim(call, other, place)
        if isinstance(other, OwnTensor) and dim is not None and other.shape[place] == len(x.ids):
            table.scaled_by(other.path, other.name, dim, x.ids)
            return None
        raise Unfollowed("no rule for an operand whose channels are not followed")
    raise Unfollowed(f"no rule for an operand that is a {type(other).__name__}")


def _own_dim(call: Call, tensor: Any, place: int) -> int | None:
    """The dimension to narrow of a parameter that is multiplied or added; None where it must stay as it is."""
    if not isinstance(tensor, OwnTensor) or tensor.along is None:
        return None
    return None if call.is_in_place and tensor is call.args[0] else tensor.along[place]


def _broadcast(call: Call, table: ChannelTable, a: Channels, b: Channels) -> tuple[Channels, Channels]:
    if len(a.ids) == len(b.ids):
        return a, b
    wide, narrow = (a, b) if len(a.ids) > len(b.ids) else (b, a)
    if len(narrow.ids) != 1:
        raise Unfollowed("its channels do not line up one to one")
    table.keep(narrow.ids, f"{named(call)} spreads it over all channels")
    spread = replace(narrow, ids=wide.ids, zero=np.zeros_like(wide.zero))
    return (wide, spread) if wide is a else (spread, wide)


def add(call: Call, table: ChannelTable) -> Channels:
    """Ties its operands channel by channel; under `select` it keeps them and starts a stream of full width instead."""
    a, b = _two_operands(call, table)
    if not isinstance(a, Channels) or not isinstance(b, Channels):
        return _with_uniform(call, a, b, zero_stays=0 in (a, b))
    reason = f"crosses an add ({named(call)})"
    if call.breaks_ties:
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
    parts, (dim,) = call.argument(0, "tensors"), numbers(call.argument(1, "dim", 0))
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
