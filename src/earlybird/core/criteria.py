"""Criteria: callables `model -> {module name: scores [out channels]}`, higher = keep.

`bn_scale` is keyed by norm layer, the others by the conv or linear that makes the channel: they need `ChannelGroups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from earlybird.errors import MaskError, require_type

Criterion = Callable[[nn.Module], dict[str, Tensor]]

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVS, nn.Linear, *TRANSPOSED_CONVS)


def bn_scale(model: nn.Module) -> dict[str, Tensor]:
    """|gamma| of every BatchNorm with a scale, float32 `[channels]` on CPU (Liu et al. 2017; You et al. 2020).

    Raises:
        MaskError: the model has no BatchNorm with a scale.
    """
    require_type("the network", model, nn.Module, MaskError, "give a torch.nn.Module")
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.weight is not None}
    if on_meta := [name for name, norm in norms.items() if norm.weight.is_meta]:
        raise MaskError(f"the scale of {on_meta[0]!r} is on meta, without numbers; load the network's weights first")
    scores = {name: norm.weight.detach().abs().float().cpu() for name, norm in norms.items()}
    if not scores:
        told = "criterion 'bn_scale' found no BatchNorm with a scale; use criterion=filter_l1 or criterion=taylor"
        raise MaskError(told)
    return scores


def filter_l1(model: nn.Module) -> dict[str, Tensor]:
    """Sum of |weight| per output filter of every conv and linear, float32 `[out channels]` (Li et al. 2017)."""
    return {name: per_filter(module, w.detach().abs().float()) for name, module, w in weighted_layers(model)}


def filter_l2(model: nn.Module) -> dict[str, Tensor]:
    """Euclidean norm of each output filter of every conv and linear, float32 `[out channels]` (He et al. 2018)."""
    squares = {name: per_filter(module, w.detach().float().square()) for name, module, w in weighted_layers(model)}
    return {name: square.sqrt() for name, square in squares.items()}


def taylor(model: nn.Module) -> dict[str, Tensor]:
    """(sum of weight * gradient)^2 per output filter, float32 `[out channels]` (Molchanov et al. 2019, eq. 8).

    Reads `.grad` as the last backward left it: call it between `backward` and `zero_grad`.

    Raises:
        MaskError: a layer has no gradient.
    """
    scores = {}
    for name, module, weight in weighted_layers(model):
        if weight.grad is None:
            told = f"criterion 'taylor' found no gradient at {name!r}; call it after backward() and before zero_grad()"
            raise MaskError(told)
        # Multiplied in float32: a product of two half-precision numbers vanishes too early.
        scores[name] = per_filter(module, weight.detach().float() * weight.grad.detach().float()).square()
    return scores


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Path, module and weight of every conv and linear layer."""
    require_type("the network", model, nn.Module, MaskError, "give a torch.nn.Module")
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            if module.weight.is_meta:
                raise MaskError(f"the weight of {name!r} is on meta, without numbers; load the network's weights first")
            yield name, module, module.weight


def per_filter(module: nn.Module, values: Tensor) -> Tensor:
    """Sum over each output filter, on the CPU; a transposed conv has its outputs on dimension 1, group by group."""
    if isinstance(module, TRANSPOSED_CONVS):
        values = values.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return values.flatten(1).sum(dim=1).cpu()
