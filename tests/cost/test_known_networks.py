"""Counts of known networks, dense and pruned, against torchvision's figures and against sums over their layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from earlybird.core import bn_scale, draw_mask, filter_l1
from earlybird.cost import count_cost
from earlybird.models import build_model
from earlybird.slimming import channel_groups, slim

SHAPE = (3, 224, 224)
# GMACs of one image; the figure that torchvision publishes with its weights has three digits after the point.
NETWORKS = {
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    "mobilenet_v2": torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
    "vit_b_16": torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1,
    "swin_t": torchvision.models.Swin_T_Weights.IMAGENET1K_V1,
    "convnext_tiny": torchvision.models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1,
}


def summed_macs(model: nn.Module) -> int:
    """MACs by the shapes that each layer reads and writes: nothing here knows of FLOP counters."""
    total = 0

    def add(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        x = args[0]
        if isinstance(module, nn.Conv2d):
            total += output.numel() * math.prod(module.kernel_size) * module.in_channels // module.groups
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.MultiheadAttention):
            tokens, width = x.shape[1], x.shape[2]
            total += 4 * tokens * width * width + 2 * tokens * tokens * width
        elif isinstance(module, ShiftedWindowAttention):
            side, width = module.window_size[0], x.shape[3]
            windows = math.ceil(x.shape[1] / side) * math.ceil(x.shape[2] / side)
            total += windows * (4 * side**2 * width * width + 2 * side**4 * width)

    # Attention's own linears are called as functions or counted with it.
    inside = {part for m in model.modules() if isinstance(m, ATTENTION) for part in m.modules() if part is not m}
    handles = [m.register_forward_hook(add) for m in model.modules() if m not in inside]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *SHAPE, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return total


ATTENTION = (nn.MultiheadAttention, ShiftedWindowAttention)


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_networks_cost_what_torchvision_and_their_layers_say(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    cost = count_cost(model, SHAPE)
    assert cost.macs == pytest.approx(summed_macs(model), rel=1e-3)
    assert cost.macs / 1e9 == pytest.approx(NETWORKS[name].meta["_ops"], abs=0.0015)
    assert cost.uncounted == ()


def test_vit_b_16_takes_17_56_gmacs_and_resnet50_trains_at_three_times_its_forward() -> None:
    with torch.device("meta"):
        vit, resnet = (torchvision.models.get_model(name, weights=None) for name in ("vit_b_16", "resnet50"))
    assert round(count_cost(vit, SHAPE).macs / 1e9, 2) == 17.56
    cost = count_cost(resnet, SHAPE)
    assert 2.9 <= cost.train_macs / cost.macs <= 3.0


def pruned(name: str) -> tuple[nn.Module, nn.Module]:
    model = build_model(f"torchvision:{name}", num_classes=1000, image_size=224)
    example = torch.randn(2, *SHAPE)
    groups = channel_groups(model, example)
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    scores: dict[str, Tensor] = (bn_scale if has_norms else filter_l1)(model)
    return model, slim(model, draw_mask(scores, 0.5, groups), example, groups, check=False)


QUICK = ("resnet50", "mobilenet_v2")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_pruned_networks_cost_what_their_layers_say(name: str) -> None:
    model, small = pruned(name)
    cost = count_cost(small, SHAPE)
    assert cost.macs == pytest.approx(summed_macs(small), rel=1e-3)
    assert cost.macs < 0.95 * summed_macs(model)
    assert 2.9 <= cost.train_macs / cost.macs <= 3.0
