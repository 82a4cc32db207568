"""Rules for layers with weights: conv, linear and norm. They read, write and mask channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from earlybird.slimming.calls import Call, Channels, only_input
from earlybird.slimming.select import SELECT_NORMS, Norm
from earlybird.slimming.slots import Flags, SlotBook, Slots


def _writes_fresh(call: Call, book: SlotBook, channels: int, dim: int) -> Channels:
    slots = book.fresh(call.where, channels)
    book.written_by(call.where, slots)
    zero = np.full(channels, call.where in book.keyed)
    return Channels(slots, zero, dim, call.shape)


def _weighted(call: Call) -> Any:
    module = call.module
    assert module is not None
    if module._parameters.get("weight") is None:
        raise call.refusal("its weight is not a plain parameter (a reparametrisation holds it); remove that first")
    return module


def conv(call: Call, book: SlotBook) -> Channels:
    """Full conv: reads every input channel, writes fresh ones. Depthwise: passes channels on, each `k` times."""
    module, x = _weighted(call), only_input(call)
    if x.dim != 1:
        raise call.refusal("the channels must lie on dimension 1")
    book.producers[call.where] = None
    book.read_by(call.where, x.slots)
    if module.groups == 1:
        book.reads(call.where, x.slots, x.zero)
        return _writes_fresh(call, book, module.out_channels, 1)
    if module.groups != module.in_channels:
        raise call.refusal(f"no rule yet for a grouped convolution ({module.groups} groups) that is not depthwise")
    multiplier = module.out_channels // module.groups
    slots: Slots = np.repeat(x.slots, multiplier)
    zero: Flags = np.repeat(x.zero, multiplier)
    book.written_by(call.where, slots)
    if call.where in book.keyed:
        zero = np.ones_like(zero)
    elif module.bias is not None:  # Nothing takes the bias out of a removed channel.
        zero = np.zeros_like(zero)
    return replace(x, slots=slots, zero=zero, shape=call.shape, is_stream=False)


def linear(call: Call, book: SlotBook) -> Channels:
    """Reads every input feature along the last dimension, writes fresh ones."""
    module, x = _weighted(call), only_input(call)
    if x.dim != len(x.shape) - 1:
        raise call.refusal("the channels must lie on the last dimension")
    book.producers[call.where] = None
    book.read_by(call.where, x.slots)
    book.reads(call.where, x.slots, x.zero)
    return _writes_fresh(call, book, module.out_features, x.dim)


def batch_norm(call: Call, book: SlotBook) -> Channels:
    """Passes channels on and masks them; a selecting one gathers: fresh channels out, its input at full width."""
    module, x = call.module, only_input(call)
    assert isinstance(module, Norm)
    if module.affine:
        _weighted(call)
    if x.dim != 1:
        raise call.refusal("the channels must lie on dimension 1")
    book.read_by(call.where, x.slots)
    if x.is_stream and call.where not in book.streams_into_norms:
        book.streams_into_norms.append(call.where)
    slots = _gathered(call, book, x)
    book.written_by(call.where, slots)
    if not module.affine:  # Nothing to mask by: in eval mode it turns a zero into -mean / std.
        return Channels(slots, np.zeros(len(slots), dtype=bool), 1, call.shape)
    book.masked_by(call.where, x.is_normed)
    return Channels(slots, np.ones(len(slots), dtype=bool), 1, call.shape, is_normed=True)


def _gathered(call: Call, book: SlotBook, x: Channels) -> Slots:
    reason = f"'{call.where}' gathers from it at full width"
    if isinstance(call.module, SELECT_NORMS):  # Cut once already: it may drop more, its input may not.
        book.pin(x.slots, reason)
        return book.fresh(call.where, call.module.num_features)
    selects = book.selecting.get(call.where)
    if selects is None:
        return x.slots
    book.pin(x.slots[selects], reason)
    return np.where(selects, book.fresh(call.where, len(selects)), x.slots)
