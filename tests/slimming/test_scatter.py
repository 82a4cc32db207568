"""Policy `select` on a post-activation network: norms write to the stream at full width."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.core import ChannelMask
from earlybird.slimming import channel_groups, slim
from earlybird.slimming.selection import (
    ScatterBatchNorm1d,
    ScatterBatchNorm2d,
    ScatterBatchNorm3d,
    ScatterSyncBatchNorm,
    let_scatter_,
    scatter_channels,
)

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.bn_a = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.b, self.bn_b = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        return self.out(F.relu(self.bn_b(self.b(F.relu(self.bn_a(self.a(x))))) + x))


def test_each_norm_of_a_post_activation_block_is_free_under_select():
    assert channel_groups(Block(), IMAGES, "inner").num_units == 5
    assert channel_groups(Block(), IMAGES, "tie").num_units == 5 + 6
    assert channel_groups(Block(), IMAGES, "select").num_units == 5 + 6 + 6


def test_a_norm_that_feeds_an_add_writes_its_channels_to_their_places(randomised):
    model = randomised(Block())
    groups = channel_groups(model, IMAGES, "select")
    mask = ChannelMask(
        {"bn": torch.arange(6) != 2, "bn_a": torch.arange(5) > 0, "bn_b": torch.tensor([0, 1, 0, 0, 1, 1]).bool()}
    )
    small = slim(model, mask, IMAGES, groups)
    assert isinstance(small.bn_b, ScatterBatchNorm2d)
    assert (small.bn_b.num_features, small.bn_b.width, small.bn_b.index.tolist()) == (3, 6, [1, 4, 5])
    assert (small.b.in_channels, small.b.out_channels, small.stem.out_channels) == (4, 3, 5)
    assert small.a.in_channels == 6  # It reads the stream, which keeps its width.


def test_a_let_scatter__can_be_cut_again(randomised):
    model = randomised(Block())
    keep = {"bn": torch.ones(6).bool(), "bn_a": torch.ones(5).bool(), "bn_b": torch.arange(6) > 1}
    once = slim(model, ChannelMask(keep), IMAGES, channel_groups(model, IMAGES, "select"))
    again = channel_groups(once, IMAGES, "select")
    keep["bn_b"] = torch.tensor([1, 0, 0, 1]).bool()
    twice = slim(once, ChannelMask(keep), IMAGES, again)
    assert (twice.bn_b.index.tolist(), twice.bn_b.width) == ([2, 5], 6)


def test_an_operation_that_is_not_followed_reads_a_full_width_under_select(randomised, random_mask):
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.GroupNorm(2, 6)))
    assert channel_groups(model, IMAGES, "tie").num_units == 0
    groups = channel_groups(model, IMAGES, "select")
    assert groups.num_units == 6
    assert slim(model, random_mask(groups), IMAGES, groups)[0].out_channels == 3


@pytest.mark.parametrize(
    ("norm", "kind", "shape"),
    [
        (nn.BatchNorm1d(2, eps=1e-3), ScatterBatchNorm1d, (3, 2)),
        (nn.BatchNorm1d(2), ScatterBatchNorm1d, (3, 2, 5)),
        (nn.BatchNorm2d(2, momentum=None), ScatterBatchNorm2d, (3, 2, 4, 5)),
        (nn.BatchNorm3d(2).eval(), ScatterBatchNorm3d, (3, 2, 2, 4, 5)),
    ],
)
def test_a_scattering_norm_is_its_norm_with_zeros_between(norm, kind, shape):
    x, index = torch.randn(shape), torch.tensor([0, 3])
    scatter = let_scatter_(copy.deepcopy(norm), index, 4)
    assert type(scatter) is kind
    assert scatter.training == norm.training
    y = scatter(x)
    assert torch.equal(y[:, [0, 3]], norm(x))
    assert not y[:, [1, 2]].any()
    assert y.shape[1] == 4


def test_a_synchronised_norm_keeps_its_process_group():
    norm = nn.SyncBatchNorm(2)
    norm.process_group = "group"
    scatter = let_scatter_(norm, torch.tensor([1, 0]), 3)
    assert isinstance(scatter, ScatterSyncBatchNorm)
    assert scatter.process_group == "group"


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 5), (torch.bfloat16, 5), (torch.bfloat16, 65)])
def test_scattering_keeps_the_memory_format(dtype, width):
    x = torch.randn(2, 3, 4, 4).to(dtype).to(memory_format=torch.channels_last)
    y = scatter_channels(x, torch.tensor([4, 0, 2]), width)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y[:, [4, 0, 2]], x)
    assert torch.equal(y, scatter_channels(x.contiguous(), torch.tensor([4, 0, 2]), width))


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 5), (torch.bfloat16, 5), (torch.bfloat16, 65)])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4)])
def test_gradients_flow_through_a_scatter(shape, dtype, width):
    x = torch.randn(shape).to(dtype)
    x = (x.to(memory_format=torch.channels_last) if x.dim() == 4 else x).requires_grad_()
    scatter_channels(x, torch.tensor([4, 0, 2]), width).square().sum().backward()
    assert torch.equal(x.grad, 2 * x)
