from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from earlybird.core import ChannelGroups, CostTerm, StepCost, allocate, chain_program
from earlybird.core.allocation import Choices, choices_of, kept_of_blocks, time_counts
from earlybird.core.drawing import rank_units
from earlybird.core.groups import one_unit_per_channel
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def term(reads: dict[int, float], makes: dict[int, float], per: float, always: float = 0.0) -> CostTerm:
    """Seconds = `per` * width read * width made, on a grid that ends at 64."""
    widths = np.array([0.0, 64.0])
    return CostTerm("layer", reads, makes, always, always, widths, widths, per * np.outer(widths, widths))


def chain_cost(widths: list[int], rng: np.random.Generator) -> StepCost:
    """Each layer reads the block before it; the first reads 3 channels, the last makes 10. Grids are not smooth."""
    terms, ends = [], [0.0, 8.0, 16.0, 24.0, 32.0]
    for block in range(len(widths) + 1):
        reads = {block - 1: 1.0} if block else {}
        makes = {block: 1.0} if block < len(widths) else {}
        grid = np.outer(np.arange(1, 6), np.arange(1, 6)) * rng.uniform(0.5, 1.5, (5, 5))
        terms.append(
            CostTerm(f"{block}", reads, makes, 0 if block else 3, 10 if block == len(widths) else 0, np.array(ends),
                     np.array(ends), grid)
        )  # fmt: skip
    return StepCost(terms, 1.5)


def brute_force(choices: Choices, cost: StepCost, budget: float) -> float:
    """Most value that any combination within the budget has."""
    best = -math.inf
    for places in itertools.product(*(range(counts.size) for counts in choices.counts)):
        counts = [int(c[place]) for c, place in zip(choices.counts, places, strict=True)]
        if cost.seconds(counts) <= budget:
            best = max(best, value_of(choices, counts))
    return best


def value_of(choices: Choices, counts: list[int]) -> float:
    places = [int(np.flatnonzero(c == count)[0]) for c, count in zip(choices.counts, counts, strict=True)]
    return float(sum(v[place] for v, place in zip(choices.values, places, strict=True)))


def ranked(widths: list[int], rng: np.random.Generator, groups: ChannelGroups | None = None):
    scores = {f"bn{i}": torch.from_numpy(rng.gamma(1.0, size=width)) for i, width in enumerate(widths)}
    return rank_units(scores, groups or one_unit_per_channel(dict(zip(scores, widths, strict=True))))


def test_seconds_are_bilinear_between_the_known_widths():
    known = CostTerm("conv", {0: 1.0}, {1: 2.0}, 1, 0, np.array([1.0, 3.0]), np.array([0.0, 4.0, 8.0]),
                     np.array([[0.0, 4.0, 4.0], [2.0, 6.0, 10.0]]))  # fmt: skip
    assert known.blocks == (0, 1)
    assert float(known.seconds(np.array([0, 0]))) == 0.0
    assert float(known.seconds(np.array([1, 1]))) == pytest.approx(3.0)  # read 2 of 1..3, made 2 of 0..4: mean of four
    assert float(known.seconds(np.array([2, 3]))) == pytest.approx(8.0)
    assert float(known.seconds(np.array([9, 9]))) == 10.0  # beyond the grid its edge
    assert StepCost([known, known], 0.5).seconds([2, 3]) == pytest.approx(16.5)


@pytest.mark.parametrize("seed", range(6))
def test_the_program_of_a_chain_finds_what_brute_force_finds(seed):
    rng = np.random.default_rng(seed)
    widths = [int(w) for w in rng.choice([8, 16, 24], size=4)]
    cost, choices = chain_cost(widths, rng), choices_of(ranked(widths, rng), 4)
    least = cost.seconds([int(c[0]) for c in choices.counts])
    for share in (0.05, 0.3, 0.6, 0.9):
        budget = least + share * (cost.seconds(widths) - least)
        if budget <= least:
            continue
        counts = time_counts(choices, cost, budget)
        assert cost.seconds(counts) <= budget * (1 + 1e-9)
        assert value_of(choices, counts) == pytest.approx(brute_force(choices, cost, budget), abs=1e-12)


def test_a_thinned_program_stays_near_the_exact_one(monkeypatch):
    rng = np.random.default_rng(3)
    widths = [32] * 8
    cost, choices = chain_cost(widths, rng), choices_of(ranked(widths, rng), 2)
    budget = 0.6 * cost.seconds(widths)
    exact = value_of(choices, time_counts(choices, cost, budget))
    monkeypatch.setattr(chain_program, "MOST_PAIRS", 100)
    thinned = time_counts(choices, cost, budget)
    assert cost.seconds(thinned) <= budget
    assert exact - 0.05 < value_of(choices, thinned) <= exact + 1e-12


def test_chains_are_found_in_any_order_and_circles_are_none():
    assert chain_program.chain_order(4, [(0, 2), (2,), (1, 3), (1, 2), ()]) in ([0, 2, 1, 3], [3, 1, 2, 0])
    assert sorted(chain_program.chain_order(3, [(0, 2)]) or []) == [0, 1, 2]
    assert chain_program.chain_order(3, [(0, 1), (1, 2), (0, 2)]) is None
    assert chain_program.chain_order(4, [(0, 1), (0, 2), (0, 3)]) is None
    assert chain_program.chain_order(3, [(0, 1, 2)]) is None
    assert chain_program.chain_order(5, [(0, 1), (2, 3), (3, 4), (2, 4)]) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_network_with_adds_comes_near_to_brute_force_within_the_budget(seed):
    rng = np.random.default_rng(seed)
    widths = [32, 16, 24, 32]  # a stream, and three inner blocks that read and write it: a star with a circle
    terms = [term({0: 1.0}, {b: 1.0}, rng.uniform(0.5, 2)) for b in (1, 2, 3)]
    terms += [term({b: 1.0}, {0: 1.0}, rng.uniform(0.5, 2)) for b in (1, 2, 3)]
    cost = StepCost([*terms, term({1: 1.0, 2: 1.0}, {3: 1.0}, 1.0)])
    choices = choices_of(ranked(widths, rng), 4)
    for share in (0.4, 0.6, 0.8):
        budget = share * cost.seconds(widths)
        counts = time_counts(choices, cost, budget)
        assert cost.seconds(counts) <= budget
        assert value_of(choices, counts) > brute_force(choices, cost, budget) - 0.1


def test_uniform_keeps_the_same_fraction_of_each_layer_and_as_much_as_fits():
    groups = one_unit_per_channel({"a": 32, "b": 64})
    cost = StepCost([term({}, {0: 1.0}, 1.0, 1.0), term({0: 1.0}, {1: 1.0}, 1.0)])
    ranking = rank_units({"a": torch.arange(32.0), "b": torch.arange(64.0)}, groups)

    def kept(budget: float, **more: Any) -> list[int]:
        return kept_of_blocks(allocate(ranking, cost, budget, allocation="uniform", **more), groups)

    budget = 0.4 * cost.seconds([32, 64])
    assert kept(budget) == [16, 40]  # 24, 40 and 16, 48 do not fit
    assert kept(1e9) == [32, 64]
    half = groups.mask_of(torch.arange(96) >= 16)
    assert kept(1e9, within=half) == [16, 64]
    with pytest.raises(ConfigError, match="budget_seconds is 1; give at least .* a step of 8 channels of each layer"):
        kept(1)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_the_nearest_may_cost_more_than_the_budget(allocation):
    ranking = rank_units({"a": torch.arange(64.0)}, one_unit_per_channel({"a": 64}))
    cost = StepCost([term({}, {0: 1.0}, 1.0, 1.0)])

    def kept(budget: float, **more: Any) -> int:
        (count,) = kept_of_blocks(allocate(ranking, cost, budget, allocation=allocation, **more), ranking.groups)
        return count

    assert kept(38.0) == 32
    assert kept(38.0, fit="nearest") == kept(42.0, fit="nearest") == 40
    assert kept(42.0, fit="nearest", floor=0.9) == 64
    assert kept(34.0, fit="nearest") == 32
    assert kept(1.0, fit="nearest") == 8 and kept(1.0, fit="nearest", floor=0.25) == 16
    with pytest.raises(ConfigError, match="budget_seconds is 15.0; give at least 17, what a step of the smallest"):
        kept(15.0, floor=0.25)


def test_an_allocation_by_seconds_needs_those_of_the_layers():
    class Macs:
        def seconds(self, counts: Any) -> float:
            return float(sum(counts))

    ranking = rank_units({"a": torch.arange(64.0)}, one_unit_per_channel({"a": 64}))
    assert sum(allocate(ranking, Macs(), 20.0, allocation="uniform").kept_counts().values()) == 16
    with pytest.raises(ConfigError, match="cost is .*; give a StepCost for allocation 'time'"):
        allocate(ranking, Macs(), 20.0)


@pytest.mark.parametrize("allocation", ["global", "uniform", "time"])
def test_a_mask_fits_the_budget_and_keeps_the_best_of_each_layer(allocation):
    rng = np.random.default_rng(0)
    widths = [16, 32, 32]
    ranking, cost = ranked(widths, rng), chain_cost(widths, rng)
    budget = 0.6 * cost.seconds(widths)
    mask = allocate(ranking, cost, budget, allocation=allocation, round_to=4)
    kept = kept_of_blocks(mask, ranking.groups)
    assert 0.4 * cost.seconds(widths) < cost.seconds(kept) <= budget
    assert all(count % 4 == 0 for count in kept)
    for block, count in zip(ranking.groups.blocks, kept, strict=True):
        best = block[np.argsort(-ranking.scores[block])[:count]]
        assert ranking.groups.keep_units(mask).numpy()[best].all()
    assert allocate(ranking, cost, 1e9, allocation=allocation).kept_counts() == dict(zip(mask, widths, strict=True))


@pytest.mark.parametrize("allocation", ["global", "uniform", "time"])
def test_a_second_cut_brings_nothing_back(allocation):
    rng = np.random.default_rng(5)
    widths = [32, 32, 32]
    ranking, cost = ranked(widths, rng), chain_cost(widths, rng)
    # The first cut removes the best of each layer, so that a cut by score alone would bring them back.
    gone = np.concatenate([block[np.argsort(-ranking.scores[block])[:12]] for block in ranking.groups.blocks])
    first = np.ones(96, dtype=bool)
    first[gone] = False
    before = ranking.groups.mask_of(torch.from_numpy(first))
    whole = cost.seconds([20, 20, 20])
    mask = allocate(ranking, cost, 0.8 * whole, allocation=allocation, round_to=4, within=before)
    kept = ranking.groups.keep_units(mask).numpy()
    assert not kept[gone].any()
    assert 0.5 * whole < cost.seconds(kept_of_blocks(mask, ranking.groups)) <= 0.8 * whole
    assert allocate(ranking, cost, whole, allocation=allocation, round_to=4, within=before) == before


def test_time_spends_where_seconds_are_cheap():
    groups = one_unit_per_channel({"bn0": 64, "bn1": 64})
    ranking = rank_units({name: torch.ones(64) for name in ("bn0", "bn1")}, groups)
    cost = StepCost([term({}, {0: 1.0}, 9.0, 1.0), term({}, {1: 1.0}, 1.0, 1.0)])
    kept = kept_of_blocks(allocate(ranking, cost, 0.5 * cost.seconds([64, 64])), groups)
    assert kept[0] < 32 < kept[1]


def test_what_cannot_be_allocated_is_said_in_one_line():
    rng = np.random.default_rng(0)
    ranking, cost = ranked([16, 32], rng), chain_cost([16, 32], rng)
    with pytest.raises(
        ConfigError, match="allocation is 'tmie'; did you mean 'time'. give one of global, uniform, time"
    ):
        allocate(ranking, cost, 1.0, allocation="tmie")
    for allocation, what in {"time": "smallest choices", "uniform": "8 channels of each", "global": "smallest"}.items():
        with pytest.raises(ConfigError, match=f"budget_seconds is 1.6; give at least .*, what a step of .*{what}"):
            allocate(ranking, cost, 1.6, allocation=allocation)
    with pytest.raises(ConfigError, match="round_to is 0; give an integer >= 1"):
        allocate(ranking, cost, 1.0, round_to=0)
    with pytest.raises(ConfigError, match=r"floor is 0; give a number in \(0, 1\]"):
        allocate(ranking, cost, 1.0, floor=0)
    with pytest.raises(ConfigError, match="budget_seconds is nan; give a number above 0"):
        allocate(ranking, cost, math.nan)


def test_scores_of_which_no_share_can_be_taken_name_their_layer():
    groups = one_unit_per_channel({"a": 8, "b": 8})
    cost = chain_cost([8, 8], np.random.default_rng(0))

    def ranking_of(scores: torch.Tensor):
        return rank_units({"a": torch.ones(8), "b": scores}, groups)

    with pytest.raises(MaskError, match="layer 'b': all 8 scores are zero.*gather the score over more steps"):
        allocate(ranking_of(torch.zeros(8)), cost, 1e3)
    with pytest.raises(MaskError, match=r"layer 'b': score -1 is negative; allocation 'time' takes shares"):
        allocate(ranking_of(-torch.ones(8)), cost, 1e3)
    with pytest.raises(NonFiniteError, match="layer 'b': a score is NaN"):
        ranking_of(torch.full((8,), math.nan))
