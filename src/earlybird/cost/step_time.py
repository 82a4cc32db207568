"""Seconds of a training step, measured: several networks in turns, so that what else the machine does falls on all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlybird.copying import copied
from earlybird.errors import ModelError


def step_seconds(
    networks: Mapping[str, nn.Module], images: Tensor, *, rounds: int = 5, device: str | torch.device = "cpu"
) -> dict[str, float]:
    """Median seconds of forward, backward and SGD step of each network, on `images` `[n, c, h, w]`, in float32.

    Runs on copies, in train mode, with a loss that reads every output. The first round warms up and does not count. An
    absolute time means little on a shared machine; the ratio of two in one call does.

    Raises:
        ModelError: a network does not run on these images.
    """
    steps = {name: _Step(copied(model).to(device).train(), images.to(device)) for name, model in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            try:
                took = step()
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ModelError(f"network {name!r} does not train on images {list(images.shape)}: {reason}") from error
            if round_number:
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}


class _Step:
    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> float:
        self._wait()
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        outputs = [x for x in pytree.tree_leaves(self.model(self.images)) if isinstance(x, Tensor)]
        torch.stack([x.float().square().mean() for x in outputs]).sum().backward()
        self.optimizer.step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.images.is_cuda:
            torch.cuda.synchronize(self.images.device)
