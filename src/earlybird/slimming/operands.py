"""Operands of a rule: a call of an operation, the tensors and sizes that go in and out, all in terms of channel ids.

A rule that cannot say what a call means for channels raises `Unfollowed`; all that the call reads then stays at full
width, which is exact whatever the call does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from earlybird.slimming.channel_table import ChannelIds, ChannelTable, Flags


class Unfollowed(Exception):
    """A rule does not cover this call; the text says why."""


@dataclass(frozen=True)
class Channels:
    """A tensor value.

    Attributes:
        ids: `[channels]` id of each channel along `dim`.
        zero: `[channels]` whether the channel is zero everywhere once its mask keys are masked.
        dim: which dimension the channels lie on, counted from 0.
        shape: shape on the example input.
        is_stream: an add made it, and no conv, linear or norm came since.
        is_normed: a norm came since its ids were made.
    """

    ids: ChannelIds
    zero: Flags
    dim: int
    shape: tuple[int, ...]
    is_stream: bool = False
    is_normed: bool = False


@dataclass(frozen=True)
class Opaque:
    """A tensor whose channels are not followed, and why: it was made at full width from values at full width."""

    shape: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class OwnTensor:
    """A parameter or buffer that a forward reads by name, or a view of one.

    Attributes:
        path: of its module.
        name: its name there.
        shape: as it is now.
        along: for each dimension the parameter's own dimension that lies on it, None for one that a view has added; not
            given where it cannot be narrowed: a buffer, or a tensor of a layer, which has rules of its own.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    along: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Size:
    """A number read from a shape; `ids` are the channels it counts, None where it counts none."""

    value: int
    ids: ChannelIds | None = None


@dataclass(frozen=True)
class Call:
    """One call of the graph, its nodes replaced by the values above.

    Attributes:
        key: unique in the network; the mode is part of it.
        where: path of the module it stands in, or of the module called.
        target: module class, function or method name.
        result: what it gave on the example input, tensors on `meta`.
        is_in_place: it writes its result into its first argument.
        mutates_live_value: it writes in place into a tensor that a later operation reads.
        breaks_ties: residual policy `select`.
    """

    key: str
    where: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    module: nn.Module | None = None
    is_in_place: bool = False
    mutates_live_value: bool = False
    breaks_ties: bool = False

    @property
    def operation(self) -> str:
        """Name of the module class, function or method."""
        return self.target if isinstance(self.target, str) else getattr(self.target, "__name__", str(self.target))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the one tensor that came out."""
        return tuple(self.result.shape)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Argument by position, or by keyword."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


_V = TypeVar("_V")
Rule = Callable[[Call, ChannelTable], Any]


def values_of(kind: type[_V], arguments: Any) -> list[_V]:
    """Every value of one kind in a nest of arguments, in order."""
    if isinstance(arguments, kind):
        return [arguments]
    if isinstance(arguments, Mapping):
        arguments = arguments.values()
    elif isinstance(arguments, slice):
        arguments = (arguments.start, arguments.stop, arguments.step)
    elif not isinstance(arguments, (list, tuple)):
        return []
    return [x for argument in arguments for x in values_of(kind, argument)]


def only_input(call: Call) -> Channels:
    """The one tensor of an operation that takes one and gives one."""
    found = values_of(Channels, [call.args, call.kwargs])
    if len(found) != 1 or not isinstance(call.result, Tensor):
        raise Unfollowed("it must take one tensor and give one tensor here")
    return found[0]


def first_input(call: Call) -> Channels:
    """The tensor that an operation with further arguments is applied to."""
    x = call.argument(0, "input", call.kwargs.get("tensor"))
    if not isinstance(x, Channels):
        raise Unfollowed("no rule for these arguments")
    return x


def other_input(call: Call) -> Channels:
    """The tensor whose shape the first one takes."""
    other = call.argument(1, "other")
    if not isinstance(other, Channels):
        raise Unfollowed("no rule for these arguments")
    return other


def numbers(*arguments: Any) -> list[int]:
    """Arguments that must be whole numbers."""
    if not all(isinstance(each, int) for each in arguments):
        raise Unfollowed("no rule for these arguments")
    return list(arguments)


def spread_out(call: Call, *names: str) -> tuple[Any, ...]:
    """Arguments behind the first, given one by one, as one tuple, or by keyword."""
    given = call.args[1:] or tuple(call.kwargs[name] for name in names if name in call.kwargs)
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else given


def refuse_other_ranks(call: Call, x: Channels) -> None:
    """`Conv2d`, `avg_pool2d`: on a tensor one dimension short torch takes the channels for the batch."""
    found = re.search(r"([123])d", call.operation)
    if found and len(x.shape) != int(found.group(1)) + 2:
        raise Unfollowed(f"its input has {len(x.shape)} dimensions; followed are {int(found.group(1)) + 2}")


def named(call: Call) -> str:
    """Module path and operation, for reasons."""
    return f"'{call.where}': {call.operation}" if call.where else call.operation
