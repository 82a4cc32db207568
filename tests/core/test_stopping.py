from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from earlybird.core import STOP_RULES, first_firing_draw
from earlybird.core.stopping import (
    EPI_TAU,
    check_rule,
    count_similarity,
    earliest_draw,
    epi_value,
    fires_authors_code,
    fires_epi,
    fires_paper,
)
from earlybird.errors import ConfigError

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "mask_distance_cifar100.npz"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_file(), reason="the shared fixtures are not here")


def distances_between(points: list[float]) -> np.ndarray:
    """Masks as points on a line: any history of distances that a hand can write."""
    return np.abs(np.subtract.outer(points, points))


@pytest.mark.parametrize(
    ("consecutive", "fires"),
    [
        ([], False),
        ([0.0] * 4, False),
        ([0.0] * 5, True),
        ([0.5, 0.01, 0.02, 0.03, 0.04, 0.05], True),
        ([0.01, 0.02, 0.03, 0.04, 0.1], False),  # strictly below epsilon
        ([0.1, 0.01, 0.02, 0.03, 0.04], False),
        ([0.01, 0.02, 0.03, 0.04, float("nan")], False),
    ],
)
def test_paper_fires_on_five_distances_below_epsilon(consecutive, fires):
    assert fires_paper(consecutive) is fires


@pytest.mark.parametrize(
    ("to_previous", "fires"),
    [
        ([0.0] * 3, False),
        ([0.0] * 4, True),
        ([0.1, 0.1, 0.1, 0.1], True),  # epsilon itself is near enough
        ([0.01, 0.02, 0.03, 0.11], False),
        ([0.01, 0.02, 0.03, 0.04, 0.9], True),  # the fifth mask before is not looked at
        ([0.01, 0.02, 0.03, float("nan")], False),
    ],
)
def test_authors_code_fires_on_the_newest_mask_against_four(to_previous, fires):
    assert fires_authors_code(to_previous) is fires


def test_windows_and_thresholds_are_free():
    assert fires_paper([0.2, 0.2], window=2, epsilon=0.3)
    assert not fires_paper([0.2, 0.3], window=2, epsilon=0.3)
    assert fires_authors_code([0.3], window=2, epsilon=0.3)


def test_similarity_of_counts_by_hand():
    # |4-2|/6 = 1/3 and |1-3|/4 = 1/2: the mean is 5/12.
    assert count_similarity({"a": 4, "b": 1}, {"a": 2, "b": 3}) == pytest.approx(1 - 5 / 12)
    assert count_similarity({"a": 4, "b": 1}, {"b": 1, "a": 4}) == 1.0
    assert count_similarity({"a": 4}, {"a": 0}) == 0.0
    assert count_similarity({"a": 0}, {"a": 0}) == 1.0


def test_epi_is_the_mean_similarity_to_the_five_before():
    # Against the newest 6: 6, 6, 6, 3 and 2 give 1, 1, 1, 1 - 3/9 and 1 - 4/8.
    counts = [{"a": n} for n in (100, 2, 3, 6, 6, 6, 6)]
    assert epi_value(counts) == pytest.approx((3 + 2 / 3 + 1 / 2) / 5)
    assert epi_value(counts[:5]) is None
    assert epi_value(counts[:6]) is not None


def test_epi_equals_its_formula():
    random = np.random.default_rng(0)
    layers = ["a", "b", "c"]
    history = [dict(zip(layers, row, strict=True)) for row in random.integers(1, 40, (12, 3)).tolist()]
    for t in range(6, 13):
        total = 0.0
        for j in range(1, 6):
            newest, earlier = history[t - 1], history[t - 1 - j]
            d = [abs(newest[name] - earlier[name]) / (newest[name] + earlier[name]) for name in layers]
            total += 1 - sum(d) / len(d)
        assert epi_value(history[:t]) == pytest.approx(total / 5)


@pytest.mark.parametrize(
    ("values", "fires"),
    [
        ([0.99] * 5, False),
        ([0.99] * 6, True),
        ([0.9, 0.9, 0.9, 0.9, 0.9, EPI_TAU], True),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.982], False),
        ([0.99, 0.9, 0.9, 0.9, 0.9, 0.985], False),  # lower than one of the five before
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.985], True),  # the sixth before is not looked at
    ],
)
def test_epi_fires_at_tau_and_above_the_five_before(values, fires):
    assert fires_epi(values) is fires


def test_the_threshold_of_epi_is_free():
    assert fires_epi([0.5] * 6, tau=0.5)


def test_the_first_firing_draw_by_hand():
    # Steps of 0.5, then seven of 0.05: the fifth small step ends at draw 7.
    points = [0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85]
    assert first_firing_draw(distances_between(points)) == 7
    # Four masks apart they are 0.2: `authors_code` waits, though it has fewer masks to see.
    assert first_firing_draw(distances_between(points), "authors_code") is None
    assert first_firing_draw(distances_between(points), "authors_code", epsilon=0.21) == 6
    assert first_firing_draw(distances_between(points), window=2) == 4


@pytest.mark.parametrize(("rule", "window", "draw"), [("paper", 5, 6), ("authors_code", 5, 5), ("paper", 1, 2)])
def test_equal_masks_fire_at_the_rules_minimum(rule, window, draw):
    assert first_firing_draw(np.zeros((20, 20)), rule, window=window) == draw
    assert earliest_draw(rule, window) == draw


def test_a_history_too_short_never_fires():
    assert first_firing_draw(np.zeros((5, 5))) is None
    assert first_firing_draw(np.zeros((0, 0))) is None


@needs_fixture
@pytest.mark.parametrize(("rule", "draws"), [("paper", [8, 16, 10, 7]), ("authors_code", [17, 26, 18, 9])])
def test_the_authors_own_search_fires_where_the_method_says(rule, draws):
    with np.load(FIXTURE) as matrices:
        fired = [first_firing_draw(matrices[f"ratio_{p}"], rule) for p in (0.2, 0.4, 0.6, 0.8)]
    assert fired == draws


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3)),), r"distance matrix has shape \(2, 3\); give a square one"),
        ((np.zeros(4),), r"shape \(4,\)"),
        ((np.zeros((2, 2)), "epi"), "rule 'epi' cannot be read from distances; give 'paper' or 'authors_code'"),
        ((np.zeros((2, 2)), "other"), "rule 'other' cannot be read"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        first_firing_draw(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("late", 5, 0.1), "rule is 'late'; give one of paper, authors_code, epi"),
        (("paper", 0, 0.1), "window is 0; rule 'paper' needs at least 1"),
        (("authors_code", 1, 0.1), "window is 1; rule 'authors_code' needs at least 2"),
        (("paper", 5, 0.0), r"epsilon is 0.0; give a number in \(0, 1\]"),
        (("paper", 5, 1.1), "epsilon is 1.1"),
        (("paper", 5, float("nan")), "epsilon is nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_rule(*settings)


def test_a_window_out_of_range_is_refused_for_a_matrix_too():
    with pytest.raises(ConfigError, match="window is 1"):
        first_firing_draw(np.zeros((9, 9)), "authors_code", window=1)


@pytest.mark.parametrize("rule", STOP_RULES)
def test_usual_settings_pass(rule):
    check_rule(rule, 5, 0.1)
