"""`ChannelGroups`: the channels of a network that may be cut, each with those that must go together with it.

A *unit* is a set of channels cut together: one BatchNorm channel where nothing is tied, the members of every tied layer
at one index otherwise. Ratios and distances count units. `earlybird.slimming` finds the groups by tracing a network.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from earlybird.core.mask import ChannelMask, check_same_layers
from earlybird.errors import MaskError

UNREACHED = "the network never runs this layer on the example input"
UNSCORED = "the criterion gives it no score"
# How the reasons begin that the caller chose (a `keep` pattern, policy `inner`), or that concern nothing that runs.
_CHOSEN = ("keep=", "crosses an add", UNREACHED, UNSCORED)


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The units of one network under one residual policy.

    The tensors are copied at birth: what the caller does to its own later changes nothing.

    Attributes:
        unit_of: mask key (norm layer, or the producing conv or linear where no norm follows) -> int64 `[channels]`, the
            unit of each channel in 0..num_units-1, or -1 where the channel is protected. In `named_modules()` order.
        producer_unit_of: conv or linear that is no key itself -> int64 `[out channels]`, the unit of each of its
            outputs or -1. Conv-keyed scores (`filter_l1`, `taylor`) are read through it.
        protected: mask key -> {channel: reason why it may not be cut}.
        policy: residual policy, "inner", "tie" or "select" (`docs/method.md` section 3).
        reader_unit_of: conv or linear that sums over its inputs -> int64 `[in channels]`, the unit of each or -1: the
            layers that read a unit.

    Raises:
        MaskError: a unit index is no int64, out of range, unused or not consecutive, or a protected channel has no
            reason.
    """

    unit_of: Mapping[str, Tensor]
    producer_unit_of: Mapping[str, Tensor] = field(default_factory=dict)
    protected: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    policy: str = "tie"
    reader_unit_of: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for field_name in ("unit_of", "producer_unit_of", "reader_unit_of"):
            object.__setattr__(self, field_name, _checked_units(getattr(self, field_name)))
        object.__setattr__(self, "protected", {name: dict(reasons) for name, reasons in self.protected.items()})
        if (np.bincount(self.flat_units + 1)[1:] == 0).any():
            raise MaskError("unit indices of the channel groups must run from 0 without gaps")
        for name, units in (*self.producer_unit_of.items(), *self.reader_unit_of.items()):
            if int(units.max()) >= self.num_units:
                raise MaskError(f"layer {name!r} names unit {int(units.max())}; the mask keys hold {self.num_units}")
        for name, units in self.unit_of.items():
            missing = set(torch.nonzero(units < 0).flatten().tolist()) - set(self.protected.get(name, {}))
            if missing:
                raise MaskError(f"layer {name!r}: protected channels {sorted(missing)[:5]} carry no reason")

    def __repr__(self) -> str:
        protected = int((self.flat_units < 0).sum())
        channels = f"{self.flat_units.size} channels in {len(self.unit_of)} layers, {protected} protected"
        return f"ChannelGroups({self.num_units} units of {channels}, policy {self.policy})"

    @cached_property
    def num_units(self) -> int:
        """Number of units that may be cut (N of `docs/method.md` section 1)."""
        return int(self.flat_units.max(initial=-1)) + 1

    @cached_property
    def flat_units(self) -> np.ndarray:
        """Int64 `[all channels]`: `unit_of` end to end."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(units.numpy() for units in self.unit_of.values())])

    @cached_property
    def layer_widths(self) -> np.ndarray:
        """Int64 `[layers]`: channels of each mask key, then of each producer."""
        return np.array([units.numel() for units in self.units_of_layer.values()], dtype=np.int64)

    @cached_property
    def memberships(self) -> tuple[np.ndarray, np.ndarray]:
        """Int64 `[m]` twice: for each channel that may go its unit and its layer, numbered as in `layer_widths`."""
        empty = np.zeros(0, dtype=np.int64)
        units = np.concatenate([empty, *(units.numpy() for units in self.units_of_layer.values())])
        layers = np.repeat(np.arange(self.layer_widths.size), self.layer_widths)
        return units[units >= 0], layers[units >= 0]

    def channels_left(self, keep: np.ndarray) -> np.ndarray:
        """Int64 `[layers]`: channels of each layer, as in `layer_widths`, under `keep`, bool `[num_units]`."""
        units, layers = self.memberships
        left: np.ndarray = self.layer_widths - np.bincount(layers[~keep[units]], minlength=self.layer_widths.size)
        return left

    @cached_property
    def layers_of(self) -> list[tuple[int, ...]]:
        """For each unit its layers, ascending, one entry per channel."""
        found: list[list[int]] = [[] for _ in range(self.num_units)]
        for unit, layer in zip(*(array.tolist() for array in self.memberships), strict=True):
            found[unit].append(layer)
        return [tuple(layers) for layers in found]

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        """Int64 `[units of a block]` for each set of layers that units belong to, in order of the units.

        Where every layer is one block (VGG, PreResNet) that is the layer; behind a concatenation each part is one.
        """
        members: dict[tuple[int, ...], list[int]] = {}
        for unit, layers in enumerate(self.layers_of):
            members.setdefault(layers, []).append(unit)
        return [np.asarray(units, dtype=np.int64) for units in members.values()]

    def reasons_to_stay(self) -> Counter[str]:
        """Reason -> channels that are protected for it; policy `inner`, `keep` and missing scores are left out."""
        reasons = Counter(reason for channels in self.protected.values() for reason in channels.values())
        return Counter({reason: count for reason, count in reasons.items() if not reason.startswith(_CHOSEN)})

    def widths(self) -> dict[str, int]:
        """Channels of each mask key."""
        return {name: units.numel() for name, units in self.unit_of.items()}

    def digest(self) -> str:
        """Hex sha256 of the unit structure and the policy; equal for equal networks, whatever their weights."""
        sha = hashlib.sha256(self.policy.encode())
        for name in sorted(self.unit_of):
            sha.update(f"\0{name}\0".encode())
            sha.update(self.unit_of[name].numpy().tobytes())
        return sha.hexdigest()

    @cached_property
    def units_of_layer(self) -> dict[str, Tensor]:
        """Mask key, then each producer -> int64 `[channels]`: the units that it belongs to, or -1."""
        return {**self.unit_of, **self.producer_unit_of}

    def keep_units(self, mask: ChannelMask) -> Tensor:
        """Bool `[num_units]`: the units that a mask keeps.

        Raises:
            MaskError: the mask names other layers or widths, cuts a protected channel, or disagrees inside a unit.
        """
        widths, own = mask.widths(), self.widths()
        for name in [*own, *widths]:
            if widths.get(name) != own.get(name):
                told = f"layer {name!r}: the mask has {widths.get(name, 'no')} channels"
                network = f"the network {own.get(name, 'no such prunable layer')}"
                raise MaskError(f"{told}, {network}; draw the mask from this network")
        kept, units = mask.flat(self.unit_of).numpy(), self.flat_units
        # One place more than there are units, for -1 to point at.
        kept_in, cut_in = np.zeros((2, self.num_units + 1), dtype=bool)
        kept_in[units[kept]] = True
        cut_in[units[~kept]] = True
        if cut_in[-1]:
            cuts = {n: torch.nonzero((units < 0) & ~mask[n]).flatten().tolist() for n, units in self.unit_of.items()}
            name, channels = next((name, channels) for name, channels in cuts.items() if channels)
            first = f"channel {channels[0]}: {self.protected[name][channels[0]]}"
            told = f"layer {name!r} cuts {len(channels)} protected channels ({first})"
            raise MaskError(f"{told}; draw the mask with groups=channel_groups(model, example_input)")
        if (kept_in & cut_in)[:-1].any():
            self._raise_disagreement(mask)
        return torch.from_numpy(kept_in[:-1])

    def mask_of(self, keep: Tensor) -> ChannelMask:
        """The mask that keeps the units of `keep`, bool `[num_units]`, and every protected channel.

        Raises:
            MaskError: `keep` has another shape.
        """
        if keep.shape != (self.num_units,):
            raise MaskError(f"the units to keep have shape {list(keep.shape)}; give bool [{self.num_units}]")
        padded = torch.cat([keep.to(torch.bool), torch.ones(1, dtype=torch.bool)])  # -1 reads the last: it stays.
        channels = padded[torch.from_numpy(self.flat_units)].split(list(self.widths().values()))
        return ChannelMask(dict(zip(self.unit_of, channels, strict=True)))

    def check(self, mask: ChannelMask) -> None:
        """Raise `MaskError` unless this mask can be cut from this network."""
        self.keep_units(mask)

    def _raise_disagreement(self, mask: ChannelMask) -> NoReturn:
        """Name the first layer that cuts what another keeps, and count only what it cuts of the other's units."""
        cut_in: dict[int, str] = {}
        kept_in: dict[int, str] = {}
        for name, units in self.unit_of.items():
            for unit, kept in zip(units.tolist(), mask[name].tolist(), strict=True):
                (kept_in if kept else cut_in).setdefault(unit, name)
        torn = [unit for unit in cut_in if unit in kept_in]
        cutter, keeper = cut_in[torn[0]], kept_in[torn[0]]
        count = sum((cut_in[unit], kept_in[unit]) == (cutter, keeper) for unit in torn)
        where = f"that {keeper!r} keeps" if cutter != keeper else "and keeps their partners in the same layer"
        tie = "tied by an add" if self.policy == "tie" and cutter != keeper else "they are tied"
        told = f"layer {cutter!r} cuts {count} channels {where} ({tie})"
        raise MaskError(f"{told}; draw the mask with groups=channel_groups(model, example_input)")


def mask_distance(a: ChannelMask, b: ChannelMask, groups: ChannelGroups | None = None) -> float:
    """Fraction of units on which two masks disagree (normalised Hamming distance).

    0 = same ticket, 1 = complement; independent random masks of ratio p differ by 2p(1 - p) on average. Without groups
    every channel counts once; with groups every unit counts once and protected channels never.

    Raises:
        MaskError: the masks do not name the same layers with the same widths, or do not fit the groups.

    Example:
        >>> import torch
        >>> a = ChannelMask({"bn": torch.tensor([True, True, False, False])})
        >>> b = ChannelMask({"bn": torch.tensor([True, False, True, False])})
        >>> mask_distance(a, b)
        0.5
    """
    check_same_layers(a, b)
    if groups is None:
        left, right = a.flat(), b.flat(a)
    else:
        left, right = groups.keep_units(a), groups.keep_units(b)
    return float((left != right).double().mean()) if left.numel() else 0.0


def one_unit_per_channel(widths: Mapping[str, int]) -> ChannelGroups:
    """The groups of a plain chain: nothing is tied, nothing protected; policy "none"."""
    units = torch.arange(sum(widths.values())).split(list(widths.values()))
    return ChannelGroups(dict(zip(widths, units, strict=True)), policy="none")


def restrict_to_scored(groups: ChannelGroups, scored: Mapping[str, Tensor]) -> ChannelGroups:
    """The same groups with every unit that no score reaches protected.

    A criterion may not see every unit: `bn_scale` says nothing of a linear layer without a norm. Such units stay, and
    neither the ratio nor the distance counts them.
    """
    reached = np.zeros(groups.num_units + 1, dtype=bool)
    for name in scored.keys() & groups.units_of_layer.keys():
        reached[groups.units_of_layer[name].numpy()] = True
    if bool(reached[:-1].all()):
        return groups
    reached[-1] = False  # What -1 points at.
    number = torch.full((reached.size,), -1, dtype=torch.int64)
    number[torch.from_numpy(reached)] = torch.arange(int(reached.sum()))
    unit_of = {name: number[units] for name, units in groups.unit_of.items()}
    protected = dict(groups.protected)
    for name, units in unit_of.items():
        reasons, stay = groups.protected.get(name, {}), torch.nonzero(units < 0).flatten().tolist()
        protected[name] = {channel: reasons.get(channel, UNSCORED) for channel in stay}
    producers = {name: number[units] for name, units in groups.producer_unit_of.items()}
    readers = {name: number[units] for name, units in groups.reader_unit_of.items()}
    return ChannelGroups(unit_of, producers, protected, groups.policy, readers)


def _checked_units(unit_of: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, units in unit_of.items():
        if units.dtype != torch.int64 or units.dim() != 1 or units.numel() == 0:
            what = f"{units.dtype} {list(units.shape)}"
            raise MaskError(f"units of layer {name!r} are {what}; give a torch.int64 tensor of shape [channels]")
        if int(units.min()) < -1:
            raise MaskError(f"layer {name!r} names unit {int(units.min())}; give 0 or more, or -1 for protected")
    return {name: units.detach().to("cpu", copy=True) for name, units in unit_of.items()}
