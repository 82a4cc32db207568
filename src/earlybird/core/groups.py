"""`ChannelGroups`: what may be cut, and together with what.

A *unit* is the set of channels that are cut together: one BatchNorm channel where nothing is tied, the members of every
tied layer at one index otherwise. Ratios and distances count units. The value lives here; `earlybird.slimming` finds it
by tracing a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from earlybird.core.mask import ChannelMask
from earlybird.errors import MaskError


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The units of one network under one residual policy.

    Attributes:
        unit_of: mask key (norm layer, or the producing conv or linear where no norm follows) -> int64 `[channels]`, the
            unit of each channel in 0..num_units-1, or -1 where the channel is protected. In `named_modules()` order.
        producer_unit_of: conv or linear that is no key itself -> int64 `[out channels]`, the unit of each of its
            outputs or -1. Conv-keyed scores (`filter_l1`, `taylor`) are read through it.
        protected: mask key -> {channel: why it may not be cut}.
        policy: residual policy, "inner", "tie" or "select" (`method.md` section 3).

    Raises:
        MaskError: a unit index is out of range, unused or not consecutive, or a protected channel has no reason.
    """

    unit_of: Mapping[str, Tensor]
    producer_unit_of: Mapping[str, Tensor] = field(default_factory=dict)
    protected: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    policy: str = "tie"

    def __post_init__(self) -> None:
        seen = torch.unique(torch.cat([torch.zeros(0, dtype=torch.int64), *self.unit_of.values()]))
        seen = seen[seen >= 0]
        if not torch.equal(seen, torch.arange(seen.numel())):
            raise MaskError("unit indices of the channel groups must run from 0 without gaps")
        for name, units in self.unit_of.items():
            missing = set(torch.nonzero(units < 0).flatten().tolist()) - set(self.protected.get(name, {}))
            if missing:
                raise MaskError(f"layer {name!r}: protected channels {sorted(missing)[:5]} carry no reason")

    @property
    def num_units(self) -> int:
        """Number of units that may be cut (N of `method.md` section 1)."""
        return 1 + max((int(units.max()) for units in self.unit_of.values()), default=-1)

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

    def keep_units(self, mask: ChannelMask) -> Tensor:
        """Bool `[num_units]`: which units a mask keeps.

        Raises:
            MaskError: the mask names other layers or widths, cuts a protected channel, or disagrees inside a unit.
        """
        self.check(mask)
        keep = torch.ones(self.num_units, dtype=torch.bool)
        for name, units in self.unit_of.items():
            free = units >= 0
            keep[units[free]] = mask[name][free]
        return keep

    def mask_of(self, keep: Tensor) -> ChannelMask:
        """The mask that keeps the units of `keep`, bool `[num_units]`, and every protected channel."""
        # Index -1 reads the last element: protected channels stay.
        padded = torch.cat([keep.to(torch.bool), torch.ones(1, dtype=torch.bool)])
        return ChannelMask({name: padded[units] for name, units in self.unit_of.items()})

    def check(self, mask: ChannelMask) -> None:
        """Raise `MaskError` unless this mask can be cut from this network."""
        widths, own = mask.widths(), self.widths()
        for name in [*own, *widths]:
            if widths.get(name) != own.get(name):
                raise MaskError(
                    f"layer {name!r}: the mask has {widths.get(name, 'no')} channels, the network "
                    f"{own.get(name, 'no such prunable layer')}; draw the mask from this network"
                )
        keep = torch.ones(self.num_units, dtype=torch.bool)
        for name, units in self.unit_of.items():
            self._check_protected(name, units, mask[name])
            keep[units[units >= 0]] = mask[name][units >= 0]
        for name, units in self.unit_of.items():
            free = units >= 0
            differing = units[free][keep[units[free]] != mask[name][free]]
            if differing.numel():  # The last layer written won: it is the other side of the disagreement.
                last = [n for n, other in self.unit_of.items() if bool((other == differing[0]).any())][-1]
                self._raise_disagreement(mask, name, last)

    def _check_protected(self, name: str, units: Tensor, keep: Tensor) -> None:
        cut = torch.nonzero((units < 0) & ~keep).flatten().tolist()
        if cut:
            reason = self.protected[name][cut[0]]
            raise MaskError(
                f"layer {name!r} cuts {len(cut)} protected channels (channel {cut[0]}: {reason}); "
                "draw the mask with groups=channel_groups(model, example_input)"
            )

    def _raise_disagreement(self, mask: ChannelMask, a: str, b: str) -> None:
        cutter, keeper = (a, b) if mask.kept_counts()[a] <= mask.kept_counts()[b] else (b, a)
        shared = set(self.unit_of[a].tolist()) & set(self.unit_of[b].tolist()) - {-1}
        kept_in = {n: dict(zip(self.unit_of[n].tolist(), mask[n].tolist(), strict=True)) for n in (a, b)}
        differing = sum(kept_in[a][unit] != kept_in[b][unit] for unit in shared)
        raise MaskError(
            f"layer {cutter!r} cuts {differing} channels that {keeper!r} keeps (they are tied); "
            "draw the mask with groups=channel_groups(model, example_input)"
        )


def restrict_to_scored(groups: ChannelGroups, scored: Mapping[str, Tensor]) -> ChannelGroups:
    """The same groups with every unit that no score reaches protected.

    A criterion may not see every unit: `bn_scale` says nothing of a linear layer without a norm. Such units stay, and
    neither the ratio nor the distance counts them.
    """
    reached = torch.zeros(groups.num_units, dtype=torch.bool)
    for name in scored:
        units = groups.unit_of.get(name, groups.producer_unit_of.get(name))
        if units is not None:
            reached[units[units >= 0]] = True
    if bool(reached.all()):
        return groups
    number = torch.full((groups.num_units + 1,), -1, dtype=torch.int64)
    number[:-1][reached] = torch.arange(int(reached.sum()))
    unit_of = {name: number[units] for name, units in groups.unit_of.items()}
    protected = {
        name: {
            channel: groups.protected.get(name, {}).get(channel, "the criterion gives it no score")
            for channel in torch.nonzero(units < 0).flatten().tolist()
        }
        for name, units in unit_of.items()
    }
    producers = {name: number[units] for name, units in groups.producer_unit_of.items()}
    return ChannelGroups(unit_of, producers, protected, groups.policy)
