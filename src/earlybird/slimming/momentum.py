"""Optimizer state carried over the cut: momentum sliced by the map from old to new channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlybird.errors import SlimError
from earlybird.slimming.surgery import KeptIndices, sliced


def carry_optimizer_state_(
    new: Optimizer, old: Optimizer, small: nn.Module, dense: nn.Module, indices: KeptIndices
) -> None:
    """Give `new`, an optimizer over `small`, the state that `old` gathered over `dense`.

    A state tensor of a parameter's shape (momentum, Adam's moments) is cut as the parameter was; anything else (a step
    count) is copied. Parameters that `old` never stepped stay without state. Settings such as the learning rate are the
    new optimizer's own.

    Args:
        new: made over the slim network's parameters, of the same class as `old`.
        old: the optimizer of the dense network.
        small: what `slim` gave.
        dense: what it was cut from.
        indices: `kept_indices(dense, mask, example_input, groups)`.

    Raises:
        SlimError: a parameter of the slim network is not one of the dense one, narrowed.

    Example:
        >>> optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
        >>> carry_optimizer_state_(optimizer, dense_optimizer, small, model, kept_indices(model, mask, images))
    """
    before = dict(dense.named_parameters())
    for name, parameter in small.named_parameters():
        source = before.get(name)
        if source is None or name not in indices:
            raise SlimError(f"parameter {name!r} of the slim network is not in the dense one; give the two of one cut")
        if source in old.state:
            new.state[parameter] = {
                key: _carried(value, source, parameter, name, indices) for key, value in old.state[source].items()
            }


def _carried(value: object, source: Tensor, parameter: Tensor, name: str, indices: KeptIndices) -> object:
    if not isinstance(value, Tensor) or value.numel() <= 1:
        if isinstance(value, (list, tuple, dict)):
            kind = type(value).__name__
            raise SlimError(f"the state of {name!r} holds a {kind}; such an optimizer cannot be carried over a cut")
        return value.detach().clone() if isinstance(value, Tensor) else value
    if value.shape != source.shape:
        raise SlimError(
            f"the state of {name!r} has shape {list(value.shape)}, the parameter {list(source.shape)}; such an "
            "optimizer cannot be carried over a cut"
        )
    cut = sliced(value, indices[name])
    if cut.shape != parameter.shape:
        raise SlimError(
            f"the state of {name!r} would have shape {list(cut.shape)}, the parameter has {list(parameter.shape)}; "
            "give the indices of this cut"
        )
    return cut.to(parameter.device) if isinstance(cut, torch.Tensor) else cut
