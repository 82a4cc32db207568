"""What one image costs a network, counted in two conventions that are never mixed (`method.md` section 6).

Ours: multiply-accumulates (MACs) of every convolution, linear and matrix product, forward and backward as executed. The
paper's (You et al. 2020): FLOPs = 2 * MAC plus BatchNorm, ReLU and pooling. Both read the operations that a copy of the
network runs on the `meta` device, so shapes are real, no number is computed and the caller's network is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from earlybird.copying import copied, empty_tensors
from earlybird.errors import ModelError

aten = torch.ops.aten


@dataclass(frozen=True)
class ModelCost:
    """What one network costs, for one image.

    params: number of parameters. macs: forward in eval mode. train_macs: forward and backward in train mode, only the
    gradients that are really computed. paper_flops: forward FLOPs in the paper's convention, unrounded.
    """

    params: int
    macs: int
    train_macs: int
    paper_flops: float

    @property
    def paper_gflops(self) -> float:
        """The paper's F: `paper_flops` in GFLOP, rounded to 0.01 as the paper's tables did."""
        return round(self.paper_flops / 1e9, 2)


def count_cost(model: nn.Module, input_shape: tuple[int, ...]) -> ModelCost:
    """Count parameters, MACs and the paper's FLOPs of `model` for one image of shape `input_shape` = (c, h, w).

    Works on a `meta` copy: the caller's network, its mode and the random state are left as found. Training is counted
    with a batch of two, since BatchNorm refuses one value per channel, and halved.

    Example:
        count_cost(build_model("vgg16", num_classes=10), (3, 32, 32)).macs   # 313_201_664

    Raises:
        ModelError: the shape is not positive, or the network does not run on `meta` with it, with the cause named.
    """
    if not input_shape or any(size < 1 for size in input_shape):
        raise ModelError(f"input_shape is {input_shape}; give the shape of one image, such as (3, 32, 32)")
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            # Empty tensors: a real copy on a GPU would show up in the run's peak memory.
            duplicate = copied(model, empty_tensors(model))
            macs, paper_flops = _forward_cost(duplicate.eval(), _images(duplicate, 1, input_shape))
            train_macs = _training_macs(duplicate.train(), _images(duplicate, 2, input_shape)) // 2
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the cost of {type(model).__name__} cannot be counted on the meta device for images of shape "
            f"{input_shape} (no batch dimension): {type(error).__name__}: {reason}; "
            f"its forward must take this shape and must not read values out of tensors"
        ) from error
    return ModelCost(params=params, macs=macs, train_macs=train_macs, paper_flops=paper_flops)


def _images(model: nn.Module, batch: int, input_shape: tuple[int, ...]) -> Tensor:
    floating = (tensor.dtype for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return torch.empty(batch, *input_shape, device="meta", dtype=next(floating, torch.float32))


def _forward_cost(model: nn.Module, images: Tensor) -> tuple[int, float]:
    with torch.no_grad(), _flop_counter() as counter, _PaperExtras() as extras:
        model(images)
    flops = counter.get_total_flops()
    return flops // 2, float(flops + extras.flops)


def _training_macs(model: nn.Module, images: Tensor) -> int:
    with torch.enable_grad(), _flop_counter() as counter:
        outputs = [output.sum() for output in _floating_tensors(model(images))]
        loss = torch.stack(outputs).sum()
        if loss.requires_grad:  # otherwise every parameter is frozen, and training costs a forward pass
            loss.backward()
    flops: int = counter.get_total_flops()
    return flops // 2


def _floating_tensors(output: object) -> Iterator[Tensor]:
    """All floating tensors of a network's output: logits, and auxiliary heads in a tuple or mapping beside them."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _floating_tensors(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _floating_tensors(value)


def _flop_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={aten.convolution_backward: _conv_backward_flops})


def _conv_backward_flops(
    grad_shape: list[int], x_shape: list[int], w_shape: list[int], *args: Any, out_shape: object, **kwargs: Any
) -> int:
    # PyTorch's own formula forgets to divide the weight's gradient by the groups, which makes a depthwise convolution
    # cost its channel count too much. Each of the two gradients is as many products as the forward pass.
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, output_mask = args
    flops: int = conv_flop_count(x_shape, w_shape, grad_shape, transposed=transposed)
    gradients = bool(output_mask[0]) + bool(output_mask[1])  # of the input, of the weight
    return flops * gradients


# The paper's convention beyond 2 * MAC: operation -> FLOPs of (arguments, output) -------------------------------------


def _norm_flops(args: Sequence[Any], output: Tensor) -> int:
    return 2 * output.numel()


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


PAPER_EXTRA_FLOPS: dict[Any, Callable[[Sequence[Any], Tensor], int]] = {
    aten.native_batch_norm: _norm_flops,
    aten.relu: _relu_flops,
    aten.relu_: _relu_flops,
    aten.hardtanh: _relu_flops,  # ReLU6
    aten.hardtanh_: _relu_flops,
    aten.max_pool2d_with_indices: _pool_flops,
    aten.avg_pool2d: _pool_flops,
    aten._adaptive_avg_pool2d: _adaptive_pool_flops,
    aten.adaptive_max_pool2d: _adaptive_pool_flops,
}


class _PaperExtras(TorchDispatchMode):
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
