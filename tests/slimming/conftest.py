"""Shared by the slimming tests: random statistics, random masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from earlybird.core import ChannelGroups, ChannelMask, draw_mask

Randomise = Callable[[nn.Module], nn.Module]
RandomMask = Callable[..., ChannelMask]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomised() -> Randomise:
    def randomise(model: nn.Module) -> nn.Module:
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine:
                nn.init.uniform_(norm.weight, 0.3, 1.0)
                nn.init.normal_(norm.bias, std=0.3)
                norm.running_mean.normal_(std=0.2)
                norm.running_var.uniform_(0.5, 2.0)
        return model

    return randomise


@pytest.fixture
def random_mask() -> RandomMask:
    def draw(groups: ChannelGroups, prune_ratio: float = 0.5) -> ChannelMask:
        scores = {name: torch.rand(units.numel()) for name, units in groups.unit_of.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The floor of one channel per layer holds at 0.99.
            return draw_mask(scores, prune_ratio, groups)

    return draw
