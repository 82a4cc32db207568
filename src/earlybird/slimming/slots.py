"""Channel slots: the atoms of slimming, and the ties between them.

A slot is one physical channel. A layer that makes channels makes fresh slots, an operation that works channel by
channel passes them on, an add ties them pairwise. Everything a walk over the network learns is written into one
`SlotBook`: integer arrays throughout, no object per channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """A conv or linear reads `slots` `[in channels]`; `zero` says which of them are zero once masked."""

    reader: str
    slots: Slots
    zero: Flags


@dataclass(frozen=True)
class Pin:
    """`slots` must stay, because of `reason`."""

    slots: Slots
    reason: str


@dataclass
class SlotBook:
    """What is known of the slots of one network.

    Attributes:
        gathering: norm name -> bool `[channels]`, the channels that it gathers rather than passes on (an input).
        scattering: norm name -> bool `[channels]`, the channels that it writes at full width (an input).
        keyed: conv and linear names that are mask keys themselves; known after a first walk.
        inputs: module name -> slots it reads `[in channels]`.
        outputs: module name -> slots it writes `[out channels]`; norms, convs, linears and what is narrowed with them.
        wide: scattering norm -> slots that flow on from it `[channels]`.
        norms: name of each norm whose scale masks its outputs -> whether it stands behind another norm of the same
            slots.
        producers: names of the convs and linears that the walk met.
        readings, pins, adds: as found, in the order of the walk; `adds` are the slots that an add touches.
        streams_into_norms: names of norms that read the output of an add.
        whole: module name -> why its tensors cannot be narrowed (something else reads them).
        own: (module name, parameter) -> its dimension that has a place for each of the slots; a layer scale, say.
        fixed: (module name, parameter) -> why it cannot be narrowed.
        by_function: names of norms whose forward never runs: a function takes their tensors.
    """

    gathering: dict[str, Flags] = field(default_factory=dict)
    scattering: dict[str, Flags] = field(default_factory=dict)
    keyed: frozenset[str] = frozenset()
    inputs: dict[str, Slots] = field(default_factory=dict)
    outputs: dict[str, Slots] = field(default_factory=dict)
    wide: dict[str, Slots] = field(default_factory=dict)
    norms: dict[str, bool] = field(default_factory=dict)
    producers: dict[str, None] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    adds: list[Pin] = field(default_factory=list)
    streams_into_norms: list[str] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)
    own: dict[tuple[str, str], tuple[int, Slots]] = field(default_factory=dict)
    fixed: dict[tuple[str, str], str] = field(default_factory=dict)
    by_function: set[str] = field(default_factory=set)
    size: int = 0
    _fresh: dict[str, Slots] = field(default_factory=dict)
    _ties: list[tuple[Slots, Slots]] = field(default_factory=list)

    def fresh(self, key: str, count: int) -> Slots:
        """`count` new slots; the same ones again whenever the same key asks (a shared module, a second walk)."""
        if key not in self._fresh:
            self._fresh[key] = np.arange(self.size, self.size + count, dtype=np.int64)
            self.size += count
        return self._fresh[key]

    def tie(self, a: Slots, b: Slots) -> None:
        """Slot `a[i]` and slot `b[i]` stay or go together."""
        if a is not b:
            self._ties.append((a, b))

    def pin(self, slots: Slots, reason: str) -> None:
        """These slots stay."""
        self.pins.append(Pin(slots, reason))

    def keep_whole(self, name: str, reason: str) -> None:
        """Module `name` keeps its tensors, and with them its inputs and outputs."""
        self.whole.setdefault(name, reason)

    def reads(self, name: str, slots: Slots, zero: Flags) -> None:
        """Conv or linear `name` sums over these slots, so a removed one must be zero by then."""
        self.readings.append(Reading(name, slots, zero))

    def masked_by(self, name: str, behind_norm: bool) -> None:
        """Norm `name` zeroes its outputs when masked."""
        self.norms[name] = self.norms.get(name, True) and behind_norm

    def read_by(self, name: str, slots: Slots) -> None:
        """Module `name` reads these slots; a second reading of a shared module is tied to the first."""
        self._same(name, self.inputs.setdefault(name, slots), slots)

    def written_by(self, name: str, slots: Slots) -> None:
        """Module `name` writes these slots; a second call of a shared module is tied to the first."""
        self._same(name, self.outputs.setdefault(name, slots), slots)

    def scaled_by(self, path: str, name: str, dim: int, slots: Slots) -> None:
        """Parameter `name` of module `path` has a value for each of these slots along `dim`."""
        known, first = self.own.setdefault((path, name), (dim, slots))
        if known == dim and len(first) == len(slots):
            self.tie(first, slots)
            return
        self.fixed.setdefault((path, name), f"'{path}.{name}' is used along different channels")
        self.pin(slots, self.fixed[path, name])

    def _same(self, name: str, first: Slots, again: Slots) -> None:
        if len(first) == len(again):
            self.tie(first, again)
            return
        reason = f"'{name}' is called with different widths"
        self.keep_whole(name, reason)
        for slots in (first, again):
            self.pin(slots, reason)

    def forget_findings(self) -> None:
        """Drop readings and pins, keep slots and ties: the second walk finds them again with `keyed` known."""
        self.readings.clear()
        self.pins.clear()
        self.adds.clear()
        self.streams_into_norms.clear()

    def classes(self) -> Slots:
        """`[size]`: the smallest slot that each slot is tied to, directly or not."""
        label = np.arange(self.size, dtype=np.int64)
        if not self._ties:
            return label
        a = np.concatenate([first for first, _ in self._ties])
        b = np.concatenate([second for _, second in self._ties])
        while True:
            low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
            if np.array_equal(low, high):
                return label
            np.minimum.at(label, high, low)  # Hook the larger root under the smaller ...
            while not np.array_equal(label, label[label]):  # ... and flatten, so that labels are roots again.
                label = label[label]
