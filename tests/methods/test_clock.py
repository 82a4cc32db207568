from __future__ import annotations

from itertools import pairwise

import pytest

from earlybird.errors import ConfigError
from earlybird.settings.catalog import METHODS, method_class
from earlybird.settings.method import DRAWS, PAPER_STEPS, Clock, EarlyBirdTraining


def draws(clock: Clock) -> list[int]:
    return [step for step in range(1, clock.total_steps + 1) if clock.is_draw(step)]


def test_scaled_is_the_papers_protocol_on_the_papers_cifar_run():
    clock = Clock("scaled", steps_per_epoch=196, total_steps=PAPER_STEPS)
    assert draws(clock) == [196 * epoch for epoch in range(1, 161)]
    assert clock.penalty(1e-4) == 1e-4


def test_scaled_draws_160_times_at_equal_intervals_over_any_schedule():
    clock = Clock("scaled", steps_per_epoch=391, total_steps=40 * 391)
    steps = draws(clock)
    assert len(steps) == DRAWS
    assert steps[-1] == 40 * 391
    assert {b - a for a, b in pairwise(steps)} <= {97, 98}
    assert clock.draws_by(1662) == 17


def test_scaled_strengthens_the_penalty_by_the_ratio_of_steps():
    assert Clock("scaled", 10, PAPER_STEPS // 4).penalty(1e-4) == pytest.approx(4e-4)


def test_a_short_run_draws_every_five_steps_and_at_least_once():
    assert draws(Clock("scaled", 5, 50)) == list(range(5, 51, 5))
    assert draws(Clock("scaled", 5, 228)) == [-(-draw * 228 // 45) for draw in range(1, 46)]
    assert draws(Clock("scaled", 5, 3)) == [3]
    assert draws(Clock("scaled", 5, 50, min_draw_steps=1)) == list(range(1, 51))


@pytest.mark.parametrize("total", [1, 4, 5, 9, 10, 59, 228, 640, 799, 800, 801, 15_640, PAPER_STEPS])
@pytest.mark.parametrize("least", [1, 5, 7])
def test_draws_are_never_nearer_than_the_floor_and_the_clock_agrees_with_itself(total: int, least: int):
    clock = Clock("scaled", 5, total, least)
    steps = draws(clock)
    assert len(steps) == clock.draws == clock.draws_by(total) <= DRAWS and steps[-1] == total
    assert all(b - a >= least for a, b in pairwise([0, *steps])) or steps == [total]
    assert [clock.step_of(draw) for draw in range(1, clock.draws + 2)] == [*steps, total]
    if total >= DRAWS * least:  # as it was without a floor, to the step
        assert steps == [-(-draw * total // DRAWS) for draw in range(1, DRAWS + 1)]


def test_epochs_draws_after_each_epoch_and_takes_s_as_given():
    clock = Clock("epochs", steps_per_epoch=7, total_steps=21)
    assert draws(clock) == [7, 14, 21]
    assert clock.penalty(1e-4) == 1e-4


@pytest.mark.parametrize(
    ("weights", "schedule", "resolved"),
    [
        ("inherit", "auto", "continue"),
        ("rewind", "auto", "continue"),
        ("reinit", "auto", "restart"),
        ("inherit", "restart", "restart"),
        ("reinit", "continue", "continue"),
    ],
)
def test_auto_schedule_follows_the_weights(weights, schedule, resolved):
    assert EarlyBirdTraining(weights=weights, schedule=schedule).resolved_schedule == resolved


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prune_ratio", 1.0),
        ("prune_ratio", -0.1),
        ("epsilon", 0.0),
        ("window", 0),
        ("round_to", 0),
        ("min_channels", 0),
    ],
)
def test_a_hyperparameter_out_of_range_names_itself(field, value):
    with pytest.raises(ConfigError, match=rf"method\.{field} is {value}"):
        EarlyBirdTraining(**{field: value})


def test_rewind_with_restart_is_a_contradiction():
    with pytest.raises(ConfigError, match="contradicts"):
        EarlyBirdTraining(weights="rewind", schedule="restart")


def test_an_unknown_method_names_the_legal_ones():
    assert {"early_bird", "dense", "uniform"} < METHODS.keys()
    with pytest.raises(ConfigError, match=rf"give one of {', '.join(METHODS)}, .*reinit, random, .*file\.py:Class"):
        method_class("magic")
