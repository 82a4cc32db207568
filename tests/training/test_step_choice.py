"""Which form a step takes: what a CPU is given, what was settled before, and which trial wins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from earlybird.errors import ConfigError
from earlybird.settings.run import TrainingSettings
from earlybird.training import step_choice
from earlybird.training.compute import Compute
from earlybird.training.step_choice import choose_step, fastest, resolved_compute

CPU = torch.device("cpu")
SHAPE = (8, 3, 8, 8)


class Network(nn.Sequential):
    def __init__(self, waits: bool = False) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.waits = waits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2 if self.waits and x.sum().item() > 0 else x)


@pytest.mark.parametrize(("asked", "given"), [("auto", "eager"), ("eager", "eager"), ("compiled", "compiled")])
def test_a_cpu_is_given_what_is_asked_for_without_a_trial(asked: Any, given: str, monkeypatch):
    monkeypatch.setattr(step_choice, "_step_seconds", lambda *a: pytest.fail("a CPU needs no trial"))
    found = choose_step(TrainingSettings(step=asked), Network(), SHAPE, Compute(CPU, "bf16", tf32="all"))
    assert found == Compute(CPU, "bf16", given, "channels_last", "all")


def test_a_cpu_has_no_captured_step():
    with pytest.raises(ConfigError, match="training.step is 'captured', but cpu has no CUDA graphs"):
        choose_step(TrainingSettings(step="captured"), Network(), SHAPE, Compute(CPU))


def test_what_was_resolved_is_taken_over():
    assert resolved_compute(Compute(CPU), {"precision": "fp32"}) == Compute(CPU)
    found = resolved_compute(Compute(CPU), {"step": "captured", "layout": "contiguous"})
    assert found == Compute(CPU, step="captured", layout="contiguous")
    assert found.memory_format == torch.contiguous_format


def test_without_a_layout_the_format_is_that_of_older_versions():
    gpu = torch.device("cuda")
    formats = [Compute(device, precision).memory_format for device in (CPU, gpu) for precision in ("fp32", "bf16")]
    assert formats == [torch.channels_last, torch.channels_last, torch.contiguous_format, torch.channels_last]


def candidates() -> list[Compute]:
    return [Compute(CPU, step=kind, layout="contiguous") for kind in ("eager", "captured")]


def test_the_faster_form_wins_and_the_network_stays(fake, monkeypatch):
    """Seconds of a clock that a replay does not move."""
    clock = [0.0]
    original = step_choice.EpochSums.add

    def add(*values: Any) -> None:
        clock[0] += 1
        original(*values)

    monkeypatch.setattr(step_choice.EpochSums, "add", add)
    monkeypatch.setattr(step_choice, "_STEPS", 2)
    monkeypatch.setattr(step_choice, "read_clocks", lambda device: (clock[0], 0.0))
    model, before = Network(), [value.clone() for value in Network().state_dict().values()]
    found = fastest(candidates(), TrainingSettings(), model, torch.randn(SHAPE))
    assert found.step == "captured" and fake.replays == 4 * 2 + 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


def test_a_form_that_cannot_be_is_no_candidate(fake):
    with pytest.warns(UserWarning, match="cannot be captured .*synchronizing.* runs eager"):
        assert fastest(candidates()[::-1], TrainingSettings(), Network(waits=True), torch.randn(SHAPE)).step == "eager"
    with pytest.raises(ConfigError, match="training.step is 'captured', but the step cannot be"):
        fastest(candidates()[1:], TrainingSettings(step="captured"), Network(waits=True), torch.randn(SHAPE))
