"""Rules for shapes: flattening, and numbers read from a shape.

A number that counts channels remembers which, so that a reshape that follows the width is told from one that fixes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from earlybird.slimming.calls import Call, Channels, Size, named, only_input
from earlybird.slimming.slots import SlotBook


def flatten(call: Call, book: SlotBook) -> Channels:
    """Space into the channels (`[n, c, h, w]` to `[n, c*h*w]`), or space by itself."""
    return _reshaped(call, only_input(call))


def reshape(call: Call, book: SlotBook) -> Channels:
    """`view` and `reshape` where they flatten; with the width written as a number the channels are pinned to it."""
    x = call.argument(0, "input")
    if not isinstance(x, Channels):
        raise call.refusal("no rule for these arguments")
    sizes = call.args[1:] if len(call.args) > 1 else (call.kwargs.get("shape", ()),)
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    result = _reshaped(call, x)
    if not _follows_width(x, sizes):
        book.pin(x.slots, f"{named(call)} fixes its width by a number")
    return result


def _reshaped(call: Call, x: Channels) -> Channels:
    before, after = x.shape, tuple(call.shape)
    if before == after:
        return x
    if x.dim == 1 and after == (before[0], int(np.prod(before[1:]))):
        positions = int(np.prod(before[2:]))
        return replace(x, slots=np.repeat(x.slots, positions), zero=np.repeat(x.zero, positions), shape=after)
    if x.dim == 1 and after[:2] == before[:2]:
        return replace(x, shape=after)
    raise call.refusal(f"no rule for reshaping {list(before)} to {list(after)}")


def _follows_width(x: Channels, sizes: tuple[Any, ...]) -> bool:
    """Whether a reshape to `sizes` still does the same with fewer channels: the channels' place says -1, or reads x."""
    if len(sizes) < 2:
        return False
    place = sizes[1]
    if isinstance(place, Size):
        return place.slots is not None and np.array_equal(place.slots, x.slots)
    others = [size for i, size in enumerate(sizes) if i != 1]
    return place == -1 and all(not isinstance(size, Size) or size.slots is None for size in others)


def shape_attribute(call: Call, book: SlotBook) -> Any:
    """`x.shape`; any other attribute is refused."""
    if call.argument(1, "name") != "shape":
        raise call.refusal(f"no rule for the attribute {call.argument(1, 'name')!r}")
    return size(replace(call, args=call.args[:1]), book)


def size(call: Call, book: SlotBook) -> Any:
    """`x.size()` or `x.size(dim)`: numbers that remember which channels they count."""
    x = only_input(replace(call, shape=()))
    sizes = tuple(Size(n, x.slots if dim == x.dim else None) for dim, n in enumerate(x.shape))
    dim = call.argument(1, "dim")
    return sizes if dim is None else sizes[dim]


def item(call: Call, book: SlotBook) -> Any:
    """Indexing of a shape; indexing of a tensor is refused."""
    if not isinstance(call.args[0], tuple):
        raise call.refusal("no rule for indexing a tensor")
    return call.args[0][call.args[1]]


def named_tuple(call: Call, book: SlotBook) -> Any:
    """A network's structured output."""
    return (*call.args, *call.kwargs.values())
