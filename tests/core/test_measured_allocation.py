from __future__ import annotations

import numpy as np
import pytest
import torch

from earlybird.core import ChannelMask, CostTerm, StepCost, allocate_measured
from earlybird.core.drawing import rank_units
from earlybird.core.groups import one_unit_per_channel
from earlybird.errors import ConfigError

WIDTHS = np.array([0.0, 64.0])
GROUPS = one_unit_per_channel({"a": 64, "b": 64})
RANKING = rank_units({name: torch.arange(1.0, 65.0) for name in "ab"}, GROUPS)
# A second for each channel of either layer.
COST = StepCost(
    [CostTerm(name, {}, {b: 1.0}, 0, 0, np.zeros(1), WIDTHS, WIDTHS[None, :]) for b, name in enumerate("ab")]
)


def kept(mask: ChannelMask) -> int:
    return sum(mask.kept_counts().values())


def test_a_step_that_takes_more_than_predicted_is_corrected_until_it_fits():
    measured: list[int] = []

    def measure(mask: ChannelMask) -> float:
        measured.append(kept(mask))
        return 1.25 * kept(mask)  # a quarter more than the table says

    found = allocate_measured(RANKING, COST, 80.0, measure, round_to=2)
    assert measured == [80, 64]
    assert (kept(found.mask), found.seconds, found.corrections) == (64, 80.0, 1)


def test_a_step_as_predicted_is_measured_once():
    found = allocate_measured(RANKING, COST, 80.0, lambda mask: 1.02 * kept(mask))
    assert (kept(found.mask), found.corrections) == (80, 0)


def test_of_networks_that_all_miss_the_nearest_is_taken():
    seconds, tried = iter([120.0, 60.0, 90.0, 70.0]), list[int]()

    def measure(mask: ChannelMask) -> float:
        tried.append(kept(mask))
        return next(seconds)

    found = allocate_measured(RANKING, COST, 80.0, measure, round_to=1)
    # 80 * 80 / 120, then on the line through the two nearest each time.
    assert tried == [80, 53, 62, 59]
    assert (found.seconds, found.corrections) == (90.0, 2)
    assert next(seconds, None) is None  # three corrections, no more


def test_a_network_that_is_known_says_what_to_ask_for():
    tried: list[int] = []

    def measure(mask: ChannelMask) -> float:
        tried.append(kept(mask))
        return 0.2 + 0.8 * kept(mask) / 128  # as a share, of which a fifth never changes

    found = allocate_measured(RANKING, COST, 0.61, measure, known=[(128.0, 1.0)], round_to=1, allocation="uniform")
    assert tried == [78, 64]
    assert found.seconds == pytest.approx(0.6)
    tried.clear()
    allocate_measured(RANKING, COST, 0.61, measure, known=[(128.0, 1.0), (96.0, 0.8)], round_to=1, allocation="uniform")
    assert tried == [64]


def test_where_widths_are_coarse_the_next_ones_are_tried_and_none_twice():
    tried: list[int] = []

    def measure(mask: ChannelMask) -> float:
        tried.append(kept(mask))
        return 1.06 * kept(mask)

    found = allocate_measured(RANKING, COST, 80.0, measure, allocation="uniform", fit="nearest")
    # Of 75.5 channels the nearest multiples are 80 again; 71 lie nearer to 64.
    assert tried == [80, 64]
    assert (found.seconds, found.corrections) == (1.06 * 80, 0)


def test_nothing_below_the_floors_is_tried():
    found = allocate_measured(RANKING, COST, 40.0, lambda mask: 4.0 * kept(mask))  # a quarter of each is 32
    assert found.seconds == 160.0
    with pytest.raises(ConfigError, match="budget_seconds is 20; give at least 32"):
        allocate_measured(RANKING, COST, 20, kept)
    with pytest.raises(ConfigError, match=r"tolerance is 0; give a number in \(0, 1\)"):
        allocate_measured(RANKING, COST, 80.0, kept, tolerance=0)
    with pytest.raises(ConfigError, match="corrections is -1; give an integer >= 0"):
        allocate_measured(RANKING, COST, 80.0, kept, corrections=-1)
