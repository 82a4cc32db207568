from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird.core import bn_l1_proximal_, bn_l1_subgradient_, bn_scale, filter_l1, taylor
from earlybird.errors import ConfigError, MaskError


def network() -> nn.Sequential:
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.BatchNorm2d(4), nn.BatchNorm3d(2), nn.SyncBatchNorm(5), nn.LayerNorm(3), nn.Linear(2, 2)
    )
    for norm in model[:4]:
        norm.weight.data.uniform_(-1, 1)
    return model


def test_every_batchnorm_is_scored_by_the_absolute_value_of_its_scale():
    model = network()
    scores = bn_scale(model)
    assert list(scores) == ["0", "1", "2", "3"]
    assert torch.equal(scores["3"], model[3].weight.detach().abs())
    assert not scores["0"].requires_grad


def test_a_model_without_scales_is_told_which_criteria_work():
    with pytest.raises(MaskError, match="use criterion=filter_l1 or criterion=taylor"):
        bn_scale(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)))


def test_filter_l1_sums_absolute_weights_per_output():
    conv = nn.Conv2d(1, 2, (1, 2), bias=False)
    conv.weight.data = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 0.25]]]])
    assert filter_l1(nn.Sequential(conv))["0"].tolist() == [3.0, 0.75]


def test_taylor_squares_the_sum_of_weight_times_gradient():
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    linear.weight.grad = torch.tensor([[1.0, -1.0], [2.0, 5.0]])
    assert taylor(nn.Sequential(linear))["0"].tolist() == [1.0, 36.0]


def test_the_subgradient_is_what_autograd_gives_for_the_sum_of_absolute_scales():
    model, reference = network(), network()
    reference.load_state_dict(model.state_dict())
    for m in (model, reference):
        for p in m.parameters():
            p.grad = torch.full_like(p, 0.25)
    bn_l1_subgradient_(model, 0.01)
    (0.01 * sum(norm.weight.abs().sum() for norm in reference[:4])).backward()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad)


def test_a_scale_at_zero_gets_no_push():
    norm = nn.BatchNorm1d(1)
    norm.weight.data.zero_()
    norm.weight.grad = torch.zeros(1)
    bn_l1_subgradient_(norm, 1.0)
    assert norm.weight.grad.item() == 0.0


def test_frozen_scales_and_scales_without_gradient_are_left_alone():
    frozen, idle = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    frozen.weight.requires_grad_(False)
    model = nn.Sequential(frozen, idle)
    bn_l1_subgradient_(model, 1.0)
    bn_l1_proximal_(nn.Sequential(frozen), 1.0, lr=1.0)
    assert frozen.weight.grad is None
    assert idle.weight.grad is None
    assert frozen.weight.tolist() == [1.0, 1.0]


def test_the_proximal_form_soft_thresholds_by_lr_s_over_one_minus_momentum():
    norm = nn.BatchNorm1d(4)
    norm.weight.data = torch.tensor([0.5, -0.5, 0.015, -0.01])
    bn_l1_proximal_(norm, 0.02, lr=0.1, momentum=0.9)  # threshold 0.1 * 0.02 / 0.1 = 0.02
    assert norm.weight.tolist() == pytest.approx([0.48, -0.48, 0.0, 0.0])


def test_both_forms_shrink_an_idle_scale_equally_fast():
    lr, momentum, strength, steps = 0.1, 0.9, 1e-3, 400
    a, b = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    optimizer = torch.optim.SGD([a.weight], lr=lr, momentum=momentum)
    for _ in range(steps):
        a.weight.grad = torch.zeros(1)
        bn_l1_subgradient_(a, strength)
        optimizer.step()
        bn_l1_proximal_(b, strength, lr=lr, momentum=momentum)
    assert a.weight.item() == pytest.approx(b.weight.item(), abs=0.01)
    assert b.weight.item() == pytest.approx(1 - steps * 1e-3, abs=1e-4)


def test_a_negative_or_undefined_strength_is_refused():
    for strength in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="penalty strength is"):
            bn_l1_subgradient_(nn.BatchNorm1d(1), strength)
    with pytest.raises(ConfigError, match=r"momentum is 1\.0"):
        bn_l1_proximal_(nn.BatchNorm1d(1), 0.1, lr=0.1, momentum=1.0)
