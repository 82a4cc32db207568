"""Operations that move channels about: the cut follows them, or keeps what it cannot follow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.slimming import channel_groups, slim

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Moving(nn.Module):
    def __init__(self, operation, out: int = 8) -> None:
        super().__init__()
        self.operation = operation
        self.a, self.bn, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(out, 2, 1)

    def forward(self, x):
        return self.out(self.operation(F.relu(self.bn(self.a(x)))))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.permute(0, 2, 3, 1).permute((0, 3, 1, 2)),
        lambda x: x.transpose(1, 2).transpose(-3, -2),
        lambda x: x.unsqueeze(-1).squeeze(-1),
        lambda x: x.flatten(2).reshape(x.shape[0], -1, 8, 8),
        lambda x: x.view(x.size(0), x.size(1), 64).view(x.size(0), x.size(1), 8, 8),
        lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
        lambda x: x * x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8),
        lambda x: x * x.mean((2, 3)).view(x.size(0), x.size(1), 1, 1),
        lambda x: x.flatten(2).reshape_as(x) * x.view_as(x),
        lambda x: x[:, :, ::2, 1:],
        lambda x: F.interpolate(x, size=x.shape[-2:], mode="bilinear"),
        lambda x: F.pad(x, (1, 1, 1, 1)),
        lambda x: x.clamp(-1, 1).pow(2) * 3 - 0,
        lambda x: -x.abs().to(x.dtype),
        lambda x: F.dropout(x, 0.0) / 2,
        lambda x: nn.MaxPool2d(2)(nn.ReLU()(x)),
    ],
)
def test_channels_are_followed(operation, randomised, random_mask):
    model = randomised(Moving(operation))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 8
    assert slim(model, random_mask(groups), IMAGES, groups).out.in_channels == 4


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.flatten(2).reshape(-1, 8, 8, 8),
        lambda x: x.mean((2, 3), keepdim=True).expand(2, 8, 8, 8),
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: F.pad(x, (1, 1, 1, 1), value=1.0),
        lambda x: x.clamp(0.5, 1),
        lambda x: F.hardtanh(x, min_val=0.5, max_val=1.0),
        lambda x: torch.clamp(x, max=-0.5),
        lambda x: x**0,
        lambda x: x.squeeze(),
        lambda x: x.reshape_as(torch.zeros(2, 8, 8, 8, device=x.device)),
        lambda x: x.transpose(1, 3).reshape_as(x),
    ],
)
def test_channels_that_would_not_be_zero_or_not_shrink_stay(operation, randomised):
    assert channel_groups(randomised(Moving(operation)), IMAGES).num_units == 0


def test_halves_of_a_chunk_are_cut_alike(randomised, random_mask):
    model = randomised(Moving(lambda x: x.chunk(2, dim=1)[0] * x.chunk(2, dim=1)[1], out=4))
    groups = channel_groups(model, IMAGES)
    assert groups.unit_of["bn"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert slim(model, random_mask(groups), IMAGES, groups).out.in_channels == 2


def test_a_chunk_around_the_channels_changes_no_unit(randomised, random_mask):
    model = randomised(Moving(lambda x: torch.cat([x.chunk(2, dim=2)[1], x.chunk(2, dim=2)[0]], dim=2)))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 8
    slim(model, random_mask(groups), IMAGES, groups)


@pytest.mark.parametrize("shuffle", [nn.ChannelShuffle(2), lambda x: F.channel_shuffle(x, 2)])
def test_shuffled_groups_are_cut_alike(shuffle, randomised, random_mask):
    model = randomised(Moving(shuffle))
    groups = channel_groups(model, IMAGES)
    assert groups.unit_of["bn"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    slim(model, random_mask(groups), IMAGES, groups)


def test_an_unfollowed_part_of_a_concatenation_leaves_the_rest_free(randomised, random_mask):
    model = randomised(Moving(lambda x: torch.cat([x, x.flip(1).flip(1)], 1), out=16))
    assert channel_groups(model, IMAGES).num_units == 0

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.out = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(11, 2, 1)

        def forward(self, x):
            return self.out(torch.cat([x.flip(1), F.relu(self.bn(self.a(x)))], 1))

    beside = randomised(Beside())
    groups = channel_groups(beside, IMAGES)
    assert groups.num_units == 8
    assert slim(beside, random_mask(groups), IMAGES, groups).out.in_channels == 7


def test_a_part_of_a_sequential_is_followed(randomised, random_mask):
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 4, 1),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 2, 1),
            )

        def forward(self, x):
            return self.layers[4:](self.layers[:4](x).relu())

    model = randomised(Parts())
    groups = channel_groups(model, IMAGES)
    assert groups.unit_of["layers.1"].tolist() == list(range(8))
    assert groups.unit_of["layers.4"].tolist() == [8, 9, 10, 11]
    slim(model, random_mask(groups), IMAGES, groups)
