from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from earlybird.core import bn_scale, filter_l1, filter_l2, taylor
from earlybird.errors import MaskError


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_kind_of_batch_norm_scores_the_size_of_its_scale(norm):
    net = nn.Sequential(nn.ReLU(), norm(3))
    net[1].weight.data = torch.tensor([0.5, -2.0, 0.0])
    assert {name: score.tolist() for name, score in bn_scale(net).items()} == {"1": [0.5, 2.0, 0.0]}


def test_norms_without_a_scale_and_other_norms_score_nothing():
    net = nn.Sequential(
        nn.BatchNorm2d(2, affine=False), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2, affine=True), nn.BatchNorm2d(2)
    )
    assert list(bn_scale(net)) == ["3"]


def test_scores_come_in_the_order_of_the_network_under_full_names():
    net = nn.Sequential(nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)), nn.BatchNorm1d(1))
    assert list(bn_scale(net)) == ["0.0", "1"]
    assert list(filter_l1(net)) == ["0.1"]


def test_scores_are_float32_copies():
    net = nn.Sequential(nn.BatchNorm1d(2)).double()
    score = bn_scale(net)["0"]
    assert (score.dtype, score.requires_grad, score.device.type) == (torch.float32, False, "cpu")
    score[:] = 7
    assert net[0].weight.tolist() == [1.0, 1.0]


def test_a_network_without_scales_is_refused_with_the_alternatives():
    with pytest.raises(MaskError, match="found no BatchNorm with a scale; use criterion=filter_l1 or criterion=taylor"):
        bn_scale(nn.Linear(2, 2))


def test_filter_l1_sums_the_weights_of_each_output():
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 3))
    net[0].weight.data = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).reshape(2, 2, 1, 1)
    net[1].weight.data = torch.tensor([[1.0, 1.0], [-3.0, 0.0], [0.0, 0.0]])
    assert {name: score.tolist() for name, score in filter_l1(net).items()} == {"0": [3.0, 0.5], "1": [2.0, 3.0, 0.0]}


def test_filter_l2_is_the_euclidean_norm_of_each_output():
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
    net[0].weight.data = torch.tensor([[3.0, -4.0], [0.0, 0.0]]).reshape(2, 2, 1, 1)
    assert filter_l2(net)["0"].tolist() == [5.0, 0.0]


@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_filter_l1_has_one_score_per_output_of_every_conv(conv):
    assert filter_l1(nn.Sequential(conv(4, 6, 3, groups=2)))["0"].shape == (6,)


def test_taylor_is_the_square_of_the_sum_of_weight_times_gradient():
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    # The gradient of the sum of the outputs by each weight is the input: 0.5 and 2.
    net(torch.tensor([[0.5, 2.0]])).sum().backward()
    assert taylor(net)["0"].tolist() == [(1 * 0.5 + 2 * 2) ** 2, (3 * 0.5 - 1 * 2) ** 2]


def test_taylor_predicts_what_zeroing_a_filter_does_to_a_linear_loss():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    x = torch.randn(2, 3, 5, 5)
    loss = net(x).sum()
    loss.backward()
    for channel, score in enumerate(taylor(net)["0"]):
        cut = copy.deepcopy(net)
        cut[0].weight.data[channel] = 0
        assert (cut(x).sum() - loss).square().item() == pytest.approx(score.item(), rel=1e-3)


def test_taylor_multiplies_half_precision_without_underflow():
    net = nn.Sequential(nn.Linear(1, 1, bias=False)).half()
    net[0].weight.data.fill_(1e-4)
    net[0].weight.grad = torch.full_like(net[0].weight, 1e-5)
    assert taylor(net)["0"].item() > 0


def test_taylor_without_gradients_is_refused_with_the_layer():
    with pytest.raises(MaskError, match=r"no gradient at '0'; call it after backward\(\) and before zero_grad\(\)"):
        taylor(nn.Sequential(nn.Linear(1, 1)))
