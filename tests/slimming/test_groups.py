from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from earlybird.errors import SlimError
from earlybird.models import build_model
from earlybird.slimming import channel_groups

IMAGES = torch.zeros(1, 3, 32, 32)


class PostActivation(nn.Module):
    """Two convs joined by an add behind their norms, read by a third: the class has two keys."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.b, self.bn_b = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(torch.relu(self.bn_a(self.a(x)) + self.bn_b(self.b(x))))


@pytest.mark.parametrize(("policy", "units"), [("inner", 2464), ("tie", 2720), ("select", 7408), ("auto", 7408)])
def test_units_of_preresnet101(policy, units):
    assert channel_groups(build_model("preresnet101", num_classes=10), IMAGES, policy).num_units == units


@pytest.mark.parametrize("policy", ["auto", "inner", "tie", "select"])
def test_every_channel_of_vgg16_is_a_unit(policy):
    groups = channel_groups(build_model("vgg16", num_classes=10), IMAGES, policy)
    assert groups.num_units == 4224
    assert not groups.protected
    assert len(groups.unit_of) == 13  # The norms; the last linear is no key, being the output.
    assert bool((groups.producer_unit_of["classifier"] == -1).all())


@pytest.mark.slow
def test_preresnet101_is_traced_in_under_five_seconds():
    model = build_model("preresnet101", num_classes=10)
    start = time.perf_counter()
    channel_groups(model, IMAGES)
    assert time.perf_counter() - start < 5


def test_the_layers_that_sum_over_a_unit_are_known():
    groups = channel_groups(build_model("vgg11", num_classes=10, width=0.125), IMAGES)
    # The stem reads the image; each later conv, and the linear, reads the channels of the norm before it.
    assert bool((groups.reader_unit_of["features.0"] == -1).all())
    assert torch.equal(groups.reader_unit_of["features.4"], groups.unit_of["features.1"])
    assert torch.equal(groups.reader_unit_of["classifier"], groups.unit_of["features.26"])
    tied = channel_groups(PostActivation(), IMAGES)
    assert torch.equal(tied.reader_unit_of["c"], tied.unit_of["bn_a"])


def test_a_depthwise_conv_passes_units_on_and_reads_none():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    groups = channel_groups(net, torch.zeros(1, 3, 8, 8))
    assert set(groups.reader_unit_of) == {"0", "4"}
    assert groups.reader_unit_of["4"].tolist() == groups.unit_of["3"].tolist() == groups.unit_of["1"].tolist()


def test_auto_ties_where_no_norm_reads_an_add():
    groups = channel_groups(PostActivation(), IMAGES)
    assert groups.policy == "tie"
    assert groups.num_units == 6
    assert torch.equal(groups.unit_of["bn_a"], groups.unit_of["bn_b"])
    assert torch.equal(groups.producer_unit_of["a"], groups.unit_of["bn_a"])


def test_an_add_protects_what_crosses_it_under_inner():
    groups = channel_groups(PostActivation(), IMAGES, "inner")
    assert groups.num_units == 0
    assert groups.protected["bn_a"][5] == "crosses an add (add)"


def test_the_stem_that_a_raw_downsample_reads_is_protected_with_its_reader_named():
    groups = channel_groups(build_model("preresnet20", num_classes=10), IMAGES, "tie")
    assert groups.protected["layer1.0.bn1"][0] == (
        "'layer1.0.downsample' (Conv2d) reads it where it is not zero when masked"
    )


def test_keys_come_in_the_order_of_the_network():
    model = build_model("preresnet29", num_classes=10)
    names = [name for name, _ in model.named_modules()]
    keys = list(channel_groups(model, IMAGES).unit_of)
    assert keys == sorted(keys, key=names.index)


def test_a_layer_without_norm_is_its_own_key():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 900, 7), nn.ReLU(), nn.Linear(7, 2))
    groups = channel_groups(net, IMAGES)
    assert {name: units.tolist() for name, units in groups.unit_of.items()} == {
        "0": [0, 1, 2, 3, 4],
        "3": [5, 6, 7, 8, 9, 10, 11],
    }


def test_a_reader_behind_a_sigmoid_protects_the_channel():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Conv2d(4, 2, 1))
    groups = channel_groups(net, IMAGES)
    assert groups.num_units == 0
    assert groups.protected["1"][0] == "'3' (Conv2d) reads it where it is not zero when masked"


def test_softmax_over_the_channels_needs_them_all():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Softmax(dim=1), nn.Conv2d(4, 2, 1))
    assert channel_groups(net, IMAGES).protected["1"][0] == (
        "'2': Softmax is not followed: it runs along the channels and needs the full width"
    )


def test_a_norm_without_scale_is_no_key_and_its_channels_stay():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    groups = channel_groups(net, IMAGES)
    assert groups.num_units == 0
    assert not groups.unit_of


def test_keep_patterns_protect_layers_and_change_no_other_unit():
    model = build_model("vgg11", num_classes=10, width=0.1)
    free, kept = channel_groups(model, IMAGES), channel_groups(model, IMAGES, keep=["features.1"])
    first = free.unit_of["features.1"].numel()
    assert kept.num_units == free.num_units - first
    assert kept.protected["features.1"][0] == "keep='features.1'"


def test_a_keep_pattern_that_matches_nothing_is_refused():
    with pytest.raises(SlimError, match=r"keep pattern 'layer9\.\*' matches no norm, conv or linear"):
        channel_groups(build_model("vgg11", num_classes=10, width=0.1), IMAGES, keep=["layer9.*"])


def test_an_unknown_policy_is_refused():
    with pytest.raises(SlimError, match="policy is 'both'; give auto, inner, tie or select"):
        channel_groups(nn.Sequential(nn.Conv2d(3, 2, 1)), IMAGES, "both")


def test_a_norm_that_never_runs_is_protected():
    class Spare(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x))

    net = Spare(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(3))
    assert channel_groups(net, IMAGES).protected["2"][0] == "the network never runs this layer on the example input"


def test_only_the_norm_next_to_the_stream_gathers():
    """Stream -> norm -> depthwise -> norm: the first norm gathers, the second passes on, and both share a unit."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.expand = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.bn1, self.depthwise = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.bn2, self.out = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            stream = self.stem(x) + self.expand(x)
            return stream + self.out(torch.relu(self.bn2(self.depthwise(torch.relu(self.bn1(stream))))))

    groups = channel_groups(Block(), IMAGES)
    assert groups.policy == "select"
    assert groups.num_units == 4
    assert torch.equal(groups.unit_of["bn1"], groups.unit_of["bn2"])
