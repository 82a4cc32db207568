"""Small networks, one structure each: the slim one must equal the masked one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.core import ChannelMask
from earlybird.slimming import certify, channel_groups, slim
from earlybird.slimming.selection import SelectBatchNorm2d

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b = nn.Conv2d(3, 5, 1)
        self.c, self.fc = nn.Conv2d(11, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.cat([F.relu(self.bn_a(self.a(x))), F.silu(self.b(x))], dim=1)
        return self.fc(F.gelu(self.c(x)).mean([2, 3]))


class SharedModules(nn.Module):
    """One conv and norm, used twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.shared, self.shared_bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        for _ in range(2):
            x = F.relu(self.shared_bn(self.shared(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.depthwise, self.bn2 = nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12)
        self.project = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.project(F.relu6(self.bn2(self.depthwise(F.relu6(self.bn1(self.expand(x)))))))


class PostActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.bn_b = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(6 * 16, 2)

    def forward(self, x):
        x = self.relu(self.bn_a(self.a(x)))
        out = self.bn_b(self.b(x))
        out += x
        out = F.max_pool2d(self.relu(out), 2)
        return self.fc(out.view(out.size(0), -1))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.down, self.up, self.out = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = F.relu(self.bn(self.a(x)))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.out(x * gate)


class AuxiliaryHead(nn.Module):
    """In train mode a second head reads the trunk: it must be cut along though eval mode never runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.head, self.aux = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = F.relu(self.bn(self.a(x)))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


class Stream1d(nn.Module):
    """A pre-activation stream of 1-d signals, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 6, 3, padding=1)
        self.bn1, self.conv = nn.BatchNorm1d(6), nn.Conv1d(6, 6, 3, padding=1)
        self.bn2, self.drop, self.fc = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, x):
        x = self.stem(x.flatten(2))
        x = x + self.conv(F.relu(self.bn1(x)))
        return self.fc(self.drop(F.relu(self.bn2(x)).mean(-1)))


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 6, 1), nn.BatchNorm3d(6), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                         nn.Linear(6, 5), nn.BatchNorm1d(5), nn.LeakyReLU(), nn.Linear(5, 2))  # fmt: skip


def multilayer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 6), nn.Hardswish(),
                         nn.Linear(6, 2))  # fmt: skip


@pytest.mark.parametrize(
    "build",
    [Concatenated, SharedModules, Depthwise, PostActivation, SqueezeExcite, AuxiliaryHead, Stream1d, multilayer],
)
@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_slim_equals_masked(build, ratio, randomised, random_mask):
    model = randomised(build())
    groups = channel_groups(model, IMAGES)
    mask = random_mask(groups, ratio)
    small = slim(model, mask, IMAGES, groups)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert certify(model, mask, IMAGES, small) <= 1e-5


def test_slim_equals_masked_on_volumes(randomised, random_mask):
    model, x = randomised(volumes()), torch.randn(3, 3, 4, 4, 4)
    mask = random_mask(channel_groups(model, x))
    assert certify(model, mask, x, slim(model, mask, x)) <= 1e-5


def test_units_of_small_structures():
    units = {build: channel_groups(build(), IMAGES).num_units for build in (Concatenated, SharedModules, Depthwise)}
    # 6 + 5 + 4; stem and shared conv are one class of 6; each of 6 channels with its two depthwise copies.
    assert units == {Concatenated: 15, SharedModules: 6, Depthwise: 6}


def test_a_gate_is_tied_to_what_it_scales():
    groups = channel_groups(SqueezeExcite(), IMAGES)
    assert groups.num_units == 6 + 3
    assert torch.equal(groups.producer_unit_of["up"], groups.unit_of["bn"])


@pytest.mark.parametrize("view", [lambda x: x.view(-1, 6), lambda x: x.reshape(-1, 6)])
def test_a_reshape_to_a_written_width_pins_the_channels(view):
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.fc = nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(view(F.relu(self.bn(self.a(x)))))

    groups = channel_groups(Fixed(), IMAGES)
    assert groups.num_units == 0
    assert groups.protected["bn"][0].endswith("fixes its width by a number")


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.reshape((x.shape[0], -1)),
        lambda x: x.view(-1, x.size(1)),
        lambda x: torch.flatten(x, 1),
        lambda x: x.flatten(start_dim=1),
        lambda x: x.mean((-2, -1)),
    ],
)
def test_a_reshape_that_follows_the_width_is_cut_along(view, random_mask):
    class Following(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.fc = nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(view(F.relu(self.bn(self.a(x)))))

    model = Following()
    mask = random_mask(channel_groups(model, IMAGES))
    small = slim(model, mask, IMAGES)
    assert small.fc.in_features == 3
    assert certify(model, mask, IMAGES, small) <= 1e-5


def test_a_slim_network_can_be_cut_again(randomised, random_mask):
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bn1, self.conv = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
            self.bn2, self.out = nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.stem(x)
            x = x + self.conv(F.relu(self.bn1(x)))
            return self.out(F.relu(self.bn2(x)))

    model = randomised(Stream())
    once = slim(model, ChannelMask({n: torch.arange(8) % 4 > 0 for n in ("bn1", "bn2")}), IMAGES)
    assert isinstance(once.bn1, SelectBatchNorm2d)
    mask = ChannelMask({n: torch.tensor([True, False, True, True, False, True]) for n in ("bn1", "bn2")})
    twice = slim(once, mask, IMAGES)
    assert twice.bn1.index.tolist() == [1, 3, 5, 7]  # of 1 2 3 5 6 7
    assert certify(once, mask, IMAGES, twice) <= 1e-5


def test_synchronised_norms_are_cut_too(randomised, random_mask):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(randomised(PostActivation()))
    mask = random_mask(channel_groups(model, IMAGES))
    assert certify(model, mask, IMAGES, slim(model, mask, IMAGES)) <= 1e-5


def test_several_inputs_and_outputs_are_protected_and_cut_around(randomised, random_mask):
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.b, self.c = (
                nn.Conv2d(3, 6, 1),
                nn.BatchNorm2d(6),
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(10, 2, 1),
            )

        def forward(self, x, y):
            left, right = F.relu(self.bn(self.a(x))), self.b(y)
            return {"sum": self.c(torch.cat([left, right], 1)), "right": right}

    model, inputs = randomised(TwoInputs()), (IMAGES, IMAGES.flip(0))
    groups = channel_groups(model, inputs)
    assert list(groups.unit_of) == ["bn"]
    assert groups.num_units == 6
    mask = random_mask(groups)
    assert certify(model, mask, inputs, slim(model, mask, inputs, groups)) <= 1e-5
