"""Layers beyond the plain conv: what is tied in them, and that the cut is exact (`slim` checks each by itself)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.core import ChannelMask
from earlybird.slimming import channel_groups, slim

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def chain(*middle: nn.Module, width: int = 8, out: int | None = None) -> nn.Sequential:
    head = nn.Conv2d(width if out is None else out, 2, 1)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), *middle, head)


def cut_half(model: nn.Module, randomised, random_mask, x=IMAGES, policy="auto") -> nn.Module:
    groups = channel_groups(randomised(model), x, policy)
    return slim(model, random_mask(groups, 0.5), x, groups)


def test_a_grouped_conv_loses_the_same_places_in_every_group(randomised):
    model = randomised(chain(nn.Conv2d(8, 12, 3, groups=2), nn.BatchNorm2d(12), nn.ReLU(), out=12))
    groups = channel_groups(model, IMAGES)
    assert groups.unit_of["1"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert groups.unit_of["4"].tolist() == [4, 5, 6, 7, 8, 9] * 2
    mask = ChannelMask({"1": torch.tensor([1, 0, 1, 1] * 2).bool(), "4": torch.tensor([0, 1, 1, 0, 1, 1] * 2).bool()})
    small = slim(model, mask, IMAGES, groups)
    conv = small[3]
    assert (conv.in_channels, conv.out_channels, conv.groups, tuple(conv.weight.shape)) == (6, 8, 2, (8, 3, 3, 3))


def test_a_transposed_conv_is_narrowed_on_the_other_dimensions(randomised):
    model = randomised(chain(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU(), out=6))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 8 + 6
    mask = ChannelMask({"1": torch.arange(8) > 4, "4": torch.arange(6) > 1})
    small = slim(model, mask, IMAGES, groups)
    assert tuple(small[3].weight.shape) == (3, 4, 2, 2)
    assert tuple(small[3].bias.shape) == (4,)


def test_a_transposed_conv_without_a_norm_is_a_key_of_its_output_channels(randomised):
    model = randomised(chain(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), out=6))
    groups = channel_groups(model, IMAGES)
    assert groups.unit_of["3"].tolist() == list(range(8, 14))
    mask = ChannelMask({"1": torch.ones(8).bool(), "3": torch.arange(6) > 1})
    assert slim(model, mask, IMAGES, groups)[3].out_channels == 4


@pytest.mark.parametrize(
    "layer",
    [nn.PReLU(8), nn.PReLU(), nn.InstanceNorm2d(8), nn.Hardtanh(), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1)],
)
def test_layers_that_pass_channels_on_are_narrowed_with_them(layer, randomised, random_mask):
    small = cut_half(chain(layer), randomised, random_mask)
    assert small[0].out_channels == 4
    assert small[4].in_channels == 4
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        assert (small[3].num_parameters, small[3].weight.shape[0]) == (4, 4)


def test_a_range_without_zero_keeps_the_channels():
    assert channel_groups(chain(nn.Hardtanh(0.5, 1.0)), IMAGES).num_units == 0


class NormAct(nn.BatchNorm2d):
    """A norm with its activation inside, as timm has them, and a tensor of its own that has no place per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("kernel", torch.ones(3, 3))
        self.act = nn.ReLU()

    def forward(self, x):
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        training = self.training or self.running_mean is None
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.1, self.eps)
        return self.act(x)


class PaddingConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def test_subclasses_are_followed_through_the_functions_they_call(randomised, random_mask):
    model = nn.Sequential(
        PaddingConv(3, 8, 3), NormAct(8), PaddingConv(8, 8, 3, groups=8), NormAct(8), PaddingConv(8, 2, 3)
    )
    groups = channel_groups(randomised(model), IMAGES)
    assert groups.num_units == 8
    small = slim(model, random_mask(groups), IMAGES, groups)
    assert type(small[1]) is NormAct
    assert (small[1].num_features, small[2].groups) == (4, 4)
    assert small[1].kernel.shape == (3, 3)


def test_a_conv_that_changes_its_weight_first_is_kept_whole(randomised):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    groups = channel_groups(randomised(chain(Standardised(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), out=6)), IMAGES)
    assert groups.num_units == 0
    assert "'3': conv2d is not followed" in groups.protected["1"][0]


def test_frozen_layers_stay_frozen(randomised, random_mask):
    model = chain(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
    model[3].requires_grad_(False)
    small = cut_half(model, randomised, random_mask)
    assert [p.requires_grad for p in small[3].parameters()] == [False, False]
    assert all(p.requires_grad for p in small[0].parameters())


def test_a_multi_head_attention_is_read_at_full_width(randomised, random_mask):
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.proj = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)
            self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)

        def forward(self, x):
            x = self.proj(F.relu(self.bn(self.conv(x)))).flatten(2).transpose(1, 2)
            y = self.norm(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return self.down(F.gelu(self.up(x)))

    model = randomised(Attending())
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 6 + 10
    small = slim(model, random_mask(groups), IMAGES, groups)
    assert small.up.in_features == 8
    assert small.conv.out_channels + small.up.out_features == 8
