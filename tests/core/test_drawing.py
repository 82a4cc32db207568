from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from earlybird.core import ChannelGroups, ChannelMask, draw_mask, realised_ratio
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def random_scores(seed: int, *widths: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {f"bn{i}": torch.rand(width, generator=random) for i, width in enumerate(widths)}


def rows(mask: ChannelMask) -> dict[str, list[int]]:
    return {name: keep.int().tolist() for name, keep in mask.items()}


def test_the_lowest_half_of_all_layers_together_goes():
    mask = draw_mask({"a": torch.tensor([0.1, 0.9]), "b": torch.tensor([0.2, 0.3, 0.8, 0.4])}, 0.5)
    assert rows(mask) == {"a": [0, 1], "b": [0, 0, 1, 1]}


@pytest.mark.parametrize("prune_ratio", [0.0, 0.1, 1 / 3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_exactly_round_p_n_units_go(prune_ratio, seed):
    scores = random_scores(seed, 64, 37, 128, 5)
    mask = draw_mask(scores, prune_ratio)
    assert int((~mask.flat()).sum()) == round(prune_ratio * 234)
    assert realised_ratio(mask) == pytest.approx(round(prune_ratio * 234) / 234)


def test_without_floors_every_kept_unit_outranks_every_cut_one():
    mask = draw_mask(scores := random_scores(1, 40, 60), 0.4)
    kept, values = mask.flat(), torch.cat(list(scores.values()))
    assert values[kept].min() > values[~kept].max()


def test_larger_ratios_cut_supersets():
    scores = random_scores(2, 16, 32, 8)
    small, large = draw_mask(scores, 0.3).flat(), draw_mask(scores, 0.6).flat()
    assert bool((small | ~large).all())


def test_drawing_again_from_the_mask_gives_the_mask():
    mask = draw_mask(random_scores(3, 16, 32), 0.5)
    assert draw_mask({name: keep.float() for name, keep in mask.items()}, 0.5) == mask


def test_scaling_all_scores_changes_nothing():
    scores = random_scores(4, 16, 32)
    assert draw_mask({name: 8 * score for name, score in scores.items()}, 0.5) == draw_mask(scores, 0.5)


@pytest.mark.parametrize(("prune_ratio", "kept"), [(0.5, [2, 4, 8]), (0.25, [3, 6, 12]), (0.75, [1, 2, 4])])
def test_all_equal_scores_give_uniform_widths(prune_ratio, kept):
    scores = {name: torch.full((width,), 0.5) for name, width in [("a", 4), ("b", 8), ("c", 16)]}
    mask = draw_mask(scores, prune_ratio)
    assert list(mask.kept_counts().values()) == kept
    for name, count in mask.kept_counts().items():
        assert mask[name][:count].all()  # The larger index goes first.


def test_of_equal_scores_the_earlier_layer_loses_first():
    assert rows(draw_mask({"a": torch.ones(2), "b": torch.ones(2)}, 0.25)) == {"a": [1, 0], "b": [1, 1]}


def test_ratio_zero_keeps_everything():
    assert draw_mask(random_scores(0, 3, 4), 0.0).flat().all()


def test_a_ratio_that_rounds_to_no_unit_keeps_everything():
    assert draw_mask(random_scores(0, 4), 0.1).flat().all()


def test_a_floor_keeps_one_channel_and_the_next_lowest_goes_instead():
    scores = {"low": torch.tensor([0.1, 0.2, 0.3]), "high": torch.tensor([0.7, 0.8, 0.9])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = draw_mask(scores, 0.5)
    assert rows(mask) == {"low": [0, 0, 1], "high": [0, 1, 1]}


def test_floors_that_leave_too_few_are_warned_about_with_both_numbers():
    with pytest.warns(UserWarning) as caught:
        mask = draw_mask(random_scores(0, 10, 10), 0.99)
    assert mask.kept_counts() == {"bn0": 1, "bn1": 1}
    assert [str(w.message) for w in caught] == [
        "a floor of 1 channels per layer leaves 0.900 of the units to remove where prune_ratio=0.99 asks for 1.000"
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("min_channels", [1, 2, 5])
def test_min_channels_stay_in_every_layer(min_channels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = draw_mask(random_scores(5, 3, 10, 20), 0.95, min_channels=min_channels)
    assert all(
        kept >= min(min_channels, width) for kept, width in zip(mask.kept_counts().values(), (3, 10, 20), strict=True)
    )


def test_one_channel_layers_are_never_cut():
    scores = {"thin": torch.tensor([0.0]), "wide": torch.tensor([0.1, 0.2, 0.3])}
    assert rows(draw_mask(scores, 0.5)) == {"thin": [1], "wide": [0, 0, 1]}


def test_a_network_of_one_channel_layers_keeps_all_with_a_warning():
    with pytest.warns(UserWarning, match="leaves 0.000 of the units"):
        assert draw_mask(random_scores(0, 1, 1, 1), 0.5).flat().all()


def test_tied_layers_are_cut_by_their_mean_score_and_alike():
    groups = ChannelGroups({"a": torch.tensor([0, 1, 2]), "b": torch.tensor([0, 1, 2])})
    scores = {"a": torch.tensor([0.0, 0.4, 0.9]), "b": torch.tensor([1.0, 0.4, 0.9])}  # means 0.5, 0.4, 0.9
    assert rows(draw_mask(scores, 1 / 3, groups)) == {"a": [1, 0, 1], "b": [1, 0, 1]}


def test_the_ratio_counts_units_and_not_channels():
    groups = ChannelGroups({"a": torch.tensor([0, 1]), "b": torch.tensor([0, 1]), "c": torch.tensor([2, 3])})
    scores = {"a": torch.tensor([0.1, 0.9]), "b": torch.tensor([0.1, 0.9]), "c": torch.tensor([0.5, 0.6])}
    mask = draw_mask(scores, 0.5, groups)
    assert rows(mask) == {"a": [0, 1], "b": [0, 1], "c": [0, 1]}
    assert realised_ratio(mask, groups) == 0.5
    assert realised_ratio(ChannelMask({"a": mask["a"]})) == 0.5


def test_protected_channels_stay_and_do_not_count():
    groups = ChannelGroups({"a": torch.tensor([0, -1, 1, -1])}, protected={"a": {1: "why", 3: "why"}})
    mask = draw_mask({"a": torch.tensor([0.5, 0.0, 0.9, 0.0])}, 0.5, groups)
    assert rows(mask) == {"a": [0, 1, 1, 1]}
    assert realised_ratio(mask, groups) == 0.5


def test_units_without_a_score_stay_and_do_not_count():
    groups = ChannelGroups({"bn": torch.tensor([0, 1]), "fc": torch.tensor([2, 3])})
    assert rows(draw_mask({"bn": torch.tensor([0.1, 0.2])}, 0.5, groups)) == {"bn": [0, 1], "fc": [1, 1]}


def test_scores_of_convs_cut_the_norms_behind_them():
    groups = ChannelGroups({"bn": torch.tensor([0, 1, 2])}, {"conv": torch.tensor([0, 1, 2])})
    assert rows(draw_mask({"conv": torch.tensor([0.2, 0.1, 0.3])}, 0.34, groups)) == {"bn": [1, 0, 1]}


def test_every_drawn_mask_fits_the_groups():
    groups = ChannelGroups(
        {"a": torch.tensor([0, 1, 2, 3]), "b": torch.tensor([3, 2, 4, 5, 6]), "c": torch.tensor([6, -1, 0])},
        protected={"c": {1: "why"}},
    )
    for seed in range(20):
        scores = dict(zip("abc", random_scores(seed, 4, 5, 3).values(), strict=True))
        mask = draw_mask(scores, 0.5, groups)
        assert int(groups.keep_units(mask).sum()) == 7 - round(0.5 * 7)


def test_round_to_snaps_to_the_nearest_multiple():
    # 11 of 16 and 5 of 16 stay; the nearest multiples of 4 are 12 and 4.
    scores = {"a": torch.arange(16) / 16.0 + 0.36, "b": torch.arange(16) / 16.0}
    assert draw_mask(scores, 0.5).kept_counts() == {"a": 11, "b": 5}
    mask = draw_mask(scores, 0.5, round_to=4)
    assert mask.kept_counts() == {"a": 12, "b": 4}
    assert rows(mask)["a"] == [0] * 4 + [1] * 12
    assert rows(mask)["b"] == [0] * 12 + [1] * 4


@pytest.mark.parametrize("seed", range(3))
def test_rounded_layers_keep_their_best(seed):
    scores = random_scores(seed, 16, 64, 20)
    rounded = draw_mask(scores, 0.5, round_to=8)
    for name, score in scores.items():
        best = torch.topk(score, rounded.kept_counts()[name]).indices
        assert sorted(best.tolist()) == torch.nonzero(rounded[name]).flatten().tolist()


def test_round_to_one_and_ratio_zero_change_nothing():
    scores = random_scores(6, 12, 20)
    assert draw_mask(scores, 0.4, round_to=1) == draw_mask(scores, 0.4)
    assert draw_mask(scores, 0.0, round_to=8).flat().all()


def test_empty_groups_of_units_keep_the_mask_whole():
    groups = ChannelGroups({"a": torch.tensor([-1, -1])}, protected={"a": {0: "why", 1: "why"}})
    mask = draw_mask({"a": torch.tensor([0.1, 0.2])}, 0.5, groups)
    assert mask.flat().all()
    assert realised_ratio(mask, groups) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_never_reaches_a_mask(bad):
    with pytest.raises(NonFiniteError, match="layer 'a': a score is NaN or infinite"):
        draw_mask({"a": torch.tensor([0.5, bad])}, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio is 1.0; give a number in \[0, 1\)"),
        ({"prune_ratio": -0.1}, "prune_ratio is -0.1"),
        ({"prune_ratio": float("nan")}, "prune_ratio is nan"),
        ({"min_channels": 0}, "min_channels is 0; give an integer >= 1"),
        ({"round_to": 0}, "round_to is 0; give an integer >= 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        draw_mask({"a": torch.tensor([0.1, 0.2])}, **{"prune_ratio": 0.5, **arguments})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "the criterion scores no layer"),
        ({"b": torch.ones(2)}, "no scored layer belongs to the groups, not even 'b'"),
        ({"a": torch.ones(3)}, "layer 'a' has 3 scores for 2 channels"),
    ],
)
def test_scores_of_another_network_are_refused(scores, message):
    with pytest.raises(MaskError, match=message):
        draw_mask(scores, 0.5, ChannelGroups({"a": torch.tensor([0, 1])}))


def test_the_realised_ratio_of_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(MaskError, match="draw the mask from this network"):
        realised_ratio(ChannelMask({"b": torch.tensor([True])}), ChannelGroups({"a": torch.tensor([0])}))


def test_an_empty_mask_removes_nothing():
    assert realised_ratio(ChannelMask({})) == 0.0
