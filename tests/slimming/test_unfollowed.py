"""What slimming cannot follow stays at full width, the operation named; what it cannot enter is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from earlybird.errors import SlimError
from earlybird.slimming import channel_groups, slim

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Inner(nn.Module):
    """A named place for one operation."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(x)


def net(operation) -> nn.Module:
    """A norm that may always go, then one ("4") that the operation ("5") reads."""
    last = operation if isinstance(operation, nn.Module) else Inner(operation)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), last
    )


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: torch.roll(x, 1, dims=1), "'5': roll is not followed: slimming has no rule for it"),
        (lambda x: x.flip(1), "'5': flip is not followed: slimming has no rule for it"),
        (lambda x: x[:, [2, 0, 1]], "'5': getitem is not followed: no rule for indexing a tensor other than by slices"),
        (lambda x: x[:, :2], "'5': getitem is not followed: no rule for taking a part of the channels by number"),
        (lambda x: x.chunk(3, 1)[0], "'5': chunk is not followed: no rule for unequal parts of the channels"),
        (lambda x: x.split(2, 1)[0], "'5': split is not followed: it splits the channels by number"),
        (lambda x: x.mean(1), "'5': mean is not followed: it runs over the channels and needs the full width"),
        (lambda x: x.mul_(2).add_(x.sigmoid_()), "'5': mul_ is not followed: it overwrites a tensor that a later"),
        (lambda x: x.view(x.size(0), x.size(1) * 64), "'5': mul is not followed: it calculates with a channel count"),
        (lambda x: x.view(2, 2, 2, 8, 8), "'5': view is not followed: no rule for reshaping [2, 4, 8, 8] to"),
        (lambda x: torch.cat([x, x], axis=1), "'5': cat is not followed: no rule for the arguments 'axis' and 'out'"),
        (lambda x: x.softmax(1), "'5': softmax is not followed: it runs along the channels and needs the full width"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), "'5': pad is not followed: no rule for padding the channels"),
        (lambda x: x / x, "'5': truediv is not followed: no rule for dividing by a tensor"),
        (lambda x: x**x, "'5': pow is not followed: no rule for an exponent that is no number"),
        (lambda x: x + torch.zeros(4, 8, 8).to(x.device), "'5': add is not followed: no rule for an operand whose"),
        (nn.GroupNorm(2, 4), "'5': GroupNorm is not followed: slimming has no rule for it"),
        (nn.InstanceNorm2d(4, affine=True), "'5': InstanceNorm2d is not followed: its shift makes a zero channel"),
        (nn.ConvTranspose2d(4, 4, 1, groups=2), "no rule for a grouped transposed convolution"),
        (nn.Linear(8, 2), "'5': Linear is not followed: the channels must lie on the last dimension"),
        (
            nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
            "'5': ParametrizedConv2d is not followed: slimming",
        ),
    ],
)
def test_what_has_no_rule_keeps_its_input_whole_by_name(operation, reason, randomised, random_mask):
    model = randomised(net(operation))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 6
    assert all(reason in why for why in groups.protected["4"].values())
    assert len(groups.protected["4"]) == 4
    small = slim(model, random_mask(groups), IMAGES, groups)  # Checked against the masked network as it is cut.
    assert small[1].num_features == 3


def test_a_module_that_branches_on_data_is_kept_as_it_is(randomised, random_mask):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            for _ in range(len(x.shape) - 2):
                x = self.bn(self.conv(x))
            return x if x.sum() > 0 else -x

    model = randomised(net(Branching()))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 6
    assert groups.protected["4"][0].startswith("'5': Branching is not followed: ")
    assert groups.protected["5.bn"][0].startswith("'5': Branching is not followed: tracing cannot enter it (")
    slim(model, random_mask(groups), IMAGES, groups)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("change", "made", "hook"),
    [
        (nn.utils.weight_norm, "weight", "WeightNorm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight", "L1Unstructured"),
        (lambda layer: prune.ln_structured(layer, "weight", 0.5, n=1, dim=0), "weight", "LnStructured"),
        (lambda layer: prune.random_unstructured(layer, "bias", 0.5), "bias", "RandomUnstructured"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_that_cannot_be_copied_is_refused_with_layer_and_hook(change: Any, made: str, hook: str):
    """The older `weight_norm`, and torch's pruning masks, hold their tensor as a result of autograd."""
    layer = nn.Conv2d(4, 4, 1)
    change(layer)
    network = net(layer)
    path = next(path for path, module in network.named_modules() if module is layer)
    with pytest.raises(
        SlimError, match=rf"cannot be copied: '{made}' of '{path}' is calculated by {hook}; torch\.nn\.utils"
    ):
        channel_groups(network, IMAGES)


def test_a_network_whose_own_forward_branches_on_data_is_refused():
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            x = self.conv(x)
            return x if x.sum() > 0 else -x

    with pytest.raises(SlimError, match=r"cannot trace module 'the network' \(Root\): .*must not branch") as refusal:
        channel_groups(Root(), IMAGES)
    assert "\n" not in str(refusal.value)


def test_a_module_that_looks_at_its_numbers_is_kept_as_it_is(randomised, random_mask):
    model = randomised(net(BranchingOnValues()))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 6
    assert "'5': BranchingOnValues is not followed: tracing cannot enter it" in groups.protected["4"][0]
    slim(model, random_mask(groups), IMAGES, groups)


class BranchingOnValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_an_example_of_a_wrong_shape_is_refused_by_module():
    with pytest.raises(SlimError, match=r"in module '5' on the example input: .*give an example_input"):
        channel_groups(net(lambda x: x @ torch.zeros(3, 3)), IMAGES)


def test_a_single_channel_that_is_spread_over_others_stays(randomised, random_mask):
    class SpatialGate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.one, self.bn_one = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1)
            self.out = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.out(F.relu(self.bn(self.wide(x))) * torch.sigmoid(self.bn_one(self.one(x))))

    model = randomised(SpatialGate())
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 4
    assert groups.protected["bn_one"] == {0: "mul spreads it over all channels"}
    slim(model, random_mask(groups), IMAGES, groups)


def test_a_parameter_of_the_networks_own_keeps_what_it_meets_whole(randomised, random_mask):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.scale = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Parameter(torch.ones(4, 1, 1))
            self.gain = nn.Parameter(torch.tensor(2.0))
            self.conv2, self.bn2, self.out = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            x = F.relu(self.bn(self.conv(x))) * self.scale.abs()
            return self.out(F.relu(self.bn2(self.conv2(x))) * self.gain)

    model = randomised(Scaled())
    groups = channel_groups(model, IMAGES)
    assert "no rule for an operand whose channels are not followed" in groups.protected["bn"][0]
    assert groups.num_units == 5  # A single number says nothing of channels.
    slim(model, random_mask(groups), IMAGES, groups)


def test_a_scale_that_something_else_reads_keeps_its_norm_whole(randomised, random_mask):
    class SharedScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn_a, self.b, self.bn_b = (
                nn.Conv2d(3, 4, 1),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 1),
                nn.BatchNorm2d(4),
            )
            self.out = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = F.relu(self.bn_a(self.a(x)))
            return self.out(F.relu(self.bn_b(self.b(x)) * self.bn_a.weight.sum()))

    model = randomised(SharedScale())
    groups = channel_groups(model, IMAGES)
    assert groups.protected["bn_a"][0] == "sum: its tensors are read by name"
    assert groups.num_units == 4
    slim(model, random_mask(groups), IMAGES, groups)


def test_an_in_place_add_into_a_tensor_read_later_pins_it(randomised, random_mask):
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

    assert channel_groups(Overwrites(), IMAGES).num_units == 0


def test_layers_that_share_one_tensor_stay_whole():
    tied = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    tied[2].weight = tied[0].weight
    groups = channel_groups(tied, torch.randn(2, 4))
    assert {name: units.tolist() for name, units in groups.unit_of.items()} == {"4": [0, 1, 2, 3, 4]}


def test_a_network_that_nothing_can_be_cut_from_has_no_units():
    groups = channel_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), IMAGES)
    assert groups.num_units == 0
    assert groups.protected["1"][0] == "it is a network output"


@pytest.mark.filterwarnings("ignore")
def test_wrappers_are_refused_by_name():
    model = net(nn.Identity())
    with pytest.raises(SlimError, match="the network is TorchScript, whose code cannot be traced; give the module it"):
        channel_groups(torch.jit.trace(model, IMAGES), IMAGES)
    model[5] = torch.jit.trace(nn.ReLU(), IMAGES)
    with pytest.raises(SlimError, match="module '5' is TorchScript"):
        channel_groups(model, IMAGES)
    with pytest.raises(SlimError, match=r"wrapped in DataParallel; give what it wraps \(model.module\)"):
        channel_groups(nn.DataParallel(net(nn.Identity())), IMAGES)
    with pytest.raises(SlimError, match="forward was replaced after it was made; give the network without the wrapper"):
        channel_groups(torch.compile(net(nn.Identity())), IMAGES)
