"""A finished network on disk: `model.safetensors` beside `config.json`, rebuilt by shape without executing anything.

`config.json` names the factory and the kept channels of every cut layer; loading builds the dense network, cuts it by
them and fills in the tensors.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError
from earlybird.models import build_model
from earlybird.slimming import channel_groups, slim
from earlybird.training.checkpoint import write_atomically

FORMAT_VERSION = 1


@dataclass(frozen=True)
class NetworkSpec:
    """What `build_model` needs to make the dense network again."""

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    width: float

    def build(self, seed: int) -> nn.Module:
        """The dense network with the initial weights of a seed."""
        return build_model(
            self.name,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            width=self.width,
            image_size=self.image_size,
            seed=seed,
        )

    def example_input(self) -> torch.Tensor:
        """One zero image."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)


def save_network(folder: Path, model: nn.Module, spec: NetworkSpec, mask: ChannelMask | None, policy: str) -> None:
    """Write both files."""
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    data = safetensors.torch.save(tensors)
    kept = None if mask is None else {name: torch.nonzero(keep).flatten().tolist() for name, keep in mask.items()}
    description = {
        "format_version": FORMAT_VERSION,
        "network": asdict(spec),
        "policy": policy,
        "widths": None if mask is None else mask.widths(),
        "kept_channels": kept,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomically(folder / "model.safetensors", data)
    write_atomically(folder / "config.json", json.dumps(description, indent=1).encode())


def load_network(folder: Path) -> tuple[nn.Module, NetworkSpec]:
    """Rebuild the network that a run ended with.

    Raises:
        CheckpointError: a file is missing, corrupt, or of another format version.
    """
    description = _read_description(folder / "config.json")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the folder of a finished run")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description["sha256"]:
        raise CheckpointError(f"{path} is corrupt (sha256 differs from config.json); restore the file or run again")
    spec = NetworkSpec(**description["network"])
    model = spec.build(seed=0)
    if description["kept_channels"] is not None:
        mask = _mask(description["widths"], description["kept_channels"])
        groups = channel_groups(model, spec.example_input(), description["policy"])
        model = slim(model, mask, spec.example_input(), groups)
    model.load_state_dict(safetensors.torch.load(data))
    return model, spec


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the folder of a finished run")
    try:
        description = json.loads(path.read_text())
        version = description["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); restore the file or run again") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}, this version reads {FORMAT_VERSION}; run again")
    return dict(description)


def _mask(widths: dict[str, int], kept: dict[str, list[int]]) -> ChannelMask:
    layers = {}
    for name, width in widths.items():
        layers[name] = torch.zeros(width, dtype=torch.bool)
        layers[name][kept[name]] = True
    return ChannelMask(layers)
