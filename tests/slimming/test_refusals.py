from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird.errors import SlimError
from earlybird.slimming import channel_groups

IMAGES = torch.zeros(1, 3, 8, 8)


class Inner(nn.Module):
    """A named place for one operation."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(x)


def net(operation) -> nn.Module:
    module = operation if isinstance(operation, nn.Module) else Inner(operation)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), module)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: torch.roll(x, 1, dims=1), r"operation 'roll' in module '2': slimming has no rule"),
        (lambda x: x.permute(0, 2, 3, 1), r"operation 'permute' in module '2': slimming has no rule"),
        (lambda x: x[:, :2], r"operation 'getitem' in module '2': no rule for indexing a tensor"),
        (lambda x: x.chunk(2, 1)[0], r"operation 'chunk' in module '2'"),
        (lambda x: x.mul_(2).add_(x.sigmoid_()), r"operation 'mul_' in module '2': it overwrites a tensor"),
        (lambda x: x.mean(1), r"operation 'mean' in module '2': no rule yet for a mean or sum over the batch"),
        (lambda x: x.view(x.size(0), x.size(1) * 64), r"operation 'mul' in module '2': .* channel count"),
        (lambda x: torch.cat([x, x], axis=1), r"operation 'cat' in module '2': no rule for the arguments 'axis'"),
        (nn.GroupNorm(2, 4), r"operation 'GroupNorm' in module '2': slimming has no rule"),
        (nn.ConvTranspose2d(4, 4, 1), r"operation 'ConvTranspose2d' in module '2'"),
        (nn.Conv2d(4, 4, 1, groups=2), r"operation 'Conv2d' in module '2': no rule yet for a grouped convolution"),
        (nn.Linear(8, 2), r"operation 'Linear' in module '2': the channels must lie on the last dimension"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), r"ParametrizedConv2d"),
        (lambda x: x if x.sum() > 0 else -x, r"cannot trace module '2' \(Inner\)"),
        (lambda x: x @ torch.zeros(3, 3), r"in module '2' on the example input"),
    ],
)
def test_what_has_no_rule_is_refused_by_module_and_operation(operation, message):
    with pytest.raises(SlimError, match=message) as refusal:
        channel_groups(net(operation), IMAGES)
    assert "\n" not in str(refusal.value)


def test_a_broadcast_over_channels_is_refused():
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.one = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.wide(x) * self.one(x)

    with pytest.raises(SlimError, match="operation 'mul' in module 'the network': its channels do not line up"):
        channel_groups(Broadcast(), IMAGES)


def test_a_parameter_in_arithmetic_is_refused():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x):
            return self.conv(x) * self.scale

    with pytest.raises(SlimError, match="operation 'mul' in module 'the network': no rule for an operand"):
        channel_groups(Scaled(), IMAGES)


def test_an_in_place_add_into_a_tensor_read_later_is_refused():
    """`fx` alone records a plain add here: its graph would not be what the network computes."""

    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.a(x)
            z = y
            z += self.b(x)
            return self.c(y) + self.c(z)

    with pytest.raises(SlimError, match="'iadd' in module 'the network': it overwrites a tensor"):
        channel_groups(Overwrites(), IMAGES)


def test_tied_weights_are_refused():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(SlimError, match=r"parameters '0\.weight' and '1\.weight' are one tensor"):
        channel_groups(tied, torch.zeros(2, 4))
