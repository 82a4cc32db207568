"""The numeric check: run the slim and the masked network side by side."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlybird.core.mask import ChannelMask
from earlybird.slimming.graph import ExampleInput, as_tuple, random_state_kept
from earlybird.slimming.surgery import masked

_DROPOUTS = nn.modules.dropout._DropoutNd


def certify(model: nn.Module, mask: ChannelMask, example_input: ExampleInput, small: nn.Module) -> float:
    """Largest relative error of `small` against `masked(model, mask)`, over eval and train mode.

    Relative to the largest magnitude of the masked network's output. Runs on copies with dropout modules at 0 and a
    batch of 1 repeated to 2; both networks and the random state stay as found (`method.md` section 4).

    Args:
        model: the dense network.
        mask: what was cut.
        example_input: a tensor, or a tuple of tensors, on the networks' device.
        small: what `slim` made of `model` and `mask`.

    Returns:
        0 for equal outputs; about 1e-6 is float32 rounding.
    """
    inputs = tuple(x.repeat(2, *[1] * (x.dim() - 1)) if x.shape[0] == 1 else x for x in as_tuple(example_input))
    with random_state_kept(), torch.no_grad():
        return max(
            _relative_error(_outputs(small, inputs, training), _outputs(masked(model, mask), inputs, training))
            for training in (False, True)
        )


def _outputs(network: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> list[Tensor]:
    network = copy.deepcopy(network).train(training)
    for module in network.modules():
        if isinstance(module, _DROPOUTS):
            module.p = 0.0
    return [x for x in pytree.tree_leaves(network(*inputs)) if isinstance(x, Tensor)]


def _relative_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    tiny = torch.finfo(torch.float32).tiny
    return max(
        float((a - e).abs().max() / e.abs().max().clamp_min(tiny)) for a, e in zip(actual, expected, strict=True)
    )
