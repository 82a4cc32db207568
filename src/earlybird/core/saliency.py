"""`BNSaliency`: score `bn_saliency`, gathered from the gradients of many batches (`docs/method.md` section 10).

|gamma| says nothing across layers: multiply gamma and beta of one by a factor, and the next norm undoes it. gamma times
its gradient does not change under that factor; it is the first-order change of the loss if the channel went.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from earlybird.errors import ConfigError, MaskError, require


class BNSaliency:
    """Mean over recent batches of |gamma * dL/dgamma + beta * dL/dbeta|, for each channel of each BatchNorm.

    The first-order Taylor term of Molchanov et al. 2017 (2019, eq. 8) at the norm, as an exponential moving average
    with bias correction (Kingma & Ba 2015): after n updates each batch has the weight it has in a mean of n. Factors
    between a norm and the next do not change it, up to eps; across a residual add sizes are real and count.

    It is a criterion too: `EarlyBird(0.5, groups, criterion=saliency)`. Updates are tensor operations in place, without
    synchronisation; after `begin(model)` or one update they can be captured in a CUDA graph.

    Args:
        decay: weight of the past in the average, in [0, 1).

    Raises:
        ConfigError: `decay` is out of range.

    Example:
        >>> saliency = BNSaliency()
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        >>> for _ in range(3):
        ...     net(torch.randn(8, 3)).square().mean().backward()
        ...     saliency.update(net)  # after backward, before penalty, clipping and the optimizer's decay
        >>> saliency.scores()["1"].shape
        torch.Size([4])
    """

    # The name in a ticket, where `EarlyBird` looks for it.
    __name__ = "bn_saliency"

    def __init__(self, decay: float = 0.9) -> None:
        require("decay", decay, 0.0 <= decay < 1.0, "a number in [0, 1)")
        self.decay = decay
        self._means: dict[str, Tensor] = {}
        self._weight = torch.zeros((), dtype=torch.float64)  # of all updates together: 1 - decay ** updates

    def begin(self, model: nn.Module) -> None:
        """Make room for the norms of a model on its device: needed only where a step is captured before any update.

        Raises:
            MaskError: the model has no BatchNorm with a scale, or has others than before.
        """
        norms = _norms(model)
        shapes = {name: norm.weight.shape for name, norm in norms.items()}
        if not self._means:
            self._means = {name: torch.zeros(shape) for name, shape in shapes.items()}
        if {name: mean.shape for name, mean in self._means.items()} != shapes:
            told = "bn_saliency was gathered from other BatchNorm layers or widths"
            raise MaskError(f"{told}; begin a new BNSaliency() for a network that was cut")
        device = next(iter(norms.values())).weight.device
        if self._weight.device != device:
            self._means = {name: mean.to(device) for name, mean in self._means.items()}
            self._weight = self._weight.to(device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the gradients that the last backward left: those of the data loss alone, unscaled.

        Raises:
            MaskError: the model has no BatchNorm with a scale, one has no gradient, or others than before.
        """
        self.begin(model)
        torch._foreach_lerp_(list(self._means.values()), _terms(_norms(model)), 1.0 - self.decay)
        self._weight.lerp_(torch.ones_like(self._weight), 1.0 - self.decay)

    def tensors(self) -> list[Tensor]:
        """Tensors that `update` changes in place."""
        return [*self._means.values(), self._weight]

    def scores(self) -> dict[str, Tensor]:
        """Norm layer -> float32 `[channels]` on the CPU, >= 0, higher = keep.

        Raises:
            MaskError: there was no update yet.
        """
        weight = self._weight.cpu()
        if not weight:
            raise MaskError("bn_saliency has seen no gradient yet; call update(model) after backward() first")
        return {name: (mean.cpu() / weight).float() for name, mean in self._means.items()}

    def __call__(self, model: nn.Module) -> dict[str, Tensor]:
        """`scores()`, whatever the model: the form of a criterion."""
        return self.scores()

    def state_dict(self) -> dict[str, Any]:
        """Everything `update` and `scores` depend on, in tensors and plain values; copies, on the CPU."""
        means = {name: mean.to("cpu", copy=True) for name, mean in self._means.items()}
        return {"decay": self.decay, "weight": self._weight.to("cpu", copy=True), "means": means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; what follows has the same bits.

        Raises:
            ConfigError: the state was gathered with another decay, or is none.
        """
        require("decay of the saved bn_saliency", state["decay"], state["decay"] == self.decay, f"{self.decay:g}")
        weight, means = state["weight"], dict(state["means"])
        shapes = {name: mean.shape for name, mean in means.items()}
        is_sound = weight.shape == () and weight.dtype == torch.float64 and bool(0 <= weight <= 1)
        is_sound &= all(mean.dtype == torch.float32 and bool((mean >= 0).all()) for mean in means.values())
        if not is_sound or (self._means and shapes != {name: mean.shape for name, mean in self._means.items()}):
            raise ConfigError("the saved bn_saliency is of another network, or was changed; give the network's own")
        device = self._weight.device
        self._means = {name: mean.to(device, copy=True) for name, mean in means.items()}
        self._weight = weight.to(device, copy=True)


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.weight is not None}
    if not norms:
        told = "criterion 'bn_saliency' found no BatchNorm with a scale; use criterion=filter_l1 or criterion=taylor"
        raise MaskError(told)
    return norms


def _terms(norms: Mapping[str, _BatchNorm]) -> list[Tensor]:
    """|gamma * dL/dgamma + beta * dL/dbeta| of each norm, float32 `[channels]`."""
    for name, norm in norms.items():
        if norm.weight.grad is None or (norm.bias is not None and norm.bias.grad is None):
            told = f"criterion 'bn_saliency' found no gradient at {name!r}"
            raise MaskError(f"{told}; update it after backward() and before zero_grad(), with no frozen norm")
    values = _products([norm.weight for norm in norms.values()])
    shifted = [place for place, norm in enumerate(norms.values()) if norm.bias is not None]
    if shifted:
        shifts = _products([norm.bias for norm in norms.values() if norm.bias is not None])
        torch._foreach_add_([values[place] for place in shifted], shifts)
    torch._foreach_abs_(values)
    return values


def _products(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Parameter times gradient, in float32: products of half precision vanish too early."""
    gradients = [parameter.grad.float() for parameter in parameters if parameter.grad is not None]
    return list(torch._foreach_mul([parameter.detach().float() for parameter in parameters], gradients))
