"""F, the GFLOP of one forward pass, of the paper's networks: counted on the networks themselves, never typed in."""

from __future__ import annotations

from decimal import Decimal
from functools import cache

from torch import nn

from earlybird.cost import ModelCost, count_cost
from earlybird.errors import ConfigError
from earlybird.models import build_model

# Paper's name -> what to build, classes, image side. CIFAR-100's larger last layer does not show in 0.01 G.
NETWORKS = {
    "vgg16": ("vgg16", 10, 32),
    "preresnet101": ("preresnet101", 10, 32),
    "resnet18": ("torchvision:resnet18", 1000, 224),
    "resnet50": ("torchvision:resnet50", 1000, 224),
}


def dense_gflops(network: str) -> Decimal:
    """F of an unpruned network of the paper, rounded to 0.01 GFLOP as the paper does.

    Raises:
        ConfigError: the paper has no such network.
    """
    return Decimal(str(_cost(network).paper_gflops))


def product_gflops(network: str) -> Decimal:
    """F of convolutions and linear layers alone, 2 * MAC, rounded to 0.01 GFLOP: the count many other papers give.

    Raises:
        ConfigError: the paper has no such network.
    """
    return Decimal(str(round(2 * _cost(network).macs / 1e9, 2)))


def norm_channels(network: str) -> int:
    """Channels of all BatchNorm layers of an unpruned network: the length of its channel mask.

    Raises:
        ConfigError: the paper has no such network.
    """
    norms = (module for module in _built(network).modules() if isinstance(module, nn.BatchNorm2d))
    return sum(norm.num_features for norm in norms)


@cache
def _cost(network: str) -> ModelCost:
    model = _built(network)
    side = NETWORKS[network][2]
    return count_cost(model, (3, side, side))


def _built(network: str) -> nn.Module:
    if network not in NETWORKS:
        raise ConfigError(f"the paper has no network {network!r}; give one of {', '.join(NETWORKS)}")
    name, classes, side = NETWORKS[network]
    return build_model(name, num_classes=classes, image_size=side)
