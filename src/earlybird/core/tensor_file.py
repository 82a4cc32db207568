"""`TensorFormat`: tensors and JSON in one safetensors file in which no byte can change unnoticed.

The header carries JSON that begins with the sha256 of the whole file, taken with zeros in the digest's own place.
Nothing in such a file can execute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from earlybird.atomic import write_atomically
from earlybird.errors import MaskError, TicketError

Parsed = TypeVar("Parsed")

_NO_DIGEST = b"0" * 64


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
            TicketError: the header is no JSON.
            OSError: the disk is full or refuses; an older file is intact.
        """
        write_atomically(path, self._sealed(header, tensors))

    def load(self, path: Path, parse: Callable[[dict[str, Any], dict[str, Tensor]], Parsed]) -> Parsed:
        """Value that `parse` makes of the JSON and the tensors of a file that is as it was written.

        Raises:
            TicketError: the file is missing, of another kind or format version, truncated, lacks a part, or fails its
                sha256.
        """
        if not path.exists():
            raise TicketError(f"{self.what} {path} does not exist; give the path of a {self.give}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TicketError(f"{self.what} {path} cannot be read ({error.strerror}); give a {self.give}") from error
        header = self._checked_header(path, data)
        try:
            return parse(header, safetensors.torch.load(data))
        except (KeyError, TypeError, ValueError, RuntimeError, MaskError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TicketError(f"{self.what} {path} lacks a part ({reason}); {self.mend}") from error

    def _sealed(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
        # The digest first, so that nothing before it can look like it.
        header = {"sha256": _NO_DIGEST.decode(), "format_version": self.version, **header}
        try:
            text = json.dumps(header)
        except (TypeError, ValueError) as error:
            raise TicketError(
                f"the {self.what} cannot be written as JSON ({error}); give plain values in notes"
            ) from error
        # Cloned one by one: safetensors refuses tensors that share memory.
        alone = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
        }
        data = safetensors.torch.save(alone, metadata={self.key: text})
        return data.replace(_NO_DIGEST, hashlib.sha256(data).hexdigest().encode(), 1)

    def _checked_header(self, path: Path, data: bytes) -> dict[str, Any]:
        try:
            end = 8 + int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8:end]).get("__metadata__", {}) if 8 < end <= len(data) else None
        except (ValueError, AttributeError, RecursionError):
            metadata = None
        if metadata is None:
            raise TicketError(f"{self.what} {path} is corrupt or no safetensors file; {self.mend}")
        if not isinstance(metadata, dict) or self.key not in metadata:
            raise TicketError(f"{path} is a safetensors file but no {self.what}; give a {self.give}")
        try:
            header: dict[str, Any] = json.loads(metadata[self.key])
            version, digest = header["format_version"], str(header["sha256"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise TicketError(f"{self.what} {path} is corrupt (its header cannot be read); {self.mend}") from error
        if version != self.version:
            raise TicketError(
                f"{self.what} {path} has format version {version!r}, this version of earlybird reads {self.version}; "
                f"{self.mend.partition(' or ')[0]}"
            )
        if hashlib.sha256(data.replace(digest.encode(), _NO_DIGEST, 1)).hexdigest() != digest:
            raise TicketError(f"{self.what} {path} is corrupt (sha256 differs); {self.mend}")
        return header
