from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird.cost.step_time import step_seconds
from earlybird.errors import ModelError


def test_each_network_gets_its_seconds_and_is_left_alone():
    small, large = nn.Conv2d(3, 2, 1), nn.Sequential(*(nn.Conv2d(3, 3, 9, padding=4) for _ in range(6)))
    before = [p.clone() for p in large.parameters()]
    seconds = step_seconds({"small": small, "large": large}, torch.randn(4, 3, 48, 48), rounds=3)
    assert list(seconds) == ["small", "large"]
    assert all(value > 0 for value in seconds.values())
    assert all(torch.equal(a, b) for a, b in zip(before, large.parameters(), strict=True))


def test_images_a_network_cannot_take_are_named():
    with pytest.raises(ModelError, match=r"network 'net' does not train on images \[2, 4, 8, 8\]"):
        step_seconds({"net": nn.Conv2d(3, 2, 1)}, torch.zeros(2, 4, 8, 8))
