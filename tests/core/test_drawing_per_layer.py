"""The same ratio in every layer: counts, ties, floors, rounding."""

from __future__ import annotations

import pytest
import torch

from earlybird.core import ChannelGroups, ChannelMask, draw_mask_per_layer
from earlybird.core.drawing import removed_count
from earlybird.errors import ConfigError


def rows(mask: ChannelMask) -> dict[str, list[int]]:
    return {name: keep.int().tolist() for name, keep in mask.items()}


def test_each_layer_loses_its_own_lowest_whatever_the_other_layers_score():
    mask = draw_mask_per_layer({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([0.3, 0.1, 0.2, 0.4])}, 0.5)
    assert rows(mask) == {"a": [1, 0], "b": [1, 0, 0, 1]}


@pytest.mark.parametrize(
    ("size", "ratio", "more", "removed"),
    [
        (10, 0.35, {}, 3),
        (10, 0.7, {}, 7),  # 0.7 * 10 is 6.999... in floats
        (3, 0.99, {}, 2),
        (3, 0.99, {"min_channels": 2}, 1),
        (1, 0.9, {}, 0),
        (64, 0.3, {"round_to": 8}, 16),  # 64 - 19 = 45, nearest multiple 48
        (64, 0.3, {"round_to": 1}, 19),
        (6, 0.5, {"round_to": 8}, 0),  # no multiple of 8 but its full size
    ],
)
def test_the_floor_of_ratio_times_size_goes_within_floor_and_rounding(size, ratio, more, removed):
    assert removed_count(size, ratio, **more) == removed
    mask = draw_mask_per_layer({"a": torch.arange(float(size))}, ratio, **more)
    assert rows(mask) == {"a": [0] * removed + [1] * (size - removed)}


def test_tied_layers_lose_the_same_units_by_their_mean_score():
    units = torch.arange(3)
    groups = ChannelGroups({"a": units, "b": units, "c": torch.arange(3, 5)})
    scores = {"a": torch.tensor([1.0, 5.0, 3.0]), "b": torch.tensor([6.0, 0.0, 3.0]), "c": torch.tensor([0.1, 0.2])}
    # Means 3.5, 2.5, 3.0: floor(0.5 * 3) = 1 of the tied, floor(0.5 * 2) = 1 of c.
    assert rows(draw_mask_per_layer(scores, 0.5, groups)) == {"a": [1, 0, 1], "b": [1, 0, 1], "c": [0, 1]}


def test_protected_channels_stay_and_do_not_count():
    groups = ChannelGroups({"a": torch.tensor([0, -1, 1, -1])}, protected={"a": {1: "why", 3: "why"}})
    assert rows(draw_mask_per_layer({"a": torch.tensor([4.0, 0.0, 3.0, 0.0])}, 0.5, groups)) == {"a": [1, 1, 0, 1]}


def test_a_ratio_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"prune_ratio is 1.0; give a number in \[0, 1\)"):
        draw_mask_per_layer({"a": torch.ones(2)}, 1.0)
