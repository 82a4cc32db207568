"""The L1 penalty on BatchNorm scales, s * sum|gamma|, in two forms.

The subgradient (You et al. 2020; Liu et al. 2017) passes through momentum and adds to weight decay; the proximal form
can reach exact zeros. Every `_BatchNorm` is penalised, SyncBatchNorm included; a scale that modules share counts once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from earlybird.errors import ConfigError, is_number, require, require_type


@torch.no_grad()
def bn_l1_subgradient_(model: nn.Module, strength: float | Tensor) -> None:
    """Add `strength * sign(gamma)` to the gradient of every BatchNorm scale, in place.

    Call it after `backward` and before `optimizer.step`; with gradient scaling, after unscaling. Frozen scales and
    scales without a gradient are left alone.

    strength: >= 0; a tensor [] on the scales' device is not looked at, so that a CUDA graph can hold this call.

    Raises:
        ConfigError: `strength` is a negative number or not finite.
    """
    if not isinstance(strength, Tensor) or strength.dim():
        _check(strength)
    for scale in _scales(model):
        if scale.grad is not None:
            # sign(0) = 0: a scale at zero stays there, as in the authors' code.
            if isinstance(strength, Tensor):
                scale.grad.addcmul_(scale.sign(), strength)
            else:
                scale.grad.add_(scale.sign(), alpha=strength)


@torch.no_grad()
def bn_l1_proximal_(model: nn.Module, strength: float, *, lr: float, momentum: float = 0.0) -> None:
    """Soft-threshold every BatchNorm scale by `lr * strength / (1 - momentum)`, in place, after `optimizer.step`.

    The factor 1/(1 - momentum) is what the subgradient gains by passing through momentum, so the same strength shrinks
    an idle scale equally fast in both forms (`docs/method.md` section 1). Frozen scales are left alone.

    Raises:
        ConfigError: `strength` or `lr` is negative or not finite, or `momentum` outside [0, 1).
    """
    _check(strength)
    require("lr", lr, is_number(lr) and 0.0 <= lr < math.inf, "a number >= 0")
    require("momentum", momentum, is_number(momentum) and 0.0 <= momentum < 1.0, "a number in [0, 1)")
    threshold = lr * strength / (1.0 - momentum)
    for scale in _scales(model):
        scale.copy_(scale.sign() * (scale.abs() - threshold).clamp_min(0.0))


def _scales(model: nn.Module) -> list[Tensor]:
    require_type("the network", model, nn.Module, ConfigError, "give a torch.nn.Module")
    scales = [module.weight for module in model.modules() if isinstance(module, _BatchNorm)]
    return list({id(scale): scale for scale in scales if scale is not None and scale.requires_grad}.values())


def _check(strength: Any) -> None:
    # Also catches NaN.
    require(
        "penalty strength",
        strength,
        is_number(strength) and 0.0 <= strength < math.inf,
        "a number >= 0 (the paper's is 1e-4)",
    )
