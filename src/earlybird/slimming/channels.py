"""Channels: an id for each physical channel of a network, the table of all that is learnt of them, a call by its ids.

A layer that makes channels takes fresh ids, an operation that works channel by channel passes them on, an add ties them
pairwise: integer arrays throughout, no object per channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

ChannelIds = NDArray[np.int64]
Flags = NDArray[np.bool_]
_V = TypeVar("_V")


@dataclass(frozen=True)
class Reading:
    """A conv or linear reads `ids` `[in channels]`; `zero` says which of them are zero once masked."""

    reader: str
    ids: ChannelIds
    zero: Flags


@dataclass(frozen=True)
class Kept:
    """`ids` must stay, because of `reason`."""

    ids: ChannelIds
    reason: str


@dataclass
class ChannelTable:
    """Channels of one network: who makes and reads them, which are tied, which must stay.

    Attributes:
        gathering: norm name -> bool `[channels]`, the channels that it gathers rather than passes on (an input).
        scattering: norm name -> bool `[channels]`, the channels that it writes at full width (an input).
        breaks_ties: adds keep their operands, residual policy `select` (an input).
        keyed: conv and linear names that are mask keys themselves; known after a first round.
        inputs: module name -> ids it reads `[in channels]`.
        outputs: module name -> ids it writes `[out channels]`; norms, convs, linears and what is narrowed with them.
        wide: scattering norm -> ids that flow on from it `[channels]`.
        norms: name of each norm whose scale masks its outputs -> whether it stands behind another norm of the same
            ids.
        producers: names of the convs and linears that were met.
        readings, kept, adds: as found, in the order of the network; `adds` are the ids that an add touches.
        streams_into_norms: names of norms that read the output of an add.
        whole: module name -> why its tensors, and with them its inputs and outputs, cannot be narrowed.
        own: (module name, parameter) -> its dimension that has a place for each of the ids; a layer scale, say.
        fixed: (module name, parameter) -> why it cannot be narrowed.
        by_function: names of norms whose forward never runs: a function takes their tensors.
    """

    gathering: dict[str, Flags] = field(default_factory=dict)
    scattering: dict[str, Flags] = field(default_factory=dict)
    breaks_ties: bool = False
    keyed: frozenset[str] = frozenset()
    inputs: dict[str, ChannelIds] = field(default_factory=dict)
    outputs: dict[str, ChannelIds] = field(default_factory=dict)
    wide: dict[str, ChannelIds] = field(default_factory=dict)
    norms: dict[str, bool] = field(default_factory=dict)
    producers: dict[str, None] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    adds: list[Kept] = field(default_factory=list)
    streams_into_norms: list[str] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)
    own: dict[tuple[str, str], tuple[int, ChannelIds]] = field(default_factory=dict)
    fixed: dict[tuple[str, str], str] = field(default_factory=dict)
    by_function: set[str] = field(default_factory=set)
    size: int = 0
    _fresh: dict[str, ChannelIds] = field(default_factory=dict)
    _ties: list[tuple[ChannelIds, ChannelIds]] = field(default_factory=list)

    def fresh(self, key: str, count: int) -> ChannelIds:
        """`count` new ids; the same ones again whenever the same key asks (a shared module, a second round)."""
        if key not in self._fresh:
            self._fresh[key] = np.arange(self.size, self.size + count, dtype=np.int64)
            self.size += count
        return self._fresh[key]

    def tie(self, a: ChannelIds, b: ChannelIds) -> None:
        """Channel `a[i]` and channel `b[i]` stay or go together."""
        if a is not b:
            self._ties.append((a, b))

    def tie_places(self, ids: ChannelIds, parts: int) -> ChannelIds:
        """Tie the channels of equal parts place by place; the parts `[parts, channels of each]`."""
        each = ids.reshape(parts, -1)
        self.tie(np.tile(each[0], parts - 1), each[1:].reshape(-1))
        return each

    def keep(self, ids: ChannelIds, reason: str) -> None:
        """These channels stay."""
        self.kept.append(Kept(ids, reason))

    def reads(self, name: str, ids: ChannelIds, zero: Flags) -> None:
        """Conv or linear `name` sums over these channels, so a removed one must be zero by then."""
        self.readings.append(Reading(name, ids, zero))

    def read_by(self, name: str, ids: ChannelIds) -> None:
        """Module `name` reads these channels; a second reading of a shared module is tied to the first."""
        self._same(name, self.inputs.setdefault(name, ids), ids)

    def written_by(self, name: str, ids: ChannelIds) -> None:
        """Module `name` writes these channels; a second call of a shared module is tied to the first."""
        self._same(name, self.outputs.setdefault(name, ids), ids)

    def scaled_by(self, path: str, name: str, dim: int, ids: ChannelIds) -> None:
        """Parameter `name` of module `path` has a value for each of these channels along `dim`."""
        known, first = self.own.setdefault((path, name), (dim, ids))
        if known == dim and len(first) == len(ids):
            self.tie(first, ids)
            return
        self.fixed.setdefault((path, name), f"'{path}.{name}' is used along different channels")
        self.keep(ids, self.fixed[path, name])

    def _same(self, name: str, first: ChannelIds, again: ChannelIds) -> None:
        if len(first) == len(again):
            self.tie(first, again)
            return
        reason = f"'{name}' is called with different widths"
        self.whole.setdefault(name, reason)
        for ids in (first, again):
            self.keep(ids, reason)

    def classes(self) -> ChannelIds:
        """`[size]`: the smallest id that each channel is tied to, directly or not."""
        return connected(self.size, self._ties)


def connected(size: int, ties: Sequence[tuple[ChannelIds, ChannelIds]]) -> ChannelIds:
    """`[size]`: the smallest number that each of 0..size-1 is tied to, directly or not, by `a[i]` to `b[i]`."""
    label = np.arange(size, dtype=np.int64)
    if not ties:
        return label
    a, b = (np.concatenate(ends) for ends in zip(*ties, strict=True))
    while True:
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        if np.array_equal(low, high):
            return label
        np.minimum.at(label, high, low)  # Hook the larger root under the smaller ...
        while not np.array_equal(label, label[label]):  # ... and flatten, so that labels are roots again.
            label = label[label]


class Unfollowed(Exception):
    """A rule does not cover this call; the text says why. All that the call reads then stays, which is always exact."""


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

    @property
    def name(self) -> str:
        """Module path and operation, for reasons."""
        return f"'{self.where}': {self.operation}" if self.where else self.operation

    def values_of(self, kind: type[_V]) -> list[_V]:
        """Every value of one kind among the arguments, in order."""
        return values_of(kind, [self.args, self.kwargs])

    def counted(self) -> list[ChannelIds]:
        """Channels that a number among the arguments counts."""
        return [size.ids for size in self.values_of(Size) if size.ids is not None]

    @staticmethod
    def numbers(*arguments: Any) -> list[int]:
        """Arguments that must be whole numbers."""
        if not all(isinstance(each, int) for each in arguments):
            raise Unfollowed("no rule for these arguments")
        return list(arguments)

    def only_input(self) -> Channels:
        """The one tensor of an operation that takes one and gives one."""
        found = self.values_of(Channels)
        if len(found) != 1 or not isinstance(self.result, Tensor):
            raise Unfollowed("it must take one tensor and give one tensor here")
        return found[0]

    def first_input(self) -> Channels:
        """The tensor that an operation with further arguments is applied to."""
        return _followed(self.argument(0, "input", self.kwargs.get("tensor")))

    def other_input(self) -> Channels:
        """The tensor whose shape the first one takes."""
        return _followed(self.argument(1, "other"))

    def spread_out(self, *names: str) -> tuple[Any, ...]:
        """Arguments behind the first, given one by one, as one tuple, or by keyword."""
        given = self.args[1:] or tuple(self.kwargs[name] for name in names if name in self.kwargs)
        return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else given

    def refuse_other_ranks(self, x: Channels) -> None:
        """`Conv2d`, `avg_pool2d`: on a tensor one dimension short torch takes the channels for the batch."""
        found = re.search(r"([123])d", self.operation)
        if found and len(x.shape) != int(found.group(1)) + 2:
            raise Unfollowed(f"its input has {len(x.shape)} dimensions; followed are {int(found.group(1)) + 2}")


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


def _followed(argument: Any) -> Channels:
    if not isinstance(argument, Channels):
        raise Unfollowed("no rule for these arguments")
    return argument
