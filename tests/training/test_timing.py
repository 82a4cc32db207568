"""`step_times`: steps in turns, as many as the ratio needs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from earlybird.settings.run import TrainingSettings
from earlybird.training import timing
from earlybird.training.compute import Compute
from earlybird.training.timing import Seconds, step_times

CPU = Compute(torch.device("cpu"), "fp32")
NETWORKS = {"dense": nn.Identity(), "slim": nn.Identity()}


def steps_of(monkeypatch: pytest.MonkeyPatch, *seconds: list[float]) -> list[int]:
    """Steps that take these CPU seconds, over and over, after a slow warm-up; counts how many each network did."""
    done = [0] * len(seconds)
    places = count()

    def timed(*_: Any) -> Iterator[Seconds]:
        place = next(places)
        values = cycle(seconds[place])
        while True:
            done[place] += 1
            warm = done[place] <= timing.WARM_UP_STEPS
            yield Seconds(9.0 if warm else next(values), 7.0)

    monkeypatch.setattr(timing, "_timed_steps", timed)
    return done


def times(networks: dict[str, nn.Module]) -> dict[str, Seconds]:
    return step_times(networks, None, TrainingSettings(), CPU)  # type: ignore[arg-type]


def test_a_quiet_machine_needs_few_turns(monkeypatch: pytest.MonkeyPatch):
    done = steps_of(monkeypatch, [0.2], [0.1])
    found = times(NETWORKS)
    assert done == [8, 8]  # two that warm up, six that count
    assert (found["dense"].cpu, found["slim"].cpu) == pytest.approx((0.2, 0.1))
    assert found["slim"].wall == found["dense"].wall == 7.0


def test_what_slows_both_at_once_does_not_count(monkeypatch: pytest.MonkeyPatch):
    """The median of the ratios is known after six turns, whatever the seconds do."""
    done = steps_of(monkeypatch, [0.2, 0.6, 0.2, 0.9], [0.1, 0.3, 0.1, 0.45])
    found = times(NETWORKS)
    assert done == [8, 8]
    assert found["slim"].cpu / found["dense"].cpu == pytest.approx(0.5)


def test_noise_takes_more_turns_and_is_bounded(monkeypatch: pytest.MonkeyPatch):
    done = steps_of(monkeypatch, [0.2, 0.2, 0.2], [0.08, 0.1, 0.12])
    found = times(NETWORKS)
    assert done == [14, 14]
    assert found["slim"].cpu == pytest.approx(0.1)


def test_one_network_alone_is_timed_by_its_own_seconds(monkeypatch: pytest.MonkeyPatch):
    done = steps_of(monkeypatch, [0.2, 0.25, 0.3])
    assert times({"dense": nn.Identity()})["dense"].cpu == pytest.approx(0.25)
    assert done == [14]


def test_slow_steps_end_by_the_clock(monkeypatch: pytest.MonkeyPatch):
    done = steps_of(monkeypatch, [0.2, 0.2, 0.2], [0.08, 0.1, 0.12])
    monkeypatch.setattr(timing, "_ENOUGH_SECONDS", -1.0)
    times(NETWORKS)
    assert done == [8, 8]


def test_real_steps_change_nothing_and_see_full_batches(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    from earlybird.data import train_batches
    from earlybird.data.catalog import load_data

    bundle = load_data(f"{tiny}:data")
    train = train_batches(bundle, batch_size=40, seed=0, augment="flip", device=CPU.device, workers=0)  # 90 images
    seen: list[int] = []
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    dense.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    state = torch.get_rng_state()
    found = step_times({"dense": dense}, train, TrainingSettings(), CPU)
    assert found["dense"].cpu > 0 and found["dense"].wall > 0
    assert set(seen) == {40} and len(seen) >= 8
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())
