"""Clocks of a device, and measured seconds of a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlybird.copying import copied
from earlybird.errors import ModelError, first_line


def read_clocks(device: torch.device) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all threads, once the device has done its queued work; differences count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def step_seconds(
    networks: Mapping[str, nn.Module], images: Tensor, *, rounds: int = 5, device: str | torch.device = "cpu"
) -> dict[str, float]:
    """Median seconds of forward, backward and SGD step of each network, on `images` `[n, c, h, w]`, in float32.

    Runs on copies, in train mode, in turns, so that what else the machine does falls on all. The first round warms up
    and does not count. An absolute time means little on a shared machine; the ratio of two in one call does.

    Raises:
        ModelError: a network does not run on these images.
    """
    steps = {
        name: TrainingStep(copied(model).to(device).train(), images.to(device)) for name, model in networks.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            try:
                took = step.seconds()
            except RuntimeError as error:
                told = f"network {name!r} does not train on images {list(images.shape)}: {first_line(error)}"
                raise ModelError(told) from error
            if round_number:
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}


class TrainingStep:
    """Forward, backward and SGD step of a network, in place and repeatable, with a loss that reads every output.

    Args:
        model: in train mode, on the device of the images.
        images: `[n, c, h, w]`.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self.model, self.images, self.autocast = model, images, autocast
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)

    def seconds(self) -> float:
        """Wall seconds of one step."""
        start, _ = read_clocks(self.images.device)
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = [x for x in pytree.tree_leaves(self.model(self.images)) if isinstance(x, Tensor)]
        torch.stack([x.float().square().mean() for x in outputs]).sum().backward()
        self.optimizer.step()
        return read_clocks(self.images.device)[0] - start
