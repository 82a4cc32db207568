from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from earlybird.core import ChannelMask, chance_distance, first_firing_draw, mask_distance, relative_to_chance
from earlybird.core.groups import ChannelGroups
from earlybird.core.history import MaskHistory
from earlybird.core.stopping import count_similarity, epi_value, fires_authors_code, fires_epi, fires_paper
from earlybird.errors import ConfigError, MaskError

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "mask_distance_cifar100.npz"


def random_mask(g: torch.Generator) -> ChannelMask:
    return ChannelMask({"a": torch.rand(6, generator=g) < 0.5, "b": torch.rand(3, generator=g) < 0.5})


def test_distance_of_a_mask_to_its_complement_is_one_and_to_itself_zero():
    g = torch.Generator().manual_seed(0)
    m = random_mask(g)
    assert mask_distance(m, ChannelMask({name: ~m[name] for name in m})) == 1.0
    assert mask_distance(m, m) == 0.0


def test_distance_is_a_metric():
    g = torch.Generator().manual_seed(1)
    for _ in range(50):
        a, b, c = (random_mask(g) for _ in range(3))
        assert mask_distance(a, b) == mask_distance(b, a)
        assert mask_distance(a, c) <= mask_distance(a, b) + mask_distance(b, c) + 1e-12


def test_layers_count_by_their_channels_and_order_does_not_matter():
    a = ChannelMask({"x": torch.tensor([True, True, True]), "y": torch.tensor([True])})
    b = ChannelMask({"y": torch.tensor([False]), "x": torch.tensor([True, True, True])})
    assert mask_distance(a, b) == 0.25


def test_with_groups_a_unit_counts_once_and_a_protected_channel_never():
    groups = ChannelGroups(
        {"a": torch.tensor([0, 1]), "b": torch.tensor([0, 1, -1])}, protected={"b": {2: "why"}}, policy="tie"
    )
    keep_both = groups.mask_of(torch.tensor([True, True]))
    keep_one = groups.mask_of(torch.tensor([True, False]))
    assert mask_distance(keep_both, keep_one, groups) == 0.5
    assert mask_distance(keep_both, keep_one) == 2 / 5


def test_masks_of_different_networks_have_no_distance():
    with pytest.raises(
        MaskError, match="masks differ at layer 'a': 2 channels against 3 channels; compare one network"
    ):
        mask_distance(*(ChannelMask({"a": torch.ones(n, dtype=torch.bool)}) for n in (2, 3)))


def test_relative_to_chance_is_what_method_md_says():
    assert chance_distance(0.5) == 0.5
    assert relative_to_chance(0.1, 0.5) == pytest.approx(0.2)
    assert relative_to_chance(0.1, 0.1) == pytest.approx(0.5556, abs=1e-4)
    with pytest.raises(ConfigError, match="prune_ratio is 0"):
        relative_to_chance(0.1, 0.0)


def test_paper_needs_five_consecutive_distances_strictly_below_epsilon():
    assert fires_paper([0.09] * 5)
    assert not fires_paper([0.09] * 4)
    assert not fires_paper([0.09] * 4 + [0.1])
    assert fires_paper([0.5, 0.2, 0.09, 0.08, 0.07, 0.06, 0.05])
    assert fires_paper([0.3, 0.25], window=2, epsilon=0.4)


def test_authors_code_compares_the_newest_with_the_four_before_inclusively():
    assert fires_authors_code([0.1, 0.1, 0.1, 0.1, 0.9])
    assert not fires_authors_code([0.05, 0.05, 0.05])
    assert not fires_authors_code([0.05, 0.05, 0.05, 0.11])


def test_epi_is_the_mean_similarity_of_counts_to_the_five_before():
    assert count_similarity({"a": 3, "b": 5}, {"a": 1, "b": 5}) == 1 - (2 / 4 + 0) / 2
    counts = [{"a": n} for n in (1, 2, 3, 4, 5, 6)]
    expected = np.mean([1 - abs(6 - n) / (6 + n) for n in (5, 4, 3, 2, 1)])
    assert epi_value(counts) == pytest.approx(expected)
    assert epi_value(counts[:5]) is None


def test_epi_fires_at_tau_when_it_is_no_lower_than_the_five_before():
    assert fires_epi([0.9, 0.9, 0.9, 0.9, 0.9, 0.983])
    assert not fires_epi([0.9] * 5 + [0.982])
    assert not fires_epi([0.99] * 5)
    assert not fires_epi([0.99, 0.999, 0.99, 0.99, 0.99, 0.995])


@pytest.mark.parametrize(("rule", "expected"), [("paper", (8, 16, 10, 7)), ("authors_code", (17, 26, 18, 9))])
def test_rules_fire_on_the_authors_matrices_where_method_md_says(rule, expected):
    if not FIXTURE.is_file():
        pytest.skip("the authors' mask-distance matrices are not here")
    with np.load(FIXTURE) as matrices:
        assert tuple(first_firing_draw(matrices[f"ratio_{p}"], rule) for p in (0.2, 0.4, 0.6, 0.8)) == expected


def test_a_matrix_that_never_settles_never_fires():
    assert first_firing_draw(np.ones((20, 20))) is None
    with pytest.raises(ConfigError, match=r"shape \(2, 3\); give a square one"):
        first_firing_draw(np.ones((2, 3)))
    with pytest.raises(ConfigError, match="cannot be read from distances"):
        first_firing_draw(np.ones((3, 3)), "epi")


def settling_masks(seed: int, draws: int = 30) -> list[ChannelMask]:
    """Random masks that flip fewer and fewer channels."""
    g = torch.Generator().manual_seed(seed)
    keep = torch.rand(40, generator=g) < 0.5
    masks = []
    for draw in range(draws):
        keep = keep ^ (torch.rand(40, generator=g) < 0.5 / (1 + draw))
        masks.append(ChannelMask({"a": keep[:15], "b": keep[15:]}))
    return masks


@pytest.mark.parametrize("rule", ["paper", "authors_code"])
@pytest.mark.parametrize("seed", range(10))
def test_the_history_fires_exactly_where_the_matrix_does(rule, seed: int):
    masks = settling_masks(seed)
    matrix = np.array([[mask_distance(a, b) for b in masks] for a in masks])
    history, fired = MaskHistory(rule, 5, 0.1), None
    for draw, mask in enumerate(masks, start=1):
        history.record(mask, [mask_distance(mask, earlier) for earlier in reversed(history.masks)])
        if fired is None and history.fires():
            fired = draw
    assert fired == first_firing_draw(matrix, rule)
    assert history.distances == [matrix[i, i - 1] for i in range(1, len(masks))]


@pytest.mark.parametrize("seed", range(5))
def test_the_history_transcribes_the_epi_formula(seed: int):
    masks = settling_masks(seed)
    history = MaskHistory("epi", 5, 0.1)
    counts = [mask.kept_counts() for mask in masks]
    expected = []
    for t, mask in enumerate(masks):
        history.record(mask, [mask_distance(mask, earlier) for earlier in reversed(history.masks)])
        if t >= 5:
            psi = []
            for j in range(1, 6):
                now, then = counts[t], counts[t - j]
                psi.append(1 - np.mean([abs(now[n] - then[n]) / (now[n] + then[n]) for n in now]))
            expected.append(np.mean(psi))
    assert history.epi_values == pytest.approx(expected)
