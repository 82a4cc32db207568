"""`Compute`: device and numeric precision of a run, and the choice between them.

bf16 means autocast around forward and loss with fp32 weights. `auto` is answered once by measuring; the answer is
written into the run's configuration and reused when it resumes, because a run must not change its numbers half-way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.cost.step_time import TrainingStep
from earlybird.errors import ConfigError, require
from earlybird.settings.run import PrecisionChoice

Precision = Literal["fp32", "bf16"]

# A gain below this is not worth other numerics than the reference's.
_WORTHWHILE = 0.95
_TRIALS = 3


@dataclass(frozen=True)
class Compute:
    """Device and precision of one run."""

    device: torch.device
    precision: Precision = "fp32"

    @property
    def memory_format(self) -> torch.memory_format:
        """channels_last wherever it was measured or is known to be faster: on a CPU always, on a GPU with bf16."""
        is_faster = self.device.type == "cpu" or self.precision == "bf16"
        return torch.channels_last if is_faster else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which forward and loss are computed."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, model: nn.Module) -> nn.Module:
        """The model, moved to the device and laid out for this precision (in place for its parameters)."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]


def choose_device(name: str) -> torch.device:
    """Device of this machine for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"training.device is {name!r}; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"training.device is {name!r}, but {count} CUDA devices are visible; give cpu")
    return device


def choose_precision(choice: str, model: nn.Module, batch: Tensor, device: torch.device) -> Precision:
    """Resolve "auto" by timing a training step in fp32 and in bf16; keep any other choice.

    Args:
        model: the dense network; it is not changed.
        batch: float32 `[n, c, h, w]`, a batch like those of the run.

    Raises:
        ConfigError: `choice` is none of these.
    """
    require("training.precision", choice, choice in get_args(PrecisionChoice), "auto, fp32 or bf16")
    if choice != "auto":
        return "fp32" if choice == "fp32" else "bf16"
    fp32 = _step_seconds(model, batch, Compute(device, "fp32"))
    return "bf16" if _step_seconds(model, batch, Compute(device, "bf16")) < _WORTHWHILE * fp32 else "fp32"


def _step_seconds(model: nn.Module, batch: Tensor, compute: Compute) -> float:
    """Best of a few training steps, after one that warms up."""
    images = batch.to(compute.device).contiguous(memory_format=compute.memory_format)
    step = TrainingStep(compute.place(copied(model)).train(), images, compute.autocast)
    return min([step.seconds() for _ in range(1 + _TRIALS)][1:])
