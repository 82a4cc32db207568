"""The paper's convention of cost (You et al. 2020; `docs/method.md` section 6).

Training is charged three forward passes per image (one forward, two backward), on every image of the set in every
epoch; evaluation and the search's own bookkeeping are free. `CostLedger` holds our convention, which charges them. A
forward pass is 2 * MAC, and beyond it what stands in `PAPER_EXTRA_FLOPS`: BatchNorm with 2 per element, ReLU with 1 per
element and pooling with the window's size per output element; global pooling and residual adds are free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FORWARDS_PER_TRAINING_STEP = 3

aten = torch.ops.aten


def _relu_flops(args: Sequence[Any], output: Tensor) -> int:
    return output.numel()


def _pool_flops(args: Sequence[Any], output: Tensor) -> int:
    kernel = args[1] if isinstance(args[1], Sequence) else [args[1]]
    sides = list(kernel) * 2 if len(kernel) == 1 else list(kernel)
    return 0 if _is_global(output) else math.prod(sides) * output.numel()


def _adaptive_pool_flops(args: Sequence[Any], output: Tensor) -> int:
    windows = (math.ceil(into / out) for into, out in zip(args[0].shape[2:], output.shape[2:], strict=True))
    return 0 if _is_global(output) else math.prod(windows) * output.numel()


def _is_global(output: Tensor) -> bool:
    return output.shape[-2:] == (1, 1)


# Operation -> FLOPs of (arguments, output).
PAPER_EXTRA_FLOPS: dict[Any, Callable[[Sequence[Any], Tensor], int]] = {
    aten.native_batch_norm: lambda args, output: 2 * output.numel(),
    aten.relu: _relu_flops,
    aten.relu_: _relu_flops,
    aten.hardtanh: _relu_flops,  # ReLU6
    aten.hardtanh_: _relu_flops,
    aten.max_pool2d_with_indices: _pool_flops,
    aten.avg_pool2d: _pool_flops,
    aten._adaptive_avg_pool2d: _adaptive_pool_flops,
    aten.adaptive_max_pool2d: _adaptive_pool_flops,
}


class PaperExtras(TorchDispatchMode):
    """Adds up `PAPER_EXTRA_FLOPS` over the operations run inside; sees modules and functional calls alike."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = PAPER_EXTRA_FLOPS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(args, result[0] if isinstance(result, tuple) else result)
        return result
