"""Rules for shapes: flattening, moving dimensions, taking parts, and numbers read from a shape.

A number that counts channels remembers which, so that a reshape that follows the width is told from one that fixes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from earlybird.slimming.channels import Call, Channels, ChannelTable, OwnTensor, Rule, Size, Unfollowed, values_of

WIDTHLESS_ATTRIBUTES = frozenset({"dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"})

_READS_OF_SHAPE = (("getattr", "shape"), ("size", None))


def may_return_input(rule: Rule) -> Rule:
    """Mark a rule as one of operations that may return their input, or a view of it, whatever torch's schema says."""
    rule.may_return_input = True  # type: ignore[attr-defined]
    return rule


def flatten(call: Call, table: ChannelTable) -> Channels:
    """Space into the channels (`[n, c, h, w]` to `[n, c*h*w]`), or space by itself."""
    return _reshaped(call, call.only_input())


def reshape(call: Call, table: ChannelTable) -> Channels:
    """`view` and `reshape` that leave the channels a dimension; one that names their width as a number keeps them."""
    x = call.first_input()
    result = _reshaped(call, x)
    _follow_sizes(call, table, x, result.dim)
    return result


def reshape_as(call: Call, table: ChannelTable) -> Channels:
    """To the shape of another tensor, whose channels are then as many."""
    x, other = call.first_input(), call.other_input()
    result = _reshaped(call, x)
    if result.dim != other.dim or len(result.ids) != len(other.ids):
        raise Unfollowed("its channels do not line up one to one")
    table.tie(result.ids, other.ids)
    return result


def _reshaped(call: Call, x: Channels) -> Channels:
    before, after = x.shape, call.shape
    if before == after:
        return x
    if x.dim == 1 and after == (before[0], math.prod(before[1:])):
        positions = math.prod(before[2:])
        return replace(x, dim=1, ids=np.repeat(x.ids, positions), zero=np.repeat(x.zero, positions), shape=after)
    # Equally many elements on either side of the channels: their dimension keeps its meaning.
    outer, inner = math.prod(before[: x.dim]), math.prod(before[x.dim + 1 :])
    as_wide = [place for place, width in enumerate(after) if width == len(x.ids)]
    places = [dim for dim in as_wide if math.prod(after[:dim]) == outer and math.prod(after[dim + 1 :]) == inner]
    if len(places) != 1:
        raise Unfollowed(f"no rule for reshaping {list(before)} to {list(after)}")
    return replace(x, dim=places[0], shape=after)


def _follow_sizes(call: Call, table: ChannelTable, x: Channels, dim: int) -> None:
    """Sizes that shrink with the channels of `x` say -1 in their place, or the width of a tensor that is then tied."""
    sizes = call.spread_out("shape", "size")
    counting = [(i, size.ids) for i, size in enumerate(sizes) if isinstance(size, Size) and size.ids is not None]
    place = sizes[dim] if dim < len(sizes) else None
    if [i for i, _ in counting] == [dim] and len(counting[0][1]) == len(x.ids):
        table.tie(x.ids, counting[0][1])
    elif counting or place != -1:
        for ids in (x.ids, *(ids for _, ids in counting)):
            table.keep(ids, f"{call.name} fixes its width by a number")


def permute(call: Call, table: ChannelTable) -> Channels:
    """Dimensions change places."""
    x, order = call.first_input(), call.numbers(*call.spread_out("dims"))
    return replace(x, dim=[dim % len(x.shape) for dim in order].index(x.dim), shape=call.shape)


def transpose(call: Call, table: ChannelTable) -> Channels:
    """Two dimensions change places."""
    x = call.first_input()
    a, b = (dim % len(x.shape) for dim in call.numbers(call.argument(1, "dim0"), call.argument(2, "dim1")))
    return replace(x, dim={a: b, b: a}.get(x.dim, x.dim), shape=call.shape)


def expand(call: Call, table: ChannelTable) -> Channels:
    """Other dimensions are repeated; the channels' size must follow their width."""
    x = call.first_input()
    if len(call.shape) != len(x.shape) or call.shape[x.dim] != len(x.ids):
        raise Unfollowed("no rule for these arguments")
    _follow_sizes(call, table, x, x.dim)
    return replace(x, shape=call.shape)


def expand_as(call: Call, table: ChannelTable) -> Channels:
    """Repeated in space to the shape of another tensor of the same channels."""
    x, other = call.first_input(), call.other_input()
    if (x.dim, len(x.shape), len(x.ids)) != (other.dim, len(other.shape), len(other.ids)):
        raise Unfollowed("its channels do not line up one to one")
    table.tie(x.ids, other.ids)
    return replace(x, shape=call.shape)


def unsqueeze(call: Call, table: ChannelTable) -> Channels:
    """A new dimension of one."""
    x, (dim,) = call.first_input(), call.numbers(call.argument(1, "dim"))
    return replace(x, dim=x.dim + (dim % (len(x.shape) + 1) <= x.dim), shape=call.shape)


def squeeze(call: Call, table: ChannelTable) -> Channels:
    """Named dimensions of one go; without a name a single channel could go too."""
    x, dims = call.first_input(), call.spread_out("dim")
    if not dims:
        raise Unfollowed("no rule for squeezing dimensions that are not named")
    named_dims = {dim % len(x.shape) for dim in call.numbers(*dims)}
    if x.dim in named_dims:
        raise Unfollowed("no rule for squeezing the channels")
    return replace(x, dim=x.dim - sum(dim < x.dim and x.shape[dim] == 1 for dim in named_dims), shape=call.shape)


def chunk(call: Call, table: ChannelTable) -> tuple[Channels, ...]:
    """Equal parts: along the channels tied place by place, so that the parts stay equal; else the same channels."""
    x, (count, dim) = call.first_input(), call.numbers(call.argument(1, "chunks"), call.argument(2, "dim", 0))
    shapes = [tuple(part.shape) for part in call.result]
    if dim % len(x.shape) != x.dim:
        return tuple(replace(x, shape=shape) for shape in shapes)
    if len(x.ids) % count or len(shapes) != count:
        raise Unfollowed("no rule for unequal parts of the channels")
    parts = table.tie_places(x.ids, count)
    each = zip(parts, x.zero.reshape(count, -1), shapes, strict=True)
    return tuple(replace(x, ids=ids, zero=zero, shape=shape) for ids, zero, shape in each)


def split(call: Call, table: ChannelTable) -> tuple[Channels, ...]:
    """Parts of given sizes around the channels; along them the sizes are numbers that would not shrink."""
    x, (dim,) = call.first_input(), call.numbers(call.argument(2, "dim", 0))
    if dim % len(x.shape) == x.dim:
        raise Unfollowed("it splits the channels by number")
    return tuple(replace(x, shape=tuple(part.shape)) for part in call.result)


@may_return_input
def channel_shuffle(call: Call, table: ChannelTable) -> Channels:
    """Groups of channels interleaved; each group must keep as many, so they are tied place by place."""
    x = call.only_input()
    groups = call.module.groups if isinstance(call.module, nn.ChannelShuffle) else call.argument(1, "groups")
    if x.dim != 1 or not isinstance(groups, int):
        raise Unfollowed("no rule for these arguments")
    ids = table.tie_places(x.ids, groups).T.reshape(-1)
    return replace(x, ids=ids, zero=x.zero.reshape(groups, -1).T.reshape(-1), shape=call.shape)


def attribute(call: Call, table: ChannelTable) -> Any:
    """`x.shape` as numbers that remember which channels they count; what says nothing of the width as it is."""
    name = call.argument(1, "name")
    if name == "shape":
        return size(replace(call, args=call.args[:1]), table)
    if name in WIDTHLESS_ATTRIBUTES:
        return call.result
    raise Unfollowed(f"no rule for the attribute {name!r}")


def size(call: Call, table: ChannelTable) -> Any:
    """`x.size()` or `x.size(dim)`, as numbers that remember which channels they count."""
    x = call.first_input()
    sizes = tuple(Size(n, x.ids if dim == x.dim else None) for dim, n in enumerate(x.shape))
    dim = call.argument(1, "dim")
    return sizes if dim is None else sizes[dim]


def metadata(call: Call, table: ChannelTable) -> Any:
    """A fact about a tensor that does not depend on its width."""
    return call.result


@may_return_input
def item(call: Call, table: ChannelTable) -> Any:
    """An element of a tuple or dict; of a tensor only slices around the channels."""
    x, index = call.args[0], call.args[1]
    if isinstance(x, (tuple, list, Mapping)) and not values_of(Size, index):
        return x[index]
    if not isinstance(x, Channels):
        raise Unfollowed("no rule for these arguments")
    indices = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(each, slice) for each in indices) or not isinstance(call.result, Tensor):
        raise Unfollowed("no rule for indexing a tensor other than by slices")
    part = indices[x.dim] if len(indices) > x.dim else slice(None)
    is_open = part.stop is None or (isinstance(part.stop, int) and part.stop >= len(x.ids))
    if not (is_open and part.start in (None, 0) and part.step in (None, 1)):  # All, and all of any smaller width too.
        raise Unfollowed("no rule for taking a part of the channels by number")
    return replace(x, shape=call.shape)


def part_of_own_size(call: Call) -> Any:
    """The shape of a weight that its own forward reads, or a part of that shape; None for any other call.

    Kernel sizes are numbers. A width is passed on as the weight itself, so that whoever reads it keeps the layer whole.
    """
    x, index = (*call.args, None, None)[:2]
    if call.operation == "getitem" and isinstance(x, tuple) and isinstance(index, (int, slice)):
        return x[index] if values_of(OwnTensor, x) and not values_of(Size, index) else None
    if not isinstance(x, OwnTensor) or len(x.shape) < 3 or (call.operation, index) not in _READS_OF_SHAPE:
        return None
    return tuple(x if dim < 2 else n for dim, n in enumerate(x.shape))


def view_of_own(call: Call) -> OwnTensor | None:
    """A parameter with dimensions of one added: `self.gamma.view(1, -1, 1, 1)`, `self.gamma[:, None, None]`."""
    x = call.args[0] if call.args else None
    if not isinstance(x, OwnTensor) or x.along is None or not isinstance(call.result, Tensor) or call.kwargs:
        return None
    along: list[int | None] = list(x.along)
    if call.operation == "unsqueeze" and isinstance(call.args[1], int):
        along.insert(call.args[1] % len(call.shape), None)
    elif call.operation == "getitem":
        parts = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
        if not all(part is None or part == slice(None) for part in parts):
            return None
        kept = iter(along)
        along = [None if part is None else next(kept) for part in parts] + list(kept)
    elif call.operation in ("view", "reshape"):
        sizes = call.args[1] if isinstance(call.args[1], tuple) else call.args[1:]
        wide = [dim for dim, n in zip(x.along, x.shape, strict=True) if n > 1]
        if len(wide) != 1 or not all(n in (1, -1) for n in sizes):
            return None
        along = [wide[0] if n == -1 else None for n in sizes]
    elif call.operation not in ("to", "float", "type_as"):
        return None
    return OwnTensor(x.path, x.name, call.shape, tuple(along)) if len(along) == len(call.shape) else None


@may_return_input
def named_tuple(call: Call, table: ChannelTable) -> Any:
    """A network's structured output."""
    return (*call.args, *call.kwargs.values())
