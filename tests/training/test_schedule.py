from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird.errors import ConfigError
from earlybird.settings.run import TrainingSettings
from earlybird.training.loop import _rate_within, drop_steps, learning_rate
from earlybird.training.state import Span
from earlybird.training.step import make_optimizer

PAPER = TrainingSettings(epochs=160, lr=0.1)
PAPER_STEPS = 160 * 196


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.1), (79, 0.1), (80, 0.01), (119, 0.01), (120, 0.001), (159, 0.001)]
)
def test_step_schedule_is_the_papers_80_120_at_160_epochs(epoch: int, expected: float):
    assert learning_rate(epoch * 196, PAPER_STEPS, PAPER) == expected


def test_the_last_step_before_a_drop_still_has_the_old_rate():
    assert learning_rate(80 * 196 - 1, PAPER_STEPS, PAPER) == 0.1
    assert drop_steps(PAPER_STEPS, PAPER) == [80 * 196, 120 * 196]


def test_a_short_run_is_the_same_schedule_scaled():
    assert [learning_rate(s, 8, PAPER) for s in range(8)] == [0.1] * 4 + [0.01] * 2 + [0.001] * 2


def test_warm_up_rises_linearly_to_the_full_rate():
    settings = TrainingSettings(lr=0.4, warmup=0.25, schedule="constant")
    assert [learning_rate(s, 16, settings) for s in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_a_stretch_with_a_warm_up_rises_to_where_its_schedule_is():
    settings, span = TrainingSettings(lr=0.1), Span("retrain", 40, 100, warm_up_steps=20)
    rates = [_rate_within(span, step, 100, settings) for step in range(40, 100)]
    assert rates[:20] == pytest.approx(
        [0.01 * step / 20 for step in range(1, 21)]
    )  # step 60 comes after the first drop
    assert rates[20:] == [learning_rate(step, 100, settings) for step in range(60, 100)]
    plain = Span("retrain", 40, 100)
    assert _rate_within(plain, 40, 100, settings) == learning_rate(40, 100, settings)


def test_cosine_starts_full_passes_half_and_ends_near_zero():
    settings = TrainingSettings(lr=0.2, schedule="cosine")
    assert learning_rate(0, 100, settings) == 0.2
    assert learning_rate(50, 100, settings) == pytest.approx(0.1)
    assert learning_rate(99, 100, settings) < 0.001
    assert drop_steps(100, settings) == []


def test_linear_falls_to_zero_over_what_follows_the_warm_up():
    settings = TrainingSettings(lr=0.4, warmup=0.25, schedule="linear")
    rates = [learning_rate(step, 16, settings) for step in (0, 3, 4, 10, 15, 16)]
    assert rates == pytest.approx([0.1, 0.4, 0.4, 0.2, 0.4 / 12, 0.0])
    assert drop_steps(16, settings) == []


def test_nesterov_looks_ahead_by_the_momentum():
    """A weight 1 with gradient 2, rate .1, momentum .5: plain steps .2 and .3, Nesterov's .3 (2 + .5 * 2) and .35."""
    for nesterov, expected in ((False, [0.8, 0.5]), (True, [0.7, 0.35])):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        settings = TrainingSettings(lr=0.1, momentum=0.5, weight_decay=0.0, nesterov=nesterov)
        for kind in ("eager", "captured"):
            nn.init.ones_(model.weight)
            optimizer, found = make_optimizer(model, settings, kind), []
            for _ in range(2):
                model.weight.grad = torch.full((1, 1), 2.0)
                optimizer.step()
                found.append(model.weight.item())
            assert found == pytest.approx(expected)


def test_nesterov_without_momentum_is_refused():
    told = "^training.nesterov needs momentum, which is 0; give --training.momentum 0.9, or leave it out$"
    with pytest.raises(ConfigError, match=told):
        TrainingSettings(momentum=0.0, nesterov=True)


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("epochs", 0, "an integer >= 1"),
        ("batch_size", 0, "an integer >= 1"),
        ("lr", 0.0, "a number > 0"),
        ("lr", float("nan"), "a number > 0"),
        ("momentum", 1.0, r"a number in \[0, 1\)"),
        ("schedule", "triangle", "step, cosine, linear, constant"),
        ("milestones", (0.75, 0.5), "rising fractions"),
        ("label_smoothing", 1.0, r"a number in \[0, 1\)"),
        ("precision", "fp16", "auto, fp32, bf16"),
        ("seed", -1, r"an integer in \[0, 2147483648\)"),
    ],
)
def test_a_setting_out_of_range_names_field_value_and_legal_values(field: str, value: object, legal: str):
    with pytest.raises(ConfigError, match=rf"training\.{field} is .*; give {legal}"):
        TrainingSettings(**{field: value})
