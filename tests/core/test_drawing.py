from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from earlybird.core import ChannelGroups, draw_mask, realised_ratio
from earlybird.core.snapping import nearest_count
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def kept(mask) -> dict[str, list[int]]:
    return {name: mask[name].int().tolist() for name in mask}


def test_the_lowest_scores_of_the_whole_network_go():
    scores = {"a": torch.tensor([0.1, 0.9, 0.8]), "b": torch.tensor([0.2, 0.7, 0.3])}
    assert kept(draw_mask(scores, 0.5)) == {"a": [0, 1, 1], "b": [0, 1, 0]}


@pytest.mark.parametrize("prune_ratio", [0.0, 0.1, 0.25, 0.5, 0.77])
@pytest.mark.parametrize("seed", range(5))
def test_the_count_is_exact_and_nothing_kept_scores_below_what_went(prune_ratio: float, seed: int):
    g = torch.Generator().manual_seed(seed)
    scores = {f"l{i}": torch.rand(int(n), generator=g) for i, n in enumerate(torch.randint(20, 60, (7,), generator=g))}
    mask = draw_mask(scores, prune_ratio)
    flat = torch.cat(list(scores.values()))
    total = flat.numel()
    assert int((~mask.flat()).sum()) == round(prune_ratio * total)
    if 0 < (~mask.flat()).sum() < total:
        assert flat[mask.flat()].min() >= flat[~mask.flat()].max()
    assert realised_ratio(mask) == pytest.approx(round(prune_ratio * total) / total)


def test_equal_scores_give_uniform_widths():
    scores = {"a": torch.ones(4), "b": torch.ones(8), "c": torch.ones(16)}
    mask = draw_mask(scores, 0.5)
    assert mask.kept_counts() == {"a": 2, "b": 4, "c": 8}
    assert kept(mask)["a"] == [1, 1, 0, 0]


def test_of_equal_scores_the_larger_place_goes_first_then_the_earlier_layer():
    # (index + 1) / width: a 1/2, 1; b 1/3, 2/3, 1. Both last channels stand at 1: a's goes first.
    scores = {"a": torch.ones(2), "b": torch.ones(3)}
    assert kept(draw_mask(scores, 0.2)) == {"a": [1, 0], "b": [1, 1, 1]}
    assert kept(draw_mask(scores, 0.4)) == {"a": [1, 0], "b": [1, 1, 0]}
    assert kept(draw_mask(scores, 0.6)) == {"a": [1, 0], "b": [1, 0, 0]}


def test_a_unit_that_would_empty_a_layer_is_skipped_and_the_next_lowest_goes():
    scores = {"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([0.5, 0.6, 0.7, 0.8])}
    assert kept(draw_mask(scores, 0.5)) == {"a": [0, 1], "b": [0, 0, 1, 1]}
    assert kept(draw_mask(scores, 1 / 3, min_channels=2)) == {"a": [1, 1], "b": [0, 0, 1, 1]}


def test_where_floors_leave_too_little_a_warning_gives_requested_and_realised():
    scores = {"a": torch.rand(1), "b": torch.rand(1), "c": torch.rand(3)}
    with pytest.warns(
        UserWarning, match=r"leaves 0\.400 of the units to remove where prune_ratio=0\.99 asks for 1\.000"
    ):
        mask = draw_mask(scores, 0.99)
    assert mask.kept_counts() == {"a": 1, "b": 1, "c": 1}


def test_ratio_zero_keeps_everything():
    assert bool(draw_mask({"a": torch.rand(5)}, 0.0).flat().all())


def groups() -> ChannelGroups:
    """bn1 and bn2 are tied; bn3 stands alone; its last channel is protected. conv3 makes bn3's channels."""
    return ChannelGroups(
        {"bn1": torch.tensor([0, 1]), "bn2": torch.tensor([0, 1]), "bn3": torch.tensor([2, 3, -1])},
        {"conv3": torch.tensor([2, 3, -1])},
        {"bn3": {2: "why"}},
    )


def test_a_tied_unit_scores_the_mean_of_its_members():
    scores = {"bn1": torch.tensor([0.1, 0.6]), "bn2": torch.tensor([0.9, 0.2]), "bn3": torch.tensor([0.45, 0.9, 0.0])}
    # Units: 0 -> .5, 1 -> .4, 2 -> .45, 3 -> .9; the protected channel is ranked nowhere though it scores lowest.
    assert kept(draw_mask(scores, 0.25, groups())) == {"bn1": [1, 0], "bn2": [1, 0], "bn3": [1, 1, 1]}
    mask = draw_mask(scores, 0.5, groups())
    assert kept(mask) == {"bn1": [1, 0], "bn2": [1, 0], "bn3": [0, 1, 1]}
    assert realised_ratio(mask, groups()) == 0.5


def test_scores_of_a_convolution_are_read_through_the_groups():
    mask = draw_mask({"conv3": torch.tensor([0.9, 0.1, 0.0])}, 0.5, groups())
    # Only bn3's two units are scored; the tied pair stays and is not counted.
    assert kept(mask) == {"bn1": [1, 1], "bn2": [1, 1], "bn3": [1, 0, 1]}


def test_a_tied_unit_respects_the_floor_of_each_of_its_layers():
    g = ChannelGroups({"x": torch.tensor([0, 1]), "y": torch.tensor([0, 1]), "z": torch.tensor([2, 3, 4])})
    scores = {"x": torch.tensor([0.1, 0.2]), "y": torch.tensor([0.1, 0.2]), "z": torch.tensor([0.3, 0.4, 0.5])}
    assert kept(draw_mask(scores, 0.4, g)) == {"x": [0, 1], "y": [0, 1], "z": [0, 1, 1]}


@pytest.mark.parametrize(
    ("kept_count", "size", "expected"),
    [
        (13, 16, 16),
        (12, 16, 16),
        (11, 16, 8),
        (3, 16, 8),
        (2, 64, 8),
        (3, 6, 6),
        (60, 62, 62),
        (57, 62, 56),
        (64, 64, 64),
    ],
)
def test_nearest_multiple_of_eight_or_the_full_size(kept_count: int, size: int, expected: int):
    assert nearest_count(kept_count, size, 8) == expected


@pytest.mark.parametrize("seed", range(5))
def test_rounded_widths_are_multiples_and_keep_the_best_of_each_layer(seed: int):
    g = torch.Generator().manual_seed(seed)
    scores = {"a": torch.rand(16, generator=g), "b": torch.rand(64, generator=g), "c": torch.rand(20, generator=g)}
    exact, rounded = draw_mask(scores, 0.5), draw_mask(scores, 0.5, round_to=8)
    for name, score in scores.items():
        count = rounded.kept_counts()[name]
        assert count % 8 == 0 or count == score.numel()
        assert abs(count - exact.kept_counts()[name]) <= 7
        assert set(torch.topk(score, count).indices.tolist()) == set(torch.nonzero(rounded[name]).flatten().tolist())


def test_one_channel_layers_survive_any_ratio():
    scores = {f"l{i}": torch.rand(1) for i in range(5)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert bool(draw_mask(scores, 0.9).flat().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_never_reaches_a_mask(value: float):
    with pytest.raises(NonFiniteError, match="layer 'b': a score is NaN or infinite"):
        draw_mask({"a": torch.ones(2), "b": torch.tensor([1.0, value])}, 0.5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio is 1\.0; give a number in \[0, 1\)"),
        ({"prune_ratio": -0.5}, "prune_ratio is -0.5"),
        ({"prune_ratio": 0.5, "min_channels": 0}, "min_channels is 0; give an integer >= 1"),
        ({"prune_ratio": 0.5, "round_to": 0}, "round_to is 0; give an integer >= 1"),
    ],
)
def test_an_argument_out_of_range_is_named(more: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        draw_mask({"a": torch.ones(4)}, **more)


def test_scores_of_another_network_are_refused():
    with pytest.raises(MaskError, match="layer 'bn3' has 5 scores for 3 channels"):
        draw_mask({"bn3": torch.ones(5)}, 0.5, groups())
    with pytest.raises(MaskError, match="no scored layer belongs to the groups"):
        draw_mask({"elsewhere": torch.ones(5)}, 0.5, groups())


def test_floors_match_a_one_by_one_reference_on_random_ties():
    rng = np.random.default_rng(0)
    for _ in range(30):
        units = rng.integers(0, 6, size=9)
        names, index = np.unique(units, return_inverse=True)
        unit_of = {"a": torch.tensor(index[:4]), "b": torch.tensor(index[4:])}
        if any(len(set(u.tolist())) != u.numel() for u in unit_of.values()):
            continue
        g, scores = ChannelGroups(unit_of), {"a": torch.tensor(rng.random(4)), "b": torch.tensor(rng.random(5))}
        score = {
            u: np.mean([float(scores[n][i]) for n in unit_of for i in range(unit_of[n].numel()) if unit_of[n][i] == u])
            for u in range(len(names))
        }
        gone: set[int] = set()
        for u in sorted(score, key=score.__getitem__):
            fits = all(sum(v in gone | {u} for v in unit_of[n].tolist()) < unit_of[n].numel() for n in unit_of)
            if fits and len(gone) < round(0.8 * len(names)):
                gone.add(u)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mask = draw_mask(scores, 0.8, g)
        assert {u for u in range(len(names)) if not g.keep_units(mask)[u]} == gone
