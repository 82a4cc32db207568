"""`Ticket`: a mask, the dense weights of its moment, and how it was drawn; `TensorFormat`: the file that it is kept in.

No byte of such a file can change unnoticed: its header carries JSON that begins with the sha256 of the whole, taken
with zeros in the digest's own place. Nothing in it can execute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from earlybird.atomic import json_object, read_file, write_atomically
from earlybird.core.mask import ChannelMask
from earlybird.errors import TicketError, first_line, is_integer, is_number, path_given, reason, require_type

Parsed = TypeVar("Parsed")

_NO_DIGEST = b"0" * 64
# How a field's type reads in JSON.
_FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "text"),
    "int": (lambda value: is_integer(value) and value >= 0, "an integer >= 0"),
    "float": (lambda value: is_number(value) and 0 <= value < math.inf, "a number >= 0"),
    "tuple[float, ...]": (lambda value: _all(value, _is_share), "a tuple of numbers in [0, 1]"),
    "tuple[str, ...]": (lambda value: _all(value, lambda one: isinstance(one, str)), "a tuple of texts"),
    "Mapping[str, Any]": (lambda value: isinstance(value, Mapping), "a dict of JSON values"),
}


@dataclass(frozen=True)
class TensorFormat:
    """Format of a file of tensors and JSON, sealed by a sha256.

    Attributes:
        what: its content in a word, for messages: "ticket".
        key: name of our JSON in the file's metadata.
        version: format version that is written, and the only one that is read.
        mend: remedy for a bad file, for messages.
        give: a file to give instead, for messages.
    """

    what: str
    key: str
    version: int
    mend: str
    give: str

    def save(self, path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a file, replacing an older one in one step that survives a crash.

        Raises:
            TicketError: the header is no JSON, or the path is a folder.
            OSError: the disk is full or refuses; an older file is intact.
        """
        if path.is_dir():
            raise TicketError(f"{path} is a folder; give the path of a file, such as {path / self.give}")
        # The digest first, so that nothing before it can look like it.
        header = {"sha256": _NO_DIGEST.decode(), "format_version": self.version, **header}
        try:
            text = json.dumps(header)
        except (TypeError, ValueError) as error:
            told = f"the {self.what} cannot be written as JSON ({reason(error)}); give plain values in notes"
            raise TicketError(told) from error
        # Cloned one by one: safetensors refuses tensors that share memory.
        alone = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
        data = safetensors.torch.save(alone, metadata={self.key: text})
        write_atomically(path, data.replace(_NO_DIGEST, hashlib.sha256(data).hexdigest().encode(), 1))

    def load(self, path: Path, parse: Callable[[dict[str, Any], dict[str, Tensor]], Parsed]) -> Parsed:
        """Value that `parse` makes of the JSON and the tensors of a file that is as it was written.

        Raises:
            TicketError: the file is missing, of another kind or format version, truncated, lacks a part, or fails its
                sha256.
        """
        if not path.exists():
            raise TicketError(f"{self.what} {path} does not exist; give the path of a {self.give}")
        try:
            data = read_file(path)
        except OSError as error:
            raise TicketError(f"{self.what} {path} cannot be read ({reason(error)}); give a {self.give}") from error
        header = self._checked_header(path, data)
        try:
            return parse(header, safetensors.torch.load(data))
        except Exception as error:  # One that was changed and sealed again may hold anything.
            raise TicketError(
                f"{self.what} {path} is not as it was written ({first_line(error)}); {self.mend}"
            ) from error

    def _checked_header(self, path: Path, data: bytes) -> dict[str, Any]:
        try:
            end = 8 + int.from_bytes(data[:8], "little")
            metadata = json_object(data[8:end]).get("__metadata__", {}) if 8 < end <= len(data) else None
        except ValueError:
            metadata = None
        if metadata is None:
            raise TicketError(f"{self.what} {path} is corrupt or no safetensors file; {self.mend}")
        if not isinstance(metadata, dict) or self.key not in metadata:
            raise TicketError(f"{path} is a safetensors file but no {self.what}; give a {self.give}")
        try:
            header = json_object(metadata[self.key])
            version, digest = header["format_version"], str(header["sha256"])
        except (ValueError, AttributeError, KeyError) as error:
            raise TicketError(f"{self.what} {path} is corrupt (its header cannot be read); {self.mend}") from error
        if version != self.version:
            raise TicketError(
                f"{self.what} {path} has format version {version!r}, this version of earlybird reads {self.version}; "
                f"{self.mend.partition(' or ')[0]}"
            )
        if hashlib.sha256(data.replace(digest.encode(), _NO_DIGEST, 1)).hexdigest() != digest:
            raise TicketError(f"{self.what} {path} is corrupt (sha256 differs); {self.mend}")
        return header


def kept_flags(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Bool tensor of the uint8 tensor of 0 and 1 by which a file has it.

    Raises:
        KeyError, ValueError: there is none.
    """
    flags = tensors[name]
    if flags.dtype != torch.uint8 or bool((flags > 1).any()):
        raise ValueError(f"{name!r} has other values than 0 and 1, or another type")
    return flags.bool()


_FILE = TensorFormat("ticket", "earlybird_ticket", 2, "draw it again or restore the file", "ticket.safetensors")


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

    Raises:
        TicketError: a value is of another type, or out of range.
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

    def __post_init__(self) -> None:
        require_type("mask", self.mask, ChannelMask, TicketError, "give a ChannelMask")
        require_type("weights", self.weights, Mapping, TicketError, "give a state dict")
        for name, weight in self.weights.items():
            require_type(f"weight {name!r}", weight, Tensor, TicketError, "give a tensor")
        for f in _plain():
            (fits, expected), value = _FITS[str(f.type)], getattr(self, f.name)
            if not fits(value) or (f.name.endswith("_ratio") and value > 1):
                raise TicketError(f"{f.name} is {value!r:.80}; give {expected}")

    def __repr__(self) -> str:
        kept = f"keeps {sum(self.mask.kept_counts().values())} of {sum(self.mask.widths().values())} channels"
        ratio = f"prune ratio {self.prune_ratio:g} (realised {self.realised_ratio:.3f})"
        flags = f", {len(self.flags)} flags" if self.flags else ""
        return f"Ticket({kept} in {len(self.mask)} layers, {ratio}, draw {self.drawn_after}, rule {self.rule}{flags})"

    def save(self, path: str | Path) -> None:
        """Write the ticket to `path` (safetensors), replacing an older one in one step that survives a crash.

        Raises:
            TicketError: the notes are no JSON.
            OSError: the disk is full or refuses; an older file is intact.
        """
        tensors = {f"mask.{name}": keep.to(torch.uint8) for name, keep in self.mask.items()}
        tensors |= {f"weights.{name}": value for name, value in self.weights.items()}
        header = {"layers": list(self.mask), **{f.name: getattr(self, f.name) for f in _plain()}}
        _FILE.save(path_given("path", path, TicketError), header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Ticket:
        """Read a ticket back.

        Raises:
            TicketError: the file is missing, no ticket, truncated, of another format version, or fails its sha256.
        """

        def parse(header: dict[str, Any], tensors: dict[str, Tensor]) -> Ticket:
            mask = ChannelMask({name: kept_flags(tensors, f"mask.{name}") for name in header["layers"]})
            weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
            return cls(mask=mask, weights=weights, **_plain_fields(header))

        return _FILE.load(path_given("path", path, TicketError), parse)


def _plain() -> list[dataclasses.Field[Any]]:
    """The fields that are no tensors."""
    return [f for f in dataclasses.fields(Ticket) if f.name not in ("mask", "weights")]


_TUPLES = ("distances", "flags")


def _plain_fields(header: Mapping[str, Any]) -> dict[str, Any]:
    header = {"tie_score": "mean", **header}  # Younger than the format.
    values = {f.name: header[f.name] for f in _plain()}
    return values | {key: tuple(value) for key, value in values.items() if key in _TUPLES and isinstance(value, list)}


def _all(values: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(values, tuple) and all(map(fits, values))


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1
