"""Channel table: an id for each physical channel of a network, and the ties between channels.

A layer that makes channels takes fresh ids, an operation that works channel by channel passes them on, an add ties them
pairwise. All that propagation learns is entered in one table: integer arrays throughout, no object per channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ChannelIds = NDArray[np.int64]
Flags = NDArray[np.bool_]


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
        keyed: conv and linear names that are mask keys themselves; known after a first round.
        inputs: module name -> ids it reads `[in channels]`.
        outputs: module name -> ids it writes `[out channels]`; norms, convs, linears and what is narrowed with them.
        wide: scattering norm -> ids that flow on from it `[channels]`.
        norms: name of each norm whose scale masks its outputs -> whether it stands behind another norm of the same
            ids.
        producers: names of the convs and linears that were met.
        readings, kept, adds: as found, in the order of the network; `adds` are the ids that an add touches.
        streams_into_norms: names of norms that read the output of an add.
        whole: module name -> why its tensors cannot be narrowed (something else reads them).
        own: (module name, parameter) -> its dimension that has a place for each of the ids; a layer scale, say.
        fixed: (module name, parameter) -> why it cannot be narrowed.
        by_function: names of norms whose forward never runs: a function takes their tensors.
    """

    gathering: dict[str, Flags] = field(default_factory=dict)
    scattering: dict[str, Flags] = field(default_factory=dict)
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

    def keep_whole(self, name: str, reason: str) -> None:
        """Module `name` keeps its tensors, and with them its inputs and outputs."""
        self.whole.setdefault(name, reason)

    def reads(self, name: str, ids: ChannelIds, zero: Flags) -> None:
        """Conv or linear `name` sums over these channels, so a removed one must be zero by then."""
        self.readings.append(Reading(name, ids, zero))

    def masked_by(self, name: str, behind_norm: bool) -> None:
        """Norm `name` zeroes its outputs when masked."""
        self.norms[name] = self.norms.get(name, True) and behind_norm

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
        self.keep_whole(name, reason)
        for ids in (first, again):
            self.keep(ids, reason)

    def forget_findings(self) -> None:
        """Drop readings and what must stay, keep ids and ties: the second round finds them again with `keyed` known."""
        self.readings.clear()
        self.kept.clear()
        self.adds.clear()
        self.streams_into_norms.clear()

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
