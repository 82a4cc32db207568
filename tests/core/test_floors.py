from __future__ import annotations

import numpy as np
import torch

from earlybird.core import ChannelGroups
from earlybird.core.drawing import Ranking, remove_lowest
from earlybird.core.groups import one_unit_per_channel


def removed(groups: ChannelGroups, lowest_first: list[int], target: int, min_channels: int = 1) -> list[int]:
    order = np.array(lowest_first)
    scores = np.argsort(order).astype(float)
    return np.flatnonzero(remove_lowest(Ranking(groups, scores, order), target, min_channels)).tolist()


def test_the_lowest_go_where_no_floor_is_reached():
    assert removed(one_unit_per_channel({"a": 2, "b": 3}), [3, 0, 4, 1, 2], 3) == [0, 3, 4]


def test_a_unit_that_a_floor_holds_back_is_skipped_and_the_next_lowest_goes():
    # a holds 0 and 1: with 0 gone, 1 must stay and 2 of b goes instead.
    assert removed(one_unit_per_channel({"a": 2, "b": 3}), [0, 1, 2, 3, 4], 2) == [0, 2]


def test_floors_leave_fewer_where_nothing_else_may_go():
    assert removed(one_unit_per_channel({"a": 2, "b": 3}), [0, 1, 2, 3, 4], 5) == [0, 2, 3]
    assert removed(one_unit_per_channel({"a": 2, "b": 3}), [0, 1, 2, 3, 4], 5, min_channels=2) == [2]


def test_a_layer_narrower_than_its_floor_stays_whole():
    assert removed(one_unit_per_channel({"a": 1, "b": 3}), [0, 1, 2, 3], 1, min_channels=2) == [1]


def test_a_tied_unit_goes_only_if_every_one_of_its_layers_can_spare_it():
    groups = ChannelGroups({"wide": torch.tensor([0, 1, 2]), "narrow": torch.tensor([0, 1])})
    assert removed(groups, [0, 1, 2], 2) == [0, 2]


def test_protected_channels_count_as_staying():
    groups = ChannelGroups({"a": torch.tensor([0, 1, -1])}, protected={"a": {2: "why"}})
    assert removed(groups, [0, 1], 2) == [0, 1]


def test_a_unit_with_two_channels_in_a_layer_takes_two_from_it():
    halves = ChannelGroups({"a": torch.tensor([0, 1, 0, 1])})
    assert removed(halves, [0, 1], 2) == [0]
    assert removed(halves, [0, 1], 2, min_channels=3) == []


def test_a_conv_behind_a_concatenation_keeps_a_channel_of_its_own():
    # The norm reads two convs side by side; it could spare all that the first one writes.
    groups = ChannelGroups(
        {"bn": torch.tensor([0, 1, 2, 3])}, {"first": torch.tensor([0, 1]), "second": torch.tensor([2, 3])}
    )
    assert removed(groups, [0, 1, 2, 3], 2) == [0, 2]


def test_removal_equals_the_rule_told_unit_by_unit():
    random = np.random.default_rng(0)
    for _ in range(60):
        count = int(random.integers(2, 9))
        layers = {f"l{i}": random.permutation(count)[: random.integers(1, count + 1)] for i in range(3)}
        layers["all"] = np.arange(count)
        groups = ChannelGroups({name: torch.from_numpy(units) for name, units in layers.items()})
        order, target, floor = random.permutation(count), int(random.integers(0, count + 1)), int(random.integers(1, 3))
        gone: set[int] = set()
        for unit in order.tolist():
            trial = gone | {unit}
            touched = [units for units in layers.values() if unit in units]
            if len(gone) < target and all(len(set(units.tolist()) - trial) >= floor for units in touched):
                gone = trial
        assert removed(groups, order.tolist(), target, floor) == sorted(gone)
