from __future__ import annotations

import pytest
import torch

from earlybird.core import ChannelGroups, ChannelMask, draw_mask, mask_distance
from earlybird.errors import MaskError


def bits(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def random_mask(seed: int) -> ChannelMask:
    random = torch.Generator().manual_seed(seed)
    return ChannelMask({name: torch.rand(width, generator=random) < 0.5 for name, width in [("a", 7), ("b", 12)]})


def complement(mask: ChannelMask) -> ChannelMask:
    return ChannelMask({name: ~keep for name, keep in mask.items()})


def test_distance_is_the_fraction_of_channels_that_differ():
    a = ChannelMask({"a": bits(1, 1), "b": bits(1, 0, 0)})
    b = ChannelMask({"a": bits(0, 1), "b": bits(1, 0, 1)})
    assert mask_distance(a, b) == pytest.approx(2 / 5)


def test_distance_of_a_mask_to_itself_is_zero_and_to_its_complement_one():
    mask = random_mask(0)
    assert mask_distance(mask, mask) == 0.0
    assert mask_distance(mask, complement(mask)) == 1.0


def test_distance_is_a_metric():
    masks = [random_mask(seed) for seed in range(6)]
    for a in masks:
        for b in masks:
            assert mask_distance(a, b) == mask_distance(b, a)
            assert (mask_distance(a, b) == 0.0) == (a == b)
            assert 0.0 <= mask_distance(a, b) <= 1.0
            for c in masks:
                assert mask_distance(a, c) <= mask_distance(a, b) + mask_distance(b, c) + 1e-12


def test_the_order_of_the_layers_does_not_matter():
    a, b = random_mask(1), random_mask(2)
    turned = ChannelMask({"b": b["b"], "a": b["a"]})
    assert mask_distance(a, turned) == mask_distance(a, b)


def test_with_groups_a_tied_unit_counts_once_and_protected_channels_never():
    groups = ChannelGroups(
        {"a": torch.tensor([0, 1, -1, -1]), "b": torch.tensor([0, 1]), "c": torch.tensor([2, 3])},
        protected={"a": {2: "why", 3: "why"}},
    )
    a, b = groups.mask_of(bits(0, 1, 1, 1)), groups.mask_of(bits(1, 1, 1, 0))
    assert mask_distance(a, b, groups) == 2 / 4
    assert mask_distance(a, b) == 3 / 8  # channels: a's, b's and c's


def test_without_units_or_layers_nothing_differs():
    groups = ChannelGroups({"a": torch.tensor([-1])}, protected={"a": {0: "why"}})
    mask = ChannelMask({"a": bits(1)})
    assert mask_distance(mask, mask, groups) == 0.0
    assert mask_distance(ChannelMask({}), ChannelMask({})) == 0.0


def test_masks_of_other_layers_are_refused():
    with pytest.raises(MaskError, match="masks differ at layer 'a': 2 channels against 3 channels"):
        mask_distance(ChannelMask({"a": bits(1, 0)}), ChannelMask({"a": bits(1, 0, 1)}))
    with pytest.raises(MaskError, match="draw the mask from this network"):
        mask_distance(random_mask(0), random_mask(1), ChannelGroups({"a": torch.tensor([0])}))


def test_random_masks_of_one_ratio_lie_at_the_chance_distance():
    random = torch.Generator().manual_seed(0)
    a, b = (draw_mask({"bn": torch.rand(20_000, generator=random)}, 0.3) for _ in range(2))
    assert mask_distance(a, b) == pytest.approx(2 * 0.3 * (1 - 0.3), abs=0.01)
