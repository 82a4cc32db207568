"""Final network of a run on disk, `model.safetensors` beside `config.json`, and a dense run to start from.

The files are those of `earlybird.save`; here the factory's arguments are what every network is told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError, MethodError
from earlybird.methods.task import DenseRun
from earlybird.models import build_model
from earlybird.models.model_file import DESCRIPTION, load, read_description, save
from earlybird.runs.record_file import record_of
from earlybird.settings.catalog import Dense
from earlybird.settings.fields import check_settings
from earlybird.settings.run import RunConfig, differences, refuse_unnamed_code, with_younger_settings

# Settings that change no weight: a dense run that differs in them is the same training.
_WITHOUT_EFFECT = (
    "data.root", "data.cache", "data.download", "data.workers", "training.checkpoint_every", "training.eval_batch_size",
)  # fmt: skip


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
        return build_model(**asdict(self), seed=seed)

    def example_input(self) -> torch.Tensor:
        """One zero image."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)


def save_network(folder: Path, model: nn.Module, spec: NetworkSpec, mask: ChannelMask | None) -> None:
    """Write the two files of a network."""
    kwargs = asdict(spec)
    save(model, folder, factory=kwargs.pop("name"), kwargs=kwargs, mask=mask)


def load_network(folder: Path, *, trusted: Collection[str] = ()) -> tuple[nn.Module, NetworkSpec]:
    """Rebuild the final network of a run, in eval mode.

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


def load_dense_run(folder: Path, config: RunConfig, precision: str) -> DenseRun:
    """Final state of the dense run in `folder`, of the same network, data and training as `config`.

    config and precision are those of the run that is to start from it.

    Raises:
        RunFolderError: the folder holds no finished run.
        MethodError: it is no dense run, or of another network, data, training or precision.
        CheckpointError: its network cannot be read.
    """
    record = record_of(folder)
    if (method := record["config"]["method"]["name"]) != Dense.name:
        raise MethodError(f"run {folder} is one of method {method}; give a run of method dense")
    if record["config"]["training"].get("budget_macs"):
        raise MethodError(
            f"run {folder} was trained for as long as its training.budget_macs allowed; give one without a budget"
        )
    changes = [
        change
        for change in differences(with_younger_settings(record["config"], config), config.to_dict())
        if not change.startswith(("method.", "training.budget_macs", *_WITHOUT_EFFECT))
    ]
    if (theirs := record["resolved"]["precision"]) != precision:
        changes.append(f"precision: {theirs!r} -> {precision!r}")
    if changes:
        raise MethodError(f"run {folder} is of another training ({'; '.join(changes[:4])}); give one of the same")
    model, _ = load_network(folder, trusted=(config.model.name,))  # the user has named it
    rows = [{**row, "phase": "search"} for row in record["metrics"]]
    ledger = [{**record["cost"]["phases"]["train"], "phase": "search"}]
    return DenseRun(model.state_dict(), {"rows": rows, "ledger": ledger})
