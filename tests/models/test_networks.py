"""The CIFAR networks against their published sizes, and against the layout that the paper describes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from earlybird.errors import ModelError
from earlybird.models import VGG, PreResNet, build_model
from earlybird.slimming import channel_groups, slim


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def convs(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "published_millions"),
    # Liu et al. 2017, Table 1 (VGGNet with 19 layers, ResNet-164, CIFAR-10); VGG16's 14.72 M is the usual figure.
    [("vgg16", 14.72), ("vgg19", 20.04), ("preresnet164", 1.70)],
)
def test_parameter_counts_are_the_published_ones(name: str, published_millions: float) -> None:
    model = build_model(name, num_classes=10)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == published_millions


@pytest.mark.parametrize(("depth", "conv_layers"), [(11, 8), (13, 10), (16, 13), (19, 16)])
def test_vgg_depth_counts_its_convolutions_and_three_linears_of_the_original(depth: int, conv_layers: int) -> None:
    model = VGG(depth, num_classes=10, width=0.05)
    assert len(convs(model)) == len(norms(model)) == conv_layers == depth - 3


def test_vgg16_widths_and_pools_stand_in_the_papers_order() -> None:
    order: list[int | str] = []
    for module in VGG(16, num_classes=10).features:
        if isinstance(module, nn.Conv2d):
            order.append(module.out_channels)
        elif isinstance(module, nn.MaxPool2d):
            order.append("M")
    assert order == [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]


def test_preresnet101_has_the_7408_norm_channels_that_channel_selection_ranks() -> None:
    model = PreResNet(101, num_classes=10)
    assert sum(norm.num_features for norm in norms(model)) == 7408
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [11, 11, 11]


def test_preresnet_downsamples_the_raw_stream_in_the_first_block_of_each_stage_only() -> None:
    model = PreResNet(29, num_classes=10)
    shortcuts = [block.downsample for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    assert [shortcut is not None for shortcut in shortcuts] == [True, False, False] * 3
    assert [shortcut.stride for shortcut in shortcuts if shortcut is not None] == [(1, 1), (2, 2), (2, 2)]
    assert model.layer2[0].conv2.stride == (2, 2) and model.layer2[0].conv1.stride == (1, 1)


def test_a_preresnet_block_whose_last_convolution_is_zero_is_the_identity() -> None:
    block = PreResNet(29, num_classes=10).layer1[1]
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("name", ["vgg11", "preresnet20"])
def test_no_convolution_has_a_bias_and_every_scale_starts_at_one_half(name: str) -> None:
    model = build_model(name, num_classes=10)
    assert all(conv.bias is None for conv in convs(model))
    assert all(torch.all(norm.weight == 0.5) and torch.all(norm.bias == 0) for norm in norms(model))


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "preresnet20"])
def test_convolutions_start_by_what_they_write_and_not_by_what_they_read(name: str) -> None:
    """He's variance of the fan out; most layers read another number of channels than they write."""
    model = build_model(name, num_classes=10)
    for conv in convs(model):
        expected = math.sqrt(2 / (math.prod(conv.kernel_size) * conv.out_channels))
        spread = 5 / math.sqrt(2 * conv.weight.numel())  # five standard errors
        assert conv.weight.std().item() == pytest.approx(expected, rel=spread)
    assert sum(conv.in_channels != conv.out_channels for conv in convs(model)) >= 4


def test_vgg_weights_have_the_spread_of_the_method() -> None:
    model = VGG(16, num_classes=100)
    last = convs(model)[-1].weight
    assert last.std().item() == pytest.approx(math.sqrt(2 / (3 * 3 * 512)), rel=0.01)
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.all(model.classifier.bias == 0)


@pytest.mark.parametrize("name", ["vgg11", "preresnet20"])
def test_the_nets_trace_and_give_the_same_logits_as_untraced(name: str) -> None:
    model = build_model(name, num_classes=7, in_channels=1, width=0.25).eval()
    x = torch.randn(2, 1, 32, 32)
    logits = model(x)
    assert logits.shape == (2, 7)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), logits)


def test_width_scales_every_layer_and_never_reaches_zero_channels() -> None:
    assert {conv.out_channels for conv in convs(VGG(16, num_classes=10, width=0.25))} == {16, 32, 64, 128}
    assert {conv.out_channels for conv in convs(VGG(16, num_classes=10, width=0.001))} == {1}
    half = PreResNet(20, num_classes=10, width=0.5)
    assert half.conv1.out_channels == 8 and half.fc.in_features == 128
    tiny = PreResNet(20, num_classes=10, width=0.001)
    assert tiny(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_depth_that_does_not_exist_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(ModelError, match="VGG depth is 15; choose one of 11, 13, 16, 19"):
        VGG(15, num_classes=10)
    for depth in (2, 18, 100):
        with pytest.raises(ModelError, match=rf"PreResNet depth is {depth}; .* 9n\+2"):
            PreResNet(depth, num_classes=10)


@pytest.mark.parametrize("name", ["vgg11", "preresnet20", "resnet18"])
def test_a_cut_network_draws_new_weights_as_a_network_of_its_widths_would(name: str) -> None:
    model = build_model(name, num_classes=5, width=0.5)
    images = torch.zeros(2, 3, 32, 32)
    groups = channel_groups(model, images)
    keep = torch.rand(groups.num_units, generator=torch.Generator().manual_seed(0)) < 0.5
    small = slim(model, groups.mask_of(keep), images, groups, check=False)
    before = {key: value.clone() for key, value in small.state_dict().items()}
    torch.manual_seed(1)
    small.initialise_()
    after = small.state_dict()
    torch.manual_seed(1)
    small.initialise_()
    drawn = [key for key, value in before.items() if value.dim() > 1]
    assert drawn and all(not torch.equal(before[key], after[key]) for key in drawn)
    assert all(torch.equal(after[key], value) for key, value in small.state_dict().items())
    last = [m for m in small.modules() if isinstance(m, nn.Linear)][-1]
    dense = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    spread = last.weight.std() / dense.weight.std()
    # The spread follows the width that is left where the initialisation does so.
    assert 0.8 < float(spread) < 2.0
