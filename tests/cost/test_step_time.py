from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from earlybird.cost import meter, step_seconds
from earlybird.errors import ModelError


def test_clocks_are_wall_and_cpu_seconds(monkeypatch):
    clocks = SimpleNamespace(perf_counter=lambda: 3.0, process_time=lambda: 1.0)
    monkeypatch.setattr(meter, "time", clocks)
    assert meter.read_clocks(torch.device("cpu")) == (3.0, 1.0)


def test_each_network_gets_its_median_seconds_and_is_left_alone(monkeypatch):
    small, large = nn.Conv2d(3, 2, 1), nn.Sequential(nn.Conv2d(3, 3, 9, padding=4), nn.Conv2d(3, 3, 9, padding=4))
    clock = itertools.accumulate(itertools.chain([0, 9, 0, 8], [0, 1, 0, 2], [0, 5, 0, 4], [0, 3, 0, 9]))
    monkeypatch.setattr(meter, "read_clocks", lambda device: (next(clock), 0.0))
    before = [p.clone() for p in large.parameters()]
    seconds = step_seconds({"small": small, "large": large}, torch.randn(4, 3, 48, 48), rounds=3)
    assert seconds == {"small": 3, "large": 4}  # medians of 1, 5, 3 and of 2, 4, 9: the first round does not count
    assert all(torch.equal(a, b) for a, b in zip(before, large.parameters(), strict=True))


def test_images_a_network_cannot_take_are_named():
    with pytest.raises(ModelError, match=r"network 'net' does not train on images \[2, 4, 8, 8\]"):
        step_seconds({"net": nn.Conv2d(3, 2, 1)}, torch.zeros(2, 4, 8, 8))
