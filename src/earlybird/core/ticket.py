"""`Ticket`: what the detector hands out, and its file.

A ticket is a mask, the dense weights of the moment it was drawn, and how it was drawn. On disk it is one safetensors
file whose header carries JSON and a sha256 of the tensors; nothing in it can execute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from earlybird.core.mask import ChannelMask
from earlybird.errors import MaskError, TicketError

FORMAT_VERSION = 1
_HEADER = "earlybird_ticket"


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
        policy: residual policy of the groups, "none" without groups.
        groups_digest: digest of the groups, "" without.
        distances: consecutive mask distances so far; the first is draw 2 against draw 1.
        flags: what to know before trusting it, one sentence each.
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
    policy: str = "none"
    groups_digest: str = ""
    distances: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the ticket to `path` (safetensors), replacing an older one atomically."""
        path = Path(path)
        tensors = {f"mask.{name}": keep.to(torch.uint8) for name, keep in self.mask.items()}
        # Cloned one by one: safetensors refuses tensors that share memory.
        tensors |= {
            f"weights.{name}": value.detach().cpu().clone().contiguous() for name, value in self.weights.items()
        }
        header = {
            "format_version": FORMAT_VERSION,
            "layers": list(self.mask),
            "sha256": _digest(tensors),
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("mask", "weights")},
        }
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            save_file(tensors, temporary, metadata={_HEADER: json.dumps(header)})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Read a ticket back.

        Raises:
            TicketError: the file is missing, no ticket, truncated, of another format version, or fails its sha256.
        """
        path = Path(path)
        tensors, header = _read(path)
        if header.get("format_version") != FORMAT_VERSION:
            raise TicketError(
                f"ticket {path} has format version {header.get('format_version')!r}, this one reads {FORMAT_VERSION}; "
                "draw it again"
            )
        if header.get("sha256") != _digest(tensors):
            raise TicketError(f"ticket {path} is corrupt (sha256 differs); draw it again or restore the file")
        try:
            mask = ChannelMask({name: tensors[f"mask.{name}"].bool() for name in header["layers"]})
            plain = {f.name: header[f.name] for f in dataclasses.fields(cls) if f.name not in ("mask", "weights")}
            plain |= {"distances": tuple(plain["distances"]), "flags": tuple(plain["flags"])}
            weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
            return cls(mask=mask, weights=weights, **plain)
        except (KeyError, TypeError, MaskError) as error:
            raise TicketError(f"ticket {path} lacks a part ({error}); draw it again or restore the file") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise TicketError(f"ticket {path} does not exist; give the path of a ticket.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads(metadata[_HEADER])
    except KeyError:
        raise TicketError(f"{path} is a safetensors file but no ticket; give a ticket.safetensors") from None
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TicketError(f"ticket {path} is corrupt ({reason}); draw it again or restore the file") from error
    if not isinstance(header, dict):
        raise TicketError(f"ticket {path} is corrupt (its header is no object); draw it again or restore the file")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 over names, types, shapes and bytes: safetensors itself loads a flipped bit silently."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        sha.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
