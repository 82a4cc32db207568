from __future__ import annotations

import numpy as np
import torch

from earlybird.data.images import (
    crop_offsets,
    epoch_order,
    flips,
    sample_seed,
    splitmix64,
    stratified_indices,
)


def test_splitmix64_gives_the_reference_generator_s_first_output() -> None:
    assert splitmix64(np.array([0], dtype=np.uint64))[0] == 0xE220A8397B1DCDAF


def test_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    order = epoch_order(100, seed=3, epoch=5)
    assert order.sort().values.tolist() == list(range(100))
    assert torch.equal(order, epoch_order(100, seed=3, epoch=5))
    assert not torch.equal(order, epoch_order(100, seed=3, epoch=6))
    assert not torch.equal(order, epoch_order(100, seed=4, epoch=5))


def test_seed_and_epoch_are_not_interchangeable() -> None:
    assert not torch.equal(epoch_order(100, seed=1, epoch=2), epoch_order(100, seed=2, epoch=1))


def test_draws_of_a_sample_do_not_depend_on_how_many_there_are() -> None:
    few, many = crop_offsets(10, 0, 1, 9), crop_offsets(1000, 0, 1, 9)
    assert torch.equal(few[0], many[0][:10])
    assert torch.equal(few[1], many[1][:10])
    assert torch.equal(flips(10, 0, 1), flips(1000, 0, 1)[:10])


def test_offsets_are_uniform_over_the_nine_positions_and_flips_are_fair() -> None:
    top, left = crop_offsets(90_000, 0, 0, 9)
    for offsets in (top, left):
        counts = offsets.bincount(minlength=9)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 500  # five standard deviations of 94
    assert not torch.equal(top, left)
    assert abs(int(flips(90_000, 0, 0).sum()) - 45_000) < 750


def test_sample_seeds_differ_and_fit_a_generator() -> None:
    seeds = {sample_seed(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_negative_seed_is_a_seed() -> None:
    assert not torch.equal(epoch_order(100, seed=-1, epoch=0), epoch_order(100, seed=1, epoch=0))


def test_stratified_pick_takes_each_class_by_its_share() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    picked = stratified_indices(labels, 20, seed=0)
    assert labels[picked].bincount().tolist() == [12, 6, 2]
    assert picked.tolist() == sorted(set(picked.tolist()))


def test_stratified_pick_changes_with_the_seed_only() -> None:
    labels = torch.arange(100) % 4
    assert torch.equal(stratified_indices(labels, 20, seed=1), stratified_indices(labels, 20, seed=1))
    assert not torch.equal(stratified_indices(labels, 20, seed=1), stratified_indices(labels, 20, seed=2))


def test_stratified_pick_of_an_odd_count_is_within_one_image_of_the_share() -> None:
    labels = torch.arange(1000) % 10
    counts = labels[stratified_indices(labels, 123, seed=0)].bincount(minlength=10)
    assert int(counts.sum()) == 123
    assert set(counts.tolist()) <= {12, 13}
