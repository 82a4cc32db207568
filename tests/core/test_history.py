from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybird.core import ChannelMask, first_firing_draw, mask_distance
from earlybird.core.history import MaskHistory
from earlybird.core.stopping import epi_value

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "mask_distance_cifar100.npz"


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


@pytest.mark.parametrize("rule", ["paper", "authors_code"])
@pytest.mark.parametrize("window", [2, 3, 5])
def test_mask_by_mask_gives_the_same_draw_as_the_whole_matrix(rule, window):
    found = []
    for seed in range(12):
        masks = drifting_masks(seed)
        matrix = np.array([[mask_distance(a, b) for b in masks] for a in masks])
        found.append(first_firing_draw(matrix, rule, window=window, epsilon=0.15))
        assert first_firing(MaskHistory(rule, window, 0.15), masks) == found[-1]
    assert len({*found}) > 3  # The comparison is of something.


def test_epi_mask_by_mask_gives_the_same_values_as_the_whole_history():
    masks = drifting_masks(0)
    history = MaskHistory("epi", 5, 0.1)
    for mask in masks:
        record(history, mask)
    counts = [mask.kept_counts() for mask in masks]
    assert history.epi_values == [epi_value(counts[:t]) for t in range(6, len(masks) + 1)]


def test_equal_counts_fire_epi_at_draw_eleven():
    assert first_firing(MaskHistory("epi", 5, 0.1), drifting_masks(0, draws=1) * 20) == 11


@pytest.mark.skipif(not FIXTURE.is_file(), reason="the shared fixtures are not here")
@pytest.mark.parametrize(("rule", "draws"), [("paper", [8, 16, 10, 7]), ("authors_code", [17, 26, 18, 9])])
def test_the_authors_own_search_fires_where_the_method_says(rule, draws):
    mask = ChannelMask({"a": torch.tensor([True])})
    with np.load(FIXTURE) as matrices:
        for ratio, expected in zip((0.2, 0.4, 0.6, 0.8), draws, strict=True):
            matrix, history = matrices[f"ratio_{ratio}"], MaskHistory(rule, 5, 0.1)
            for newest in range(expected):
                assert not history.fires()
                history.record(mask, [float(matrix[newest, newest - j]) for j in range(1, len(history.masks) + 1)])
            assert history.fires()


@pytest.mark.parametrize(("rule", "needed"), [("paper", 1), ("authors_code", 4), ("epi", 5)])
def test_no_more_masks_are_held_than_the_next_is_compared_with(rule, needed):
    history, masks = MaskHistory(rule, 5, 0.1), drifting_masks(1)
    for mask in masks:
        record(history, mask)
    assert history.masks == masks[-needed:]
    assert history.distances == [mask_distance(a, b) for a, b in pairwise(masks)]


@pytest.mark.parametrize("rule", ["paper", "authors_code", "epi"])
@pytest.mark.parametrize("cut", [0, 1, 3, 7, 12])
def test_a_state_taken_back_goes_on_as_if_nothing_had_happened(rule, cut):
    masks = drifting_masks(2)
    whole, first, second = (MaskHistory(rule, 5, 0.15) for _ in range(3))
    expected = [record(whole, mask) for mask in masks]
    for mask in masks[:cut]:
        record(first, mask)
    second.load_state_dict(first.state_dict())
    assert [record(second, mask) for mask in masks[cut:]] == expected[cut:]
    assert second.state_dict()["distances"] == whole.distances


def test_a_state_shares_nothing_with_the_history():
    history = MaskHistory("paper", 5, 0.1)
    record(history, ChannelMask({"a": torch.tensor([True])}))
    state = history.state_dict()
    state["masks"][0]["a"][0] = False
    state["distances"].append(0.5)
    assert history.masks[0]["a"].tolist() == [True]
    assert history.distances == []
