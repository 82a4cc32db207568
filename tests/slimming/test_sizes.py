"""A forward that asks for sizes while it is traced: branches, loops and numbers go the way of the example."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.errors import SlimError
from earlybird.slimming import channel_groups, slim

IMAGES = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1))


def padded_to_even(x):
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return F.pad(x, (0, 0, 0, max(math.ceil(height / 4) * 4 - 10, 0)))


def summed_over_rows(x):
    total = x[:, :, :1]
    for row in range(1, x.shape[2]):
        total = total + x[:, :, row : row + 1]
    return total


def by_kind(x):
    if isinstance(x.shape[2], torch.Tensor) or not isinstance(x, torch.Tensor) or len(x.shape) != 4:
        raise TypeError
    if not isinstance(x.shape, torch.Size) or x.shape[2] not in {9: "nine"} or divmod(x.shape[3], 3) != (2, 2):
        raise ValueError
    return x * float(x.shape[2]) ** -0.5


def over_the_spatial_sizes(x):
    for size in x.shape[2:]:
        x = x / size
    return x if [int(n) for n in x.shape[2:]] == [9, 8] else x.flip(1)


class Asking(nn.Module):
    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation
        self.a, self.bn, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("three channels, please")
        return self.out(self.operation(F.relu(self.bn(self.a(x)))))


@pytest.mark.parametrize("operation", [padded_to_even, summed_over_rows, by_kind, over_the_spatial_sizes])
def test_sizes_around_the_channels_are_numbers(operation, randomised, random_mask):
    model = randomised(Asking(operation))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 8
    assert slim(model, random_mask(groups), IMAGES, groups).out.in_channels == 4


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * 2 if x.shape[1] > 4 else x,
        lambda x: x * x.size(1) ** -0.5,
        lambda x: x * float(x.size(1)),
        lambda x: x * len(range(x.shape[1])),
        lambda x: x * int(x.shape[1]),
        lambda x: x * min(x.shape[1], 6),
        lambda x: x * math.prod(x.shape[1:]),
        lambda x: x * sum(n for n in x.shape),
        lambda x: sum(x[:, i : i + 1] for i in range(x.shape[1])).expand(-1, 8, -1, -1),
        lambda x: x[:, :8] if x.shape[1] in (8, 16) else x,
        lambda x: x * torch.ones(int(x.shape[1]), 1, 1).sum(),
        lambda x: x * 2 if x.shape[1] in {8, 16} else x,
        lambda x: x * {8: 2.0}.get(x.shape[1], 1.0),
        lambda x: x * 2 if isinstance(x.shape, tuple) and 8 in set(x.shape) else x,
        lambda x: x * sum(divmod(x.shape[1], 3)),
    ],
)
def test_a_number_of_channels_that_is_asked_for_stays_what_it_is(operation, randomised, random_mask):
    model = randomised(Asking(operation))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 0
    assert set(groups.protected["bn"]) == set(range(8))


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.requires_grad,
        lambda x: x.is_contiguous(memory_format=torch.channels_last),
        lambda x: x.device.type == "cpu",
        lambda x: x.device == torch.device("cpu"),
        lambda x: x.stride()[1] == 1,
    ],
)
def test_what_is_no_shape_is_not_answered(question):
    """It may be another thing on the device, in the format or in the mode that the network runs in."""
    with pytest.raises(SlimError, match="cannot trace module 'the network'"):
        channel_groups(Asking(lambda x: x.flip(1) if question(x) else x), IMAGES)


def test_the_batch_is_not_known_where_the_example_has_one_image():
    model = Asking(lambda x: x.flip(1) if x.shape[0] == 1 else x)
    assert channel_groups(model, IMAGES).num_units == 8
    with pytest.raises(SlimError, match="cannot trace module 'the network'"):
        channel_groups(model, IMAGES[:1])
    square = Asking(lambda x: x if x.shape[2:] == (9, 8) and x.size(3) == 8 and x.dim() == 4 else x.flip(1))
    assert channel_groups(square, IMAGES[:1]).num_units == 8


TABLE = {}


def scaled_by_rows(x):
    height = int(x.shape[2])
    if height not in TABLE:
        TABLE[height] = x.new_ones(1, 1, height, 1)
    return x * TABLE[height]


def test_tracing_leaves_nothing_in_a_table_of_the_callers(randomised, random_mask):
    TABLE.clear()
    model = randomised(Asking(scaled_by_rows))
    groups = channel_groups(model, IMAGES)
    assert not TABLE
    slim(model, random_mask(groups), IMAGES, groups)
    assert isinstance(TABLE[9], torch.Tensor)


class Remembering(nn.Module):
    """Keeps a table of its own, and what flowed last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
        self.seen, self.calls, self.features = None, 0, None

    def forward(self, x):
        x = F.relu(self.bn(self.a(x)))
        if self.seen != (x.shape[2], x.shape[3]):
            self.seen, self.grid = (x.shape[2], x.shape[3]), x.new_ones(1, 1, x.shape[2], 1)
        self.features, self.calls = x, self.calls + 1
        return self.out(x * self.grid)


def test_what_a_forward_remembers_is_forgotten_after_tracing(randomised, random_mask):
    model = randomised(Remembering())
    groups = channel_groups(model, IMAGES)
    assert (groups.num_units, model.seen, model.calls, model.features) == (8, None, 0, None)
    assert slim(model, random_mask(groups), IMAGES, groups).out.in_channels == 4


def test_a_part_as_long_as_the_channels_is_all_of_them(randomised, random_mask):
    model = randomised(Asking(lambda x: torch.cat([x, x], 1)[:, :16, :, :-1][:, 0:].chunk(2, 1)[0]))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 8
    assert slim(model, random_mask(groups), IMAGES, groups).out.in_channels == 4


class SamePadded(nn.Conv2d):
    """Pads by itself, from its own weight's size, as TensorFlow does."""

    def forward(self, x):
        kernel = self.weight.shape[-2:]
        assert self.weight.size()[2] == kernel[0]
        rows, columns = (max((math.ceil(n / 2) - 1) * 2 + k - n, 0) for n, k in zip(x.size()[-2:], kernel, strict=True))
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.conv2d(x, self.weight, self.bias, 2, 0, self.dilation, self.groups)


def test_a_convolution_that_pads_by_itself_is_followed(randomised, random_mask):
    model = nn.Sequential(SamePadded(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), SamePadded(8, 2, 3))
    groups = channel_groups(randomised(model), IMAGES)
    assert groups.num_units == 8
    small = slim(model, random_mask(groups), IMAGES, groups)
    assert (small[0].weight.shape[0], small[3].weight.shape[1]) == (4, 4)


def test_a_width_read_from_the_own_weight_keeps_the_layer_whole(randomised):
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight, self.bias) * self.weight.shape[1]

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Scaled(8, 2, 1))
    assert channel_groups(randomised(model), IMAGES).num_units == 0


def test_numbers_in_tensors_are_still_not_known():
    with pytest.raises(SlimError, match="must not branch on tensor values"):
        channel_groups(Asking(lambda x: x if x.sum() > 0 else -x), IMAGES)
    with pytest.raises(SlimError, match="cannot trace module 'the network'"):
        channel_groups(Asking(lambda x: x * int(x.sum())), IMAGES)
    with pytest.raises(SlimError, match="a tensor cannot be made of another by its class"):
        channel_groups(Asking(lambda x: type(x)(x)), IMAGES)
