"""A finished network on disk: `model.safetensors` beside `config.json`, rebuilt by shape.

`config.json` names the factory and the kept channels of every cut layer; loading builds the dense network, cuts it by
them and fills in the tensors. A factory that is code of the user's own runs only if the user names it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from earlybird.core import ChannelGroups, ChannelMask
from earlybird.errors import CheckpointError
from earlybird.models import build_model
from earlybird.runs.config import is_code, refuse_unnamed_code
from earlybird.slimming import channel_groups, slim
from earlybird.training.checkpoint import write_atomically
from earlybird.training.fields import check_types, require

FORMAT_VERSION = 1
# A file that says it was cut from a network larger than this is not believed: to build that would fill the memory.
_MOST_DENSE_PARAMS_PER_KEPT = 10_000


@dataclass(frozen=True)
class NetworkSpec:
    """What `build_model` needs to make the dense network again.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    width: float

    def __post_init__(self) -> None:
        check_types("network", self)
        for name, most in (("num_classes", 1_000_000), ("in_channels", 1000), ("image_size", 10_000)):
            value = getattr(self, name)
            require(f"network.{name}", value, 1 <= value <= most, f"an integer in [1, {most}]")
        require("network.width", self.width, 0 < self.width < 100, "a number in (0, 100)")

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


def load_network(folder: Path, *, trusted: Collection[str] = ()) -> tuple[nn.Module, NetworkSpec]:
    """Rebuild the network that a run ended with.

    Args:
        folder: the folder of a finished run.
        trusted: names of models in the user's own code (`file.py:callable`) that may be imported and called.

    Raises:
        CheckpointError: a file is missing, corrupt, or of another format version.
        ConfigError: the network is code that is not among `trusted`.
    """
    description = _read_description(folder / "config.json")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the folder of a finished run")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise CheckpointError(f"{path} is corrupt (sha256 differs from config.json); restore the file or run again")
    try:
        spec = NetworkSpec(**description["network"])
        refuse_unnamed_code("--model", spec.name, trusted)
        tensors = safetensors.torch.load(data)
        _refuse_huge(spec, tensors, path)
        model = spec.build(seed=0)
        if description["kept_channels"] is not None:
            groups = channel_groups(model, spec.example_input(), description["policy"])
            mask = _mask(description["widths"], description["kept_channels"], groups)
            model = slim(model, mask, spec.example_input(), groups)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{folder / 'config.json'} and model.safetensors describe no network ({reason}); restore them or run again"
        ) from error
    return model, spec


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the folder of a finished run")
    try:
        description = json.loads(path.read_bytes())
        version = description["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); restore the file or run again") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}, this version reads {FORMAT_VERSION}; run again")
    return dict(description)


def _refuse_huge(spec: NetworkSpec, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raise where the dense network would be far larger than what is left of it; nothing is allocated to find out."""
    if is_code(spec.name):
        return
    with torch.device("meta"):
        dense = sum(parameter.numel() for parameter in spec.build(seed=0).parameters())
    kept = sum(tensor.numel() for tensor in tensors.values())
    if dense > _MOST_DENSE_PARAMS_PER_KEPT * max(kept, 1):
        raise CheckpointError(f"{path} holds {kept} numbers of a network of {dense}; such a cut is not believed")


def _mask(widths: dict[str, int], kept: dict[str, list[int]], groups: ChannelGroups) -> ChannelMask:
    if widths != groups.widths():
        raise ValueError("the widths are not those of the network")
    layers = {}
    for name, width in widths.items():
        layers[name] = torch.zeros(width, dtype=torch.bool)
        layers[name][torch.tensor(kept[name], dtype=torch.int64)] = True
    return ChannelMask(layers)
