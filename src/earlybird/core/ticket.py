"""`Ticket`: a mask, the dense weights of the moment it was drawn, and how it was drawn; one file on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earlybird.core.mask import ChannelMask
from earlybird.core.tensor_file import TensorFormat

FORMAT_VERSION = 2
_FILE = TensorFormat(
    "ticket", "earlybird_ticket", FORMAT_VERSION, "draw it again or restore the file", "ticket.safetensors"
)
# How a field's type reads in JSON.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "tuple[float, ...]": (list,),
    "tuple[str, ...]": (list,),
    "Mapping[str, Any]": (dict,),
}


@dataclass(frozen=True, eq=False)
class Ticket:
    """A drawn Early-Bird ticket.

    Attributes:
        mask: the channels that stay, in the dense network's coordinates.
        weights: state dict of the dense network when the ticket was drawn (CPU).
        prune_ratio: requested fraction of units to remove, in [0, 1).
        realised_ratio: fraction really removed, after floors and rounding.
        drawn_after: number of draws (`update` calls) completed; epochs under the clock "epochs".
        rule: the stop rule that fired, or "forced" for a mask drawn without one.
        window: the rule's window.
        epsilon: the rule's threshold on the mask distance.
        criterion: name of the criterion.
        min_channels: floor per layer.
        round_to: kept counts are multiples of this.
        tie_score: score of a tied unit: "mean", "max" or "sum" over its scored channels.
        policy: residual policy of the groups, "none" without groups.
        groups_digest: digest of the groups, "" without.
        distances: consecutive mask distances so far; the first is draw 2 against draw 1.
        flags: caveats, one sentence each.
        notes: JSON values a trainer adds (clock, step, epoch, ...).
    """

    mask: ChannelMask
    weights: Mapping[str, Tensor]
    prune_ratio: float
    realised_ratio: float
    drawn_after: int
    rule: str = "paper"
    window: int = 5
    epsilon: float = 0.1
    criterion: str = "bn_scale"
    min_channels: int = 1
    round_to: int = 1
    tie_score: str = "mean"
    policy: str = "none"
    groups_digest: str = ""
    distances: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the ticket to `path` (safetensors), replacing an older one in one step that survives a crash.

        Raises:
            TicketError: the notes are no JSON.
            OSError: the disk is full or refuses; an older file is intact.
        """
        tensors = {f"mask.{name}": keep.to(torch.uint8) for name, keep in self.mask.items()}
        tensors |= {f"weights.{name}": value for name, value in self.weights.items()}
        header = {"layers": list(self.mask), **{f.name: getattr(self, f.name) for f in _plain()}}
        _FILE.save(Path(path), header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Read a ticket back.

        Raises:
            TicketError: the file is missing, no ticket, truncated, of another format version, or fails its sha256.
        """

        def parse(header: dict[str, Any], tensors: dict[str, Tensor]) -> Ticket:
            mask = ChannelMask({name: tensors[f"mask.{name}"].bool() for name in header["layers"]})
            weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
            return cls(mask=mask, weights=weights, **_plain_fields(header))

        return _FILE.load(Path(path), parse)


def _plain() -> list[dataclasses.Field[Any]]:
    """The fields that are no tensors."""
    return [f for f in dataclasses.fields(Ticket) if f.name not in ("mask", "weights")]


def _plain_fields(header: Mapping[str, Any]) -> dict[str, Any]:
    header = {"tie_score": "mean", **header}  # Younger than the format.
    values = {f.name: header[f.name] for f in _plain()}
    for f in _plain():
        if not isinstance(values[f.name], _JSON_TYPES[str(f.type)]):
            raise TypeError(f"{f.name} is {values[f.name]!r}")
    return values | {"distances": tuple(values["distances"]), "flags": tuple(values["flags"])}
