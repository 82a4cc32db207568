from __future__ import annotations

import pytest
import torch

from earlybird.models import build_model
from earlybird.slimming import certify, channel_groups, slim

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def worst_error(name, width, policy, randomised, random_mask) -> float:
    model = randomised(build_model(name, num_classes=10, width=width))
    groups = channel_groups(model, IMAGES, policy)
    worst = 0.0
    for ratio in RATIOS:
        mask = random_mask(groups, ratio)
        small = slim(model, mask, IMAGES, groups)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        worst = max(worst, certify(model, mask, IMAGES, small))
    return worst


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_slim_vgg_equals_masked_at_every_ratio(name, randomised, random_mask):
    assert worst_error(name, 0.25, "auto", randomised, random_mask) <= 1e-5


@pytest.mark.parametrize("policy", ["select", "inner", "tie"])
def test_slim_preresnet29_equals_masked_under_every_policy(policy, randomised, random_mask):
    assert worst_error("preresnet29", 0.5, policy, randomised, random_mask) <= 1e-5


def test_slim_preresnet101_equals_masked(randomised, random_mask):
    model = randomised(build_model("preresnet101", num_classes=10, width=0.25))
    mask = random_mask(channel_groups(model, IMAGES))
    assert certify(model, mask, IMAGES, slim(model, mask, IMAGES)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "vgg19", "preresnet29", "preresnet101"])
@pytest.mark.parametrize("policy", ["auto", "inner", "tie"])
def test_full_width_networks_equal_their_masked_form(name, policy, randomised, random_mask):
    assert worst_error(name, 1.0, policy, randomised, random_mask) <= 1e-5


def test_the_numeric_check_sees_a_wrong_cut(randomised, random_mask):
    """Another mask of the same widths would pass every test of shapes."""
    model = randomised(build_model("preresnet20", num_classes=10, width=0.5))
    groups = channel_groups(model, IMAGES)
    mask = random_mask(groups)
    other = type(mask)({name: keep.flip(0) for name, keep in mask.items()})
    assert certify(model, mask, IMAGES, slim(model, other, IMAGES, groups)) > 1e-2


def test_double_precision_leaves_only_double_rounding(randomised, random_mask):
    model = randomised(build_model("preresnet20", num_classes=10, width=0.5)).double()
    mask = random_mask(channel_groups(model, IMAGES.double()))
    assert certify(model, mask, IMAGES.double(), slim(model, mask, IMAGES.double())) < 1e-13


def test_gradients_of_kept_weights_equal_those_of_the_masked_network(randomised, random_mask):
    from earlybird.slimming import kept_indices, masked, sliced

    model = randomised(build_model("preresnet20", num_classes=10, width=0.5)).double().train()
    images = IMAGES.double()
    mask = random_mask(channel_groups(model, images))
    dense, small = masked(model, mask), slim(model, mask, images)
    dense(images).square().sum().backward()
    small(images).square().sum().backward()
    indices, ours = kept_indices(model, mask, images), dict(small.named_parameters())
    for name, parameter in dense.named_parameters():
        expected = sliced(parameter.grad, indices[name])
        assert torch.allclose(ours[name].grad, expected, rtol=1e-6, atol=1e-9), name
