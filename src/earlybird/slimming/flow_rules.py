"""Rules for what flows through channel by channel: activations, pooling, dropout, arithmetic, concatenation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from earlybird.slimming.calls import Call, Channels, Size, named, only_input, tensors_in, width_mismatch
from earlybird.slimming.slots import Pin, SlotBook


def keeps_zero(call: Call, book: SlotBook) -> Channels:
    """Element by element with f(0) = 0."""
    return replace(only_input(call), shape=call.shape)


def loses_zero(call: Call, book: SlotBook) -> Channels:
    """Element by element with f(0) != 0."""
    x = only_input(call)
    if call.mutates_live_value:
        raise call.refusal("it overwrites a tensor that a later operation reads; make it out of place")
    return replace(x, zero=np.zeros_like(x.zero), shape=call.shape)


def pooling(call: Call, book: SlotBook) -> Channels:
    """Over space, channel by channel: a zero channel stays zero."""
    x = only_input(call)
    if x.dim != 1 or len(x.shape) < 3:
        raise call.refusal("the channels must lie on dimension 1, before the spatial ones")
    return replace(x, shape=call.shape)


def softmax(call: Call, book: SlotBook) -> Channels:
    """Along the channels it needs all of them; along another dimension it merely loses zeros."""
    x = only_input(call)
    dim = call.module.dim if isinstance(call.module, (nn.Softmax, nn.LogSoftmax)) else call.argument(1, "dim")
    if dim is None or dim % len(x.shape) == x.dim:
        book.pin(x.slots, f"{named(call)} runs along it and needs the full width")
    return loses_zero(call, book)


def spatial_mean(call: Call, book: SlotBook) -> Channels:
    """Mean or sum over dimensions behind the channels; over the channels themselves it needs all of them."""
    x = only_input(call)
    dims = call.argument(1, "dim", None)
    dims = range(len(x.shape)) if dims is None else (dims,) if isinstance(dims, int) else dims
    reduced = {dim % len(x.shape) for dim in dims}
    if x.dim in reduced or 0 in reduced:
        raise call.refusal("no rule yet for a mean or sum over the batch or the channels")
    keepdim = len(call.shape) == len(x.shape)
    return replace(x, dim=x.dim if keepdim else x.dim - sum(dim < x.dim for dim in reduced), shape=call.shape)


def _two_operands(call: Call) -> tuple[Any, Any]:
    if call.mutates_live_value:
        raise call.refusal("it overwrites a tensor that a later operation reads; make it out of place")
    a, b = call.argument(0, "input"), call.argument(1, "other")
    for other in (a, b):
        if not isinstance(other, (Channels, Size, int, float)):
            raise call.refusal(f"no rule for an operand that is a {type(other).__name__}")
    if isinstance(a, Channels) and isinstance(b, Channels):
        if a.dim != b.dim or len(a.shape) != len(b.shape) or len(a.slots) != len(b.slots):
            raise width_mismatch(call)
    else:
        for size in (a, b):
            if isinstance(size, Size) and size.slots is not None:
                raise call.refusal("no rule for arithmetic with a channel count")
    return a, b


def add(call: Call, book: SlotBook) -> Channels | Size:
    """Ties its operands channel by channel; under `select` it pins them and starts a stream of full width instead."""
    a, b = _two_operands(call)
    if not isinstance(a, Channels) or not isinstance(b, Channels):
        return _with_number(call, a, b, zero_stays=(b if isinstance(a, Channels) else a) == 0)
    reason = f"crosses an add ({named(call)})"
    if call.breaks_ties:
        slots = book.fresh(call.key, len(a.slots))
        for each in (a.slots, b.slots, slots):
            book.pin(each, reason)
        return Channels(slots, np.zeros_like(a.zero), a.dim, call.shape, is_stream=True)
    book.tie(a.slots, b.slots)
    book.adds.append(Pin(a.slots, reason))
    normed = a.is_normed or b.is_normed
    return Channels(a.slots, a.zero & b.zero, a.dim, call.shape, is_stream=True, is_normed=normed)


def multiply(call: Call, book: SlotBook) -> Channels | Size:
    """Ties its operands; one zero factor is enough."""
    a, b = _two_operands(call)
    if not isinstance(a, Channels) or not isinstance(b, Channels):
        return _with_number(call, a, b, zero_stays=True)
    book.tie(a.slots, b.slots)
    return Channels(a.slots, a.zero | b.zero, a.dim, call.shape, is_normed=a.is_normed or b.is_normed)


def divide(call: Call, book: SlotBook) -> Channels | Size:
    """By a number only."""
    a, b = _two_operands(call)
    if isinstance(b, Channels):
        raise call.refusal("no rule for dividing by a tensor")
    return _with_number(call, a, b, zero_stays=True)


def _with_number(call: Call, a: Any, b: Any, *, zero_stays: bool) -> Channels | Size:
    x = a if isinstance(a, Channels) else b
    if isinstance(x, Channels):
        return replace(x, zero=x.zero & zero_stays, shape=call.shape)
    return Size(call.shape)  # Plain arithmetic on sizes that count no channel.


def concatenate(call: Call, book: SlotBook) -> Channels:
    """Along the channels: side by side. Along another dimension: tied."""
    parts, dim = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    tensors = tensors_in(parts)
    if not isinstance(parts, (list, tuple)) or len(tensors) != len(parts) or len({x.dim for x in tensors}) != 1:
        raise width_mismatch(call)
    first = tensors[0]
    if dim % len(first.shape) == first.dim:
        slots, zero = (np.concatenate([getattr(x, name) for x in tensors]) for name in ("slots", "zero"))
        return Channels(slots, zero, first.dim, call.shape, is_normed=any(x.is_normed for x in tensors))
    for x in tensors[1:]:
        book.tie(first.slots, x.slots)
    return Channels(first.slots, np.logical_and.reduce([x.zero for x in tensors]), first.dim, call.shape)
