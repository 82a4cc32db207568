"""Final network of a run on disk: `model.safetensors` beside `config.json`, rebuilt by shape.

The files are those of `earlybird.save`; here the factory's arguments are what every network is told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError
from earlybird.models import build_model
from earlybird.models.model_file import DESCRIPTION, load, read_description, save
from earlybird.runs.config import refuse_unnamed_code
from earlybird.settings.fields import check_settings


@dataclass(frozen=True)
class NetworkSpec:
    """Arguments of `build_model` that make the dense network again.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str
    num_classes: int = field(metadata={"within": "[1, 1000000]"})
    in_channels: int = field(metadata={"within": "[1, 1000]"})
    image_size: int = field(metadata={"within": "[1, 10000]"})
    width: float = field(metadata={"within": "(0, 100)"})

    def __post_init__(self) -> None:
        check_settings("network", self)

    def build(self, seed: int) -> nn.Module:
        """Dense network with the initial weights of a seed."""
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


def save_network(folder: Path, model: nn.Module, spec: NetworkSpec, mask: ChannelMask | None) -> None:
    """Write the two files of a network."""
    kwargs = {key: value for key, value in asdict(spec).items() if key != "name"}
    save(model, folder, factory=spec.name, kwargs=kwargs, mask=mask)


def load_network(folder: Path, *, trusted: Collection[str] = ()) -> tuple[nn.Module, NetworkSpec]:
    """Rebuild the final network of a run, in eval mode.

    Args:
        folder: the folder of a finished run.
        trusted: names of models in the user's own code (`file.py:callable`) that may be imported and called.

    Raises:
        CheckpointError: a file is missing, corrupt, or of another format version.
        ConfigError: the network is code that is not among `trusted`.
    """
    path = folder / DESCRIPTION
    description = read_description(path)
    try:
        spec = NetworkSpec(name=description["factory"], **description["kwargs"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} describes no network of a run ({error}); restore it or run again") from error
    refuse_unnamed_code("--model", spec.name, trusted)
    return load(folder, factory=spec.name), spec
