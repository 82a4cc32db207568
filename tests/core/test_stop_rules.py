from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from earlybird.core import STOP_RULES, ChannelMask, EarlyBird, StopRule, first_firing_draw, mask_distance
from earlybird.core.stop_rules import EPI_TAU, MaskHistory, checked_stop_rule
from earlybird.errors import ConfigError

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "mask_distance_cifar100.npz"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_file(), reason="the shared fixtures are not here")


def history_of(rule: str, window: int = 5, epsilon: float = 0.1, **known: list[float]) -> MaskHistory:
    """A history of these distances or values; no rule here looks at its masks."""
    history = MaskHistory(STOP_RULES[rule], window, epsilon)
    for name, numbers in known.items():
        setattr(history, name, numbers)
    return history


def masks_of(counts: list[dict[str, int]], width: int = 100) -> list[ChannelMask]:
    """Masks that keep so many of the `width` channels of each layer."""
    return [ChannelMask({name: torch.arange(width) < kept for name, kept in row.items()}) for row in counts]


def epi_value(counts: list[dict[str, int]]) -> float | None:
    return STOP_RULES["epi"].value(masks_of(counts))


def distances_between(points: list[float]) -> np.ndarray:
    """Masks as points on a line: any history of distances that a hand can write."""
    return np.abs(np.subtract.outer(points, points))


def drifting_masks(seed: int, draws: int = 30, units: int = 40) -> list[ChannelMask]:
    """A random mask whose bits flip less and less often."""
    random = np.random.default_rng(seed)
    keep, masks = random.random(units) < 0.5, []
    for draw in range(draws):
        keep = keep ^ (random.random(units) < 0.6 / (1 + draw))
        masks.append(ChannelMask({"a": torch.from_numpy(keep[:15]), "b": torch.from_numpy(keep[15:])}))
    return masks


def record(history: MaskHistory, mask: ChannelMask) -> bool:
    history.record(mask, [mask_distance(mask, earlier) for earlier in reversed(history.masks)])
    return history.fires()


def first_firing(history: MaskHistory, masks: list[ChannelMask]) -> int | None:
    return next((number for number, mask in enumerate(masks, 1) if record(history, mask)), None)


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
    assert history_of("paper", distances=consecutive).fires() is fires


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
    assert history_of("authors_code", to_previous=to_previous).fires() is fires


def test_windows_and_thresholds_are_free():
    assert history_of("paper", 2, 0.3, distances=[0.2, 0.2]).fires()
    assert not history_of("paper", 2, 0.3, distances=[0.2, 0.3]).fires()
    assert history_of("authors_code", 2, 0.3, to_previous=[0.3]).fires()


def test_similarity_of_counts_by_hand():
    # |4-2|/6 = 1/3 and |1-3|/4 = 1/2: the mean is 5/12.
    assert epi_value([{"a": 4, "b": 1}] * 5 + [{"a": 2, "b": 3}]) == pytest.approx(1 - 5 / 12)
    assert epi_value([{"a": 4, "b": 1}] * 5 + [{"b": 1, "a": 4}]) == 1.0
    assert epi_value([{"a": 4}] * 5 + [{"a": 0}]) == 0.0
    assert epi_value([{"a": 0}] * 6) == 1.0


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
    assert history_of("epi", values=values).fires() is fires


def test_the_first_firing_draw_by_hand():
    # Steps of 0.5, then seven of 0.05: the fifth small step ends at draw 7.
    points = [0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85]
    assert first_firing_draw(distances_between(points)) == 7
    # Four masks apart they are 0.2: `authors_code` waits, though it has fewer masks to see.
    assert first_firing_draw(distances_between(points), "authors_code") is None
    assert first_firing_draw(distances_between(points), "authors_code", epsilon=0.21) == 6
    assert first_firing_draw(distances_between(points), window=2) == 4


@pytest.mark.parametrize(
    ("rule", "window", "draw"), [("paper", 5, 6), ("authors_code", 5, 5), ("paper", 1, 2), ("epi", 5, 11)]
)
def test_equal_masks_fire_at_the_rules_minimum(rule, window, draw):
    assert first_firing(MaskHistory(STOP_RULES[rule], window, 0.1), drifting_masks(0, draws=1) * 20) == draw
    assert STOP_RULES[rule].earliest(window) == draw
    if STOP_RULES[rule].reads_distances:
        assert first_firing_draw(np.zeros((20, 20)), rule, window=window) == draw


def test_a_history_too_short_never_fires():
    assert first_firing_draw(np.zeros((5, 5))) is None
    assert first_firing_draw(np.zeros((0, 0))) is None


@pytest.mark.parametrize("rule", ["paper", "authors_code"])
@pytest.mark.parametrize("window", [2, 3, 5])
def test_mask_by_mask_gives_the_same_draw_as_the_whole_matrix(rule, window):
    found = []
    for seed in range(12):
        masks = drifting_masks(seed)
        matrix = np.array([[mask_distance(a, b) for b in masks] for a in masks])
        found.append(first_firing_draw(matrix, rule, window=window, epsilon=0.15))
        assert first_firing(MaskHistory(STOP_RULES[rule], window, 0.15), masks) == found[-1]
    assert len({*found}) > 3  # The comparison is of something.


def test_epi_mask_by_mask_gives_the_same_values_as_the_whole_history():
    masks, rule = drifting_masks(0), STOP_RULES["epi"]
    history = MaskHistory(rule, 5, 0.1)
    for mask in masks:
        record(history, mask)
    assert history.values == [rule.value(masks[:t]) for t in range(6, len(masks) + 1)]


@needs_fixture
@pytest.mark.parametrize(("rule", "draws"), [("paper", [8, 16, 10, 7]), ("authors_code", [17, 26, 18, 9])])
def test_the_authors_own_search_fires_where_the_method_says(rule, draws):
    mask = ChannelMask({"a": torch.tensor([True])})
    with np.load(FIXTURE) as matrices:
        for ratio, expected in zip((0.2, 0.4, 0.6, 0.8), draws, strict=True):
            matrix, history = matrices[f"ratio_{ratio}"], MaskHistory(STOP_RULES[rule], 5, 0.1)
            assert first_firing_draw(matrix, rule) == expected
            for newest in range(expected):
                assert not history.fires()
                history.record(mask, [float(matrix[newest, newest - j]) for j in range(1, len(history.masks) + 1)])
            assert history.fires()


@pytest.mark.parametrize(("rule", "needed"), [("paper", 1), ("authors_code", 4), ("epi", 5)])
def test_no_more_masks_are_held_than_the_next_is_compared_with(rule, needed):
    history, masks = MaskHistory(STOP_RULES[rule], 5, 0.1), drifting_masks(1)
    for mask in masks:
        record(history, mask)
    assert history.masks == masks[-needed:]
    assert history.distances == [mask_distance(a, b) for a, b in pairwise(masks)]


@pytest.mark.parametrize("rule", STOP_RULES)
@pytest.mark.parametrize("cut", [0, 1, 3, 7, 12])
def test_a_state_taken_back_goes_on_as_if_nothing_had_happened(rule, cut):
    masks = drifting_masks(2)
    whole, first, second = (MaskHistory(STOP_RULES[rule], 5, 0.15) for _ in range(3))
    expected = [record(whole, mask) for mask in masks]
    for mask in masks[:cut]:
        record(first, mask)
    state = first.state_dict()
    assert list(state) == ["masks", "distances", "epi_values"]  # As in every checkpoint so far.
    second.restore([ChannelMask(layers) for layers in state["masks"]], state["distances"], state["epi_values"])
    assert [record(second, mask) for mask in masks[cut:]] == expected[cut:]
    assert second.state_dict()["distances"] == whole.distances


def test_a_state_shares_nothing_with_the_history():
    history = MaskHistory(STOP_RULES["paper"], 5, 0.1)
    record(history, ChannelMask({"a": torch.tensor([True])}))
    state = history.state_dict()
    state["masks"][0]["a"][0] = False
    state["distances"].append(0.5)
    assert history.masks[0]["a"].tolist() == [True]
    assert history.distances == []


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
        checked_stop_rule(*settings)


def test_a_window_out_of_range_is_refused_for_a_matrix_too():
    with pytest.raises(ConfigError, match="window is 1"):
        first_firing_draw(np.zeros((9, 9)), "authors_code", window=1)


@pytest.mark.parametrize("rule", STOP_RULES)
def test_usual_settings_pass(rule):
    assert checked_stop_rule(rule, 5, 0.1) is STOP_RULES[rule]


def test_a_new_rule_in_the_mapping_works_through_the_detector(monkeypatch):
    """Fires once all of the last three draws kept as many channels of layer "0" as the draw before them."""

    def kept_of_first_layer(masks):
        return float(masks[-1].kept_counts()["0"])

    def fires(history, window, epsilon):
        return len(history.values) > window and len({*history.values[-1 - window :]}) == 1

    rule = StopRule(
        "still", "a layer keeps its count", fires, earliest=lambda window: window + 1, masks_needed=lambda window: 1,
        least_window=3, reads_distances=False, value=kept_of_first_layer,
    )  # fmt: skip
    monkeypatch.setitem(STOP_RULES, rule.name, rule)
    with pytest.raises(ConfigError, match="window is 2; rule 'still' needs at least 3"):
        EarlyBird(0.5, rule="still", window=2)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    scales = [[1.0, 2, 3, 4, 5, 6, 7, 8], [5.0, 6, 7, 8, 1, 2, 3, 4]]  # keeps none but the floor of "0", then all
    whole, first, second = (EarlyBird(0.5, rule="still", window=3, epsilon=0.01) for _ in range(3))

    def draw(detector, order):
        for norm, values in zip(model, torch.tensor(scales[order]).split(4), strict=True):
            norm.weight.data.copy_(values)
        return detector.update(model)

    tickets = [draw(whole, order) for order in (0, 1, 1, 1, 1)]
    assert [ticket is not None for ticket in tickets] == [False] * 4 + [True]
    assert (tickets[-1].rule, whole.fired, tickets[-1].flags) == ("still", {0.5: 5}, ())
    for order in (0, 1, 1):
        assert draw(first, order) is None
    second.load_state_dict(first.state_dict())
    assert draw(second, 1) is None
    assert draw(second, 1).drawn_after == 5


def test_settings_may_read_the_rules_without_torch():
    code = "import sys; import earlybird.core.stop_rules; sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
