from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from earlybird.slimming.selection import (
    SelectBatchNorm1d,
    SelectBatchNorm2d,
    SelectBatchNorm3d,
    SelectSyncBatchNorm,
    gather_channels,
    let_gather_,
)

INDEX = torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (SelectBatchNorm1d, (3, 4)),
        (SelectBatchNorm1d, (3, 4, 5)),
        (SelectBatchNorm2d, (3, 4, 5, 5)),
        (SelectBatchNorm3d, (3, 4, 2, 5, 5)),
    ],
)
def test_a_gathering_norm_is_its_norm_on_the_gathered_channels(kind, shape):
    norm = kind(2)
    norm.index.copy_(INDEX)
    x = torch.randn(shape)
    plain = kind.__bases__[-1](2)
    assert torch.equal(norm(x), plain(x[:, INDEX]))
    assert torch.equal(norm.running_mean, plain.running_mean)


def test_a_gathering_norm_has_the_parameters_of_a_norm_and_saves_its_index():
    norm = SelectBatchNorm2d(2)
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]
    assert norm.index.dtype == torch.int64
    norm.index.copy_(INDEX)
    other = SelectBatchNorm2d(2)
    other.load_state_dict(norm.state_dict())
    assert other.index.tolist() == [0, 3]


def test_gathering_keeps_the_memory_format():
    x = torch.randn(2, 4, 5, 5)
    last = x.to(memory_format=torch.channels_last)
    assert gather_channels(x, INDEX).is_contiguous()
    assert gather_channels(last, INDEX).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(gather_channels(last, INDEX), x[:, INDEX])


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (nn.BatchNorm1d(2, eps=1e-3), SelectBatchNorm1d),
        (nn.BatchNorm2d(2, momentum=None), SelectBatchNorm2d),
        (nn.BatchNorm2d(2, track_running_stats=False), SelectBatchNorm2d),
        (nn.BatchNorm3d(2).eval(), SelectBatchNorm3d),
        (nn.SyncBatchNorm(2), SelectSyncBatchNorm),
    ],
)
def test_a_norm_turned_selecting_keeps_its_own_tensors_and_settings(norm, kind):
    select = let_gather_(copy.deepcopy(norm), INDEX)
    assert type(select) is kind
    assert (select.eps, select.momentum, select.training) == (norm.eps, norm.momentum, norm.training)
    assert select.track_running_stats == norm.track_running_stats
    assert (select.running_mean is None) == (norm.running_mean is None)
    assert torch.equal(select.weight, norm.weight)


@pytest.mark.parametrize("kept", [[0], [4, 1, 3], [0, 1, 2, 3, 4]])
def test_bf16_gathers_exactly_and_so_do_its_gradients(kept):
    """On the CPU in channels_last a matrix product does it."""
    x = torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last).bfloat16().requires_grad_()
    y = gather_channels(x, torch.tensor(kept))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, x[:, kept])
    weight = torch.randn(y.shape).bfloat16()
    (actual,) = torch.autograd.grad((y * weight).sum(), x)
    (expected,) = torch.autograd.grad((x[:, kept] * weight).sum(), x)
    assert torch.equal(actual, expected)
