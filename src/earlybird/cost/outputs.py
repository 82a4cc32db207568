"""One number to differentiate, from whatever a network returns: what counting a training step needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


def loss_of_outputs(output: object) -> Tensor:
    """Sum of all floating tensors of a network's output: logits, and auxiliary heads in a tuple or mapping beside them.

    Raises:
        RuntimeError: there is none.
    """
    return torch.stack([tensor.sum() for tensor in _floating_tensors(output)]).sum()


def _floating_tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _floating_tensors(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _floating_tensors(value)
