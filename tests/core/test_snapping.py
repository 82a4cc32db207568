from __future__ import annotations

import numpy as np
import pytest
import torch

from earlybird.core import ChannelGroups
from earlybird.core.drawing import Ranking, nearest_count, snap_widths
from earlybird.core.groups import one_unit_per_channel


def ascending(groups: ChannelGroups) -> Ranking:
    """Unit 0 scores lowest, and so on."""
    return Ranking(groups, np.arange(groups.num_units, dtype=float), np.arange(groups.num_units))


def snapped(groups: ChannelGroups, kept: list[int], round_to: int, min_channels: int = 1) -> list[int]:
    keep = np.zeros(groups.num_units, dtype=bool)
    keep[kept] = True
    result = snap_widths(keep, ascending(groups), round_to=round_to, min_channels=min_channels)
    assert keep.sum() == len(kept)  # The argument is left alone.
    return np.flatnonzero(result).tolist()


@pytest.mark.parametrize(
    ("kept", "size", "round_to", "nearest"),
    [
        (16, 64, 8, 16),
        (19, 64, 8, 16),
        (21, 64, 8, 24),
        (20, 64, 8, 24),  # of two equally near the larger
        (1, 64, 8, 8),  # never none
        (0, 64, 8, 8),
        (63, 64, 8, 64),
        (62, 65, 8, 64),
        (18, 20, 8, 20),  # the full size is nearer than 16
        (17, 20, 8, 16),
        (18, 19, 8, 19),
        (3, 6, 8, 6),  # narrower than a multiple: whole
        (1, 1, 8, 1),
        (5, 12, 1, 5),
    ],
)
def test_the_nearest_multiple_or_the_full_size(kept, size, round_to, nearest):
    assert nearest_count(kept, size, round_to) == nearest


def test_the_nearest_count_equals_a_search():
    for size in range(1, 30):
        for kept in range(size + 1):
            for round_to in range(1, 10):
                legal = [n for n in range(1, size + 1) if n % round_to == 0 or n == size]
                best = min(abs(n - kept) for n in legal)
                assert nearest_count(kept, size, round_to) == max(n for n in legal if abs(n - kept) == best)


@pytest.mark.parametrize(("min_channels", "nearest"), [(1, 4), (4, 4), (5, 8), (9, 12), (40, 16)])
def test_no_multiple_below_the_floor_is_taken(min_channels, nearest):
    assert nearest_count(3, 16, 4, min_channels) == nearest


def test_units_nearest_the_threshold_are_taken_back_or_given_up():
    chain = one_unit_per_channel({"a": 8, "b": 8})
    # a keeps 3 -> 4: its highest cut unit, 4, comes back. b keeps 5 -> 4: its lowest kept unit, 11, goes.
    assert snapped(chain, [5, 6, 7, 11, 12, 13, 14, 15], 4) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_snapping_again_changes_nothing():
    chain = one_unit_per_channel({"a": 10, "b": 7, "c": 3})
    once = snapped(chain, [4, 5, 6, 7, 8, 9, 14, 15, 16, 19], 4)
    assert snapped(chain, once, 4) == once


def test_units_that_share_all_their_layers_are_snapped_together():
    groups = ChannelGroups({"a": torch.arange(8), "b": torch.arange(8)})
    assert snapped(groups, [3, 4, 5, 6, 7], 4) == [4, 5, 6, 7]


def test_units_of_other_layers_are_snapped_apart():
    # Units 0-3 lie in a alone, 4-7 in a and b; 3 of 4 stay on both sides.
    groups = ChannelGroups({"a": torch.arange(8), "b": torch.arange(4, 8)})
    assert snapped(groups, [1, 2, 3, 5, 6, 7], 2) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert snapped(groups, [2, 3, 5, 6, 7], 2) == [2, 3, 4, 5, 6, 7]


def test_convs_side_by_side_before_one_norm_are_snapped_apart():
    groups = ChannelGroups({"bn": torch.arange(8)}, {"first": torch.arange(4), "second": torch.arange(4, 8)})
    assert snapped(groups, [3, 4, 5, 6, 7], 2) == [2, 3, 4, 5, 6, 7]


def test_every_snapped_layer_of_a_chain_is_a_multiple_or_whole():
    random = np.random.default_rng(0)
    widths = {"a": 64, "b": 20, "c": 7, "d": 1}
    chain = one_unit_per_channel(widths)
    for _ in range(20):
        kept = np.flatnonzero(random.random(92) < random.random()).tolist()
        stays = np.isin(np.arange(92), snapped(chain, kept, 8))
        for units, width in zip(chain.unit_of.values(), widths.values(), strict=True):
            count = int(stays[units.numpy()].sum())
            assert count > 0
            assert count % 8 == 0 or count == width
