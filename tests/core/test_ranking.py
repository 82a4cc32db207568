from __future__ import annotations

import numpy as np
import pytest
import torch

from earlybird.core import ChannelGroups
from earlybird.core.drawing import rank_units, scored_groups
from earlybird.core.groups import one_unit_per_channel
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def order(scores: dict[str, torch.Tensor], groups: ChannelGroups | None = None) -> list[int]:
    return rank_units(scores, scored_groups(scores, groups)).lowest_first.tolist()


def test_the_lowest_score_comes_first_across_layers():
    assert order({"a": torch.tensor([0.3, 0.1]), "b": torch.tensor([0.2, 0.4])}) == [1, 2, 0, 3]


def test_of_equal_scores_the_larger_place_goes_first_then_the_earlier_layer():
    # (index + 1) / width: a has 1/2, 1; b has 1/4, 2/4, 3/4, 1.
    assert order({"a": torch.ones(2), "b": torch.ones(4)}) == [1, 5, 4, 0, 3, 2]


def test_places_of_other_widths_are_equal_where_the_fractions_are():
    # 1/3 and 2/6 are one place: the earlier layer decides.
    assert order({"a": torch.ones(3), "b": torch.ones(6)}) == [2, 8, 7, 1, 6, 5, 0, 4, 3]


def test_a_tied_unit_scores_the_mean_of_its_scored_channels():
    groups = ChannelGroups({"a": torch.tensor([0, 1]), "b": torch.tensor([2]), "c": torch.tensor([0, 1])})
    scores = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.75]), "c": torch.tensor([1.0, 0.0])}
    assert rank_units(scores, groups).scores.tolist() == [0.5, 0.5, 0.75]
    only_one = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.75])}
    assert rank_units(only_one, groups).scores.tolist() == [0.0, 1.0, 0.75]


@pytest.mark.parametrize(("tie_score", "units"), [("mean", [2.0, 3.0]), ("max", [4.0, 3.0]), ("sum", [6.0, 3.0])])
def test_a_tied_unit_may_score_the_mean_the_max_or_the_sum(tie_score, units):
    groups = ChannelGroups({"a": torch.tensor([0, 1]), "b": torch.tensor([0, 0])})
    scores = {"a": torch.tensor([0.0, 3.0]), "b": torch.tensor([2.0, 4.0])}
    assert rank_units(scores, groups, tie_score).scores.tolist() == units


def test_an_unknown_tie_score_is_refused():
    with pytest.raises(ConfigError, match="tie_score is 'median'; give one of mean, max, sum"):
        rank_units({"a": torch.ones(2)}, one_unit_per_channel({"a": 2}), "median")


def test_a_unit_with_two_channels_in_one_layer_takes_the_place_of_the_first():
    halves = ChannelGroups({"a": torch.tensor([0, 1, 0, 1]), "b": torch.tensor([2, 3])})
    # Two units each: places 1/2, 1 against 1/2, 1.
    assert order({"a": torch.ones(4), "b": torch.ones(2)}, halves) == [1, 3, 0, 2]


def test_equal_scores_behind_a_concatenation_take_the_same_share_of_each_part():
    parts = {"conv1": torch.arange(4), "conv2": torch.arange(4, 8)}
    groups = ChannelGroups({"norm": torch.arange(8), "tail": torch.arange(8, 12)}, parts)
    # Each of the three sets of four loses its last first.
    assert order({"norm": torch.ones(8), "tail": torch.ones(4)}, groups)[:3] == [3, 7, 11]


def test_protected_channels_do_not_count_for_the_place_of_the_others():
    groups = ChannelGroups(
        {"a": torch.tensor([-1, -1, 0, 1]), "b": torch.tensor([2, 3])}, protected={"a": {0: "why", 1: "why"}}
    )
    assert order({"a": torch.ones(4), "b": torch.ones(2)}, groups) == [1, 3, 0, 2]


def test_scores_of_convs_are_read_through_their_units():
    groups = ChannelGroups({"bn": torch.tensor([0, 1, 2])}, {"conv": torch.tensor([2, 0, 1])})
    assert rank_units({"conv": torch.tensor([0.1, 0.2, 0.3])}, groups).scores == pytest.approx([0.2, 0.3, 0.1])


def test_protected_channels_are_not_ranked():
    groups = ChannelGroups({"bn": torch.tensor([0, -1, 1])}, protected={"bn": {1: "why"}})
    assert order({"bn": torch.tensor([0.5, 0.0, 0.4])}, groups) == [1, 0]


def test_layers_that_the_groups_do_not_know_are_left_out():
    scores = {"head": torch.tensor([0.0, 0.0]), "bn": torch.tensor([0.2, 0.1])}
    assert order(scores, ChannelGroups({"bn": torch.tensor([0, 1])})) == [1, 0]


def test_ranking_equals_a_sort_by_the_definition():
    random = torch.Generator().manual_seed(0)
    for _ in range(30):
        widths = torch.randint(1, 9, (4,), generator=random).tolist()
        scores = {f"l{i}": torch.randint(0, 4, (w,), generator=random).float() for i, w in enumerate(widths)}
        channels = [
            (score, -(index + 1) / len(layer), number)
            for number, layer in enumerate(scores.values())
            for index, score in enumerate(layer.tolist())
        ]
        assert order(scores) == sorted(range(len(channels)), key=channels.__getitem__)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_scores_of_any_type_are_ranked(dtype):
    assert order({"bn": torch.tensor([3, 1, 2], dtype=dtype)}) == [1, 2, 0]


def test_scores_that_carry_a_gradient_are_ranked():
    assert order({"bn": torch.tensor([3.0, 1.0], requires_grad=True)}) == [1, 0]


def test_ranking_leaves_the_scores_alone():
    scores = {"bn": torch.tensor([3.0, 1.0], dtype=torch.float64)}
    rank_units(scores, one_unit_per_channel({"bn": 2})).scores[:] = 0
    assert scores["bn"].tolist() == [3.0, 1.0]


def test_equal_scores_say_nothing_even_if_a_protected_channel_scores_otherwise():
    groups = ChannelGroups({"bn": torch.tensor([0, -1, 1])}, protected={"bn": {1: "why"}})
    assert rank_units({"bn": torch.tensor([0.5, 0.0, 0.5])}, groups).is_uninformative
    assert not rank_units({"bn": torch.tensor([0.5, 0.0, 0.4])}, groups).is_uninformative


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layer", ["a", "b", "unknown"])
def test_a_score_that_is_not_finite_is_named(bad, layer):
    scores = {"a": torch.ones(2), "b": torch.ones(3), "unknown": torch.ones(1)}
    scores[layer][-1] = bad
    groups = ChannelGroups({"a": torch.tensor([0, 1]), "b": torch.tensor([2, 3, 4])})
    with pytest.raises(NonFiniteError, match=f"layer '{layer}': a score is NaN or infinite; the training has diverged"):
        rank_units(scores, scored_groups(scores, groups))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "the criterion scores no layer"),
        ({"a": torch.ones(2, 2)}, r"scores of layer 'a' are shape \[2, 2\]; give a tensor of shape \[channels\]"),
        ({"a": torch.ones(0)}, r"scores of layer 'a' are shape \[0\]"),
        ({"a": np.ones(2)}, "scores of layer 'a' are ndarray"),
        ({"z": torch.ones(2)}, "no scored layer belongs to the groups, not even 'z'; score this network"),
        ({"a": torch.ones(3)}, "layer 'a' has 3 scores for 2 channels; score this network"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, message):
    groups = ChannelGroups({"a": torch.tensor([0, 1])})
    with pytest.raises(MaskError, match=message):
        rank_units(scores, scored_groups(scores, groups))
