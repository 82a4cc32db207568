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
# Wide bf16 is moved as integers, of which autograd knows nothing.
TYPES = [(torch.float32, 5), (torch.bfloat16, 5), (torch.bfloat16, 65)]


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


@pytest.mark.parametrize(("dtype", "width"), TYPES)
@pytest.mark.parametrize("kept", [[0], [4, 1, 3], [0, 1, 2, 3, 4]])
def test_channels_last_gathers_exactly_and_so_do_its_gradients(kept, dtype, width):
    x = torch.randn(2, width, 4, 3).to(memory_format=torch.channels_last).to(dtype).requires_grad_()
    y = gather_channels(x, torch.tensor(kept))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, x[:, kept])
    weight = torch.randn(y.shape).to(dtype)
    (actual,) = torch.autograd.grad((y * weight).sum(), x)
    (expected,) = torch.autograd.grad((x[:, kept] * weight).sum(), x)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(("dtype", "width"), TYPES)
def test_gradients_of_gradients_pass_a_gather(dtype, width):
    x = torch.ones(1, width, 2, 2).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    (first,) = torch.autograd.grad(gather_channels(x, torch.tensor([2])).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)  # of x^2: 2 where it was read
    assert second.sum((0, 2, 3)).tolist() == [0, 0, 8, *[0] * (width - 3)]
