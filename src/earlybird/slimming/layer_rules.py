"""Rules for layers with tensors of their own: conv, linear, norm, PReLU. They read, write and mask channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from earlybird.slimming.calls import Call, Channels, Unfollowed, only_input, refuse_other_ranks
from earlybird.slimming.select import GATHERING_NORMS, SCATTERING_NORMS, Norm
from earlybird.slimming.slots import Flags, SlotBook, Slots


def conv(call: Call, book: SlotBook) -> Channels:
    """Full conv: reads every input channel, writes fresh ones. Depthwise: passes channels on, each `k` times."""
    module, x = _weighted(call), _input_on(call, 1)
    refuse_other_ranks(call, x)
    if 1 < module.groups < module.in_channels:
        return _grouped_conv(call, book, module, x)
    if module.groups == 1:
        return _dense(call, book, x, module.out_channels)
    book.producers[call.where] = None
    book.read_by(call.where, x.slots)
    multiplier = module.out_channels // module.groups
    slots: Slots = np.repeat(x.slots, multiplier)
    zero: Flags = np.repeat(x.zero, multiplier)
    book.written_by(call.where, slots)
    if call.where in book.keyed:
        zero = np.ones_like(zero)
    elif module.bias is not None:  # Nothing takes the bias out of a removed channel.
        zero = np.zeros_like(zero)
    return replace(x, slots=slots, zero=zero, shape=call.shape, is_stream=False)


def _grouped_conv(call: Call, book: SlotBook, module: Any, x: Channels) -> Channels:
    """One weight holds all groups side by side, so each group loses the same places, of inputs and of outputs."""
    _tie_across(book, x.slots, module.groups)
    result = _dense(call, book, x, module.out_channels)
    _tie_across(book, result.slots, module.groups)
    return result


def _tie_across(book: SlotBook, slots: Slots, groups: int) -> None:
    places = slots.reshape(groups, -1)
    book.tie(np.tile(places[0], groups - 1), places[1:].reshape(-1))


def transposed_conv(call: Call, book: SlotBook) -> Channels:
    """As a full conv."""
    module, x = _weighted(call), _input_on(call, 1)
    refuse_other_ranks(call, x)
    if module.groups != 1:
        raise Unfollowed("no rule for a grouped transposed convolution")
    return _dense(call, book, x, module.out_channels)


def linear(call: Call, book: SlotBook) -> Channels:
    """Reads every input feature along the last dimension, writes fresh ones."""
    module, x = _weighted(call), only_input(call)
    if x.dim != len(x.shape) - 1:
        raise Unfollowed("the channels must lie on the last dimension")
    return _dense(call, book, x, module.out_features)


def _dense(call: Call, book: SlotBook, x: Channels, width: int) -> Channels:
    book.producers[call.where] = None
    book.read_by(call.where, x.slots)
    book.reads(call.where, x.slots, x.zero)
    slots = book.fresh(call.where, width)
    book.written_by(call.where, slots)
    return Channels(slots, np.full(width, call.where in book.keyed), x.dim, call.shape)


def batch_norm(call: Call, book: SlotBook) -> Channels:
    """Passes channels on and masks them; a selecting one gathers from its input, or writes at full width."""
    module = call.module
    assert isinstance(module, Norm)
    if module.affine:
        _weighted(call)
    x = _input_on(call, 1)
    book.read_by(call.where, x.slots)
    if x.is_stream and call.where not in book.streams_into_norms:
        book.streams_into_norms.append(call.where)
    slots = _gathered(call, book, x)
    book.written_by(call.where, slots)
    slots = _scattered(call, book, slots)
    if not module.affine:  # Nothing to mask by: in eval mode it turns a zero into -mean / std.
        return Channels(slots, np.zeros(len(slots), dtype=bool), 1, call.shape)
    book.masked_by(call.where, x.is_normed)
    return Channels(slots, np.ones(len(slots), dtype=bool), 1, call.shape, is_normed=True)


def _gathered(call: Call, book: SlotBook, x: Channels) -> Slots:
    reason = f"'{call.where}' gathers from it at full width"
    if isinstance(call.module, GATHERING_NORMS):  # Cut once already: it may drop more, its input may not.
        book.pin(x.slots, reason)
        return book.fresh(call.where, call.module.num_features)
    selects = book.gathering.get(call.where)
    if selects is None:
        return x.slots
    book.pin(x.slots[selects], reason)
    return np.where(selects, book.fresh(call.where, len(selects)), x.slots)


def _scattered(call: Call, book: SlotBook, slots: Slots) -> Slots:
    reason = f"'{call.where}' writes it at full width"
    if isinstance(call.module, SCATTERING_NORMS):
        wide = book.fresh(f"{call.where}:wide", call.module.width)
        book.pin(wide, reason)
        return wide
    scatters = book.scattering.get(call.where)
    if scatters is None:
        return slots
    wide = book.fresh(f"{call.where}:wide", len(scatters))
    book.pin(wide[scatters], reason)
    book.wide[call.where] = np.where(scatters, wide, slots)
    return book.wide[call.where]


def channelwise(call: Call, book: SlotBook) -> Channels:
    """PReLU with a slope for each channel, instance norm without a shift: narrowed with what flows through."""
    x = _input_on(call, 1)
    book.read_by(call.where, x.slots)
    book.written_by(call.where, x.slots)
    return replace(x, shape=call.shape)


def prelu(call: Call, book: SlotBook) -> Channels:
    """One slope for all is an activation; one for each channel is narrowed."""
    module = _weighted(call)
    return channelwise(call, book) if module.num_parameters > 1 else replace(only_input(call), shape=call.shape)


def instance_norm(call: Call, book: SlotBook) -> Channels:
    """Over space within each channel: a zero channel stays zero unless something shifts it."""
    module: Any = call.module
    if module.affine or module.track_running_stats:
        raise Unfollowed("its shift makes a zero channel something else")
    refuse_other_ranks(call, _input_on(call, 1))
    return channelwise(call, book)


def _weighted(call: Call) -> Any:
    module = call.module
    assert module is not None
    if module._parameters.get("weight") is None:
        raise Unfollowed("its weight is not a plain parameter (a reparametrisation holds it)")
    if getattr(module, "bias", None) is not None and module._parameters.get("bias") is None:
        raise Unfollowed("its bias is not a plain parameter (a reparametrisation holds it)")
    return module


def _input_on(call: Call, dim: int) -> Channels:
    x = only_input(call)
    if x.dim != dim:
        raise Unfollowed(f"the channels must lie on dimension {dim}")
    return x
