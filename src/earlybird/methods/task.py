"""`Task`: what a method works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, PolicyChoice
from earlybird.cost import ModelCost, count_cost_and_traffic
from earlybird.data import Batches
from earlybird.slimming import channel_groups
from earlybird.training.session import Session


@dataclass
class Task:
    """The network, how to make it again, its data's shape, the session and the run folder.

    Attributes:
        build_from_seed: seed -> the dense network with that seed's initial weights, on the CPU.
        image_shape: (channels, height, width) of one image.
        session: data, settings and places of the run.
        folder: where a method may leave files (tickets, scales).
        seed: the run's model seed.
        classes: number of classes of the data.
        sample: n -> batches of n training images, each class by its share, not augmented; the same ones each time.
    """

    build_from_seed: Callable[[int], nn.Module]
    image_shape: tuple[int, int, int]
    session: Session
    folder: Path
    seed: int
    classes: int
    sample: Callable[[int], Batches]
    _costs: WeakKeyDictionary[nn.Module, ModelCost] = field(default_factory=WeakKeyDictionary, repr=False)

    def build(self, seed: int | None = None) -> nn.Module:
        """The dense network, placed; the same weights for the same seed, by default the run's."""
        return self.session.compute.place(self.build_from_seed(self.seed if seed is None else seed))

    def example_input(self) -> Tensor:
        """A batch of two zero images on the run's device, to trace with: as in training, more than one."""
        return torch.zeros(2, *self.image_shape, device=self.session.compute.device)

    def groups(self, model: nn.Module, policy: str) -> ChannelGroups:
        """Channel groups of `model` under a residual policy, which is refused where it is none."""
        return channel_groups(model, self.example_input(), cast(PolicyChoice, policy))

    def cost(self, model: nn.Module) -> ModelCost:
        """Cost of one image in `model`, at the run's precision; counted once for each network."""
        if model not in self._costs:
            precision = self.session.compute.precision
            self._costs[model] = count_cost_and_traffic(model, self.image_shape, precision)
        return self._costs[model]
