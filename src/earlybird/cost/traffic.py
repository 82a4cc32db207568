"""Bytes that a network's operations read and write: the memory traffic behind an energy estimate.

Each operation that PyTorch runs is charged its operands and its result once; views and allocations move nothing. A
cache keeps part of that away from the DRAM; what a fused kernel moves within itself is not seen. Counted on fake
tensors, which have the types that autocast really gives and hold no numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from earlybird.copying import copied
from earlybird.errors import ModelError, one_line

_MOVES_NOTHING = frozenset(
    {"_unsafe_view", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided"}
)

# Times that PyTorch's SGD with momentum and weight decay (foreach) reads or writes a tensor as large as the parameters:
# decay into a new gradient (3), momentum times its factor (2), plus the gradient (3), weights minus momentum (3).
SGD_PASSES = 11


@dataclass(frozen=True)
class Traffic:
    """Bytes moved for a batch of n images: `batch_bytes + n * image_bytes`.

    `batch_bytes` do not depend on n: parameters, their gradients and the optimizer's state.
    """

    image_bytes: int
    batch_bytes: int

    def of(self, images: int, batches: int) -> int:
        """Bytes for `images` images in `batches` batches."""
        return images * self.image_bytes + batches * self.batch_bytes


@dataclass(frozen=True)
class ModelTraffic:
    """Traffic of a forward pass in eval mode, and of a training step: forward, backward and SGD with momentum."""

    forward: Traffic
    training: Traffic


def count_traffic(model: nn.Module, input_shape: tuple[int, ...], precision: str = "fp32") -> ModelTraffic:
    """Count the bytes that `model` moves for images of shape `input_shape` = (c, h, w).

    Args:
        model: any network; left as it is, and no tensor of its size is made.
        precision: "fp32", or "bf16" for autocast around the forward pass.

    Raises:
        ModelError: the network does not run on fake tensors with this shape.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), _quiet():
            # The same twice, with two sizes of batch: a line through two points has an exact slope.
            forward = [_forward_bytes(model, batch, input_shape, precision) for batch in (1, 2)]
            training = [_training_bytes(model, batch, input_shape, precision) for batch in (2, 4)]
    except Exception as error:
        raise ModelError(
            f"the memory traffic of {type(model).__name__} cannot be counted for images of shape {input_shape}: "
            f"{one_line(error)}"
        ) from error
    return ModelTraffic(_line(forward, (1, 2)), _line(training, (2, 4)))


def _line(total: list[int], batches: tuple[int, int]) -> Traffic:
    slope = (total[1] - total[0]) // (batches[1] - batches[0])
    return Traffic(image_bytes=slope, batch_bytes=max(0, total[0] - batches[0] * slope))


def _forward_bytes(model: nn.Module, batch: int, input_shape: tuple[int, ...], precision: str) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True):
        duplicate = _fake_copy(model).eval()
        images = empty_images(model, batch, input_shape)
        moved = _Bytes()
        with torch.no_grad(), moved, _autocast(precision):
            duplicate(images)
    return moved.total


def _training_bytes(model: nn.Module, batch: int, input_shape: tuple[int, ...], precision: str) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
        duplicate = _fake_copy(model).train()
        images = empty_images(model, batch, input_shape)
        moved = _Bytes()
        with moved:
            with _autocast(precision):
                loss = loss_of_outputs(duplicate(images))
            if loss.requires_grad:
                loss.backward()
        trained = sum(p.numel() * p.element_size() for p in duplicate.parameters() if p.requires_grad)
    return moved.total + SGD_PASSES * trained


def _fake_copy(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    kept = (value for module in model.modules() for value in pytree.tree_leaves(list(vars(module).values())))
    attributes = [value for value in kept if isinstance(value, Tensor) and value.layout == torch.strided]
    for tensor in (*model.parameters(), *model.buffers(), *attributes):
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
    return copied(model, memo)


def empty_images(model: nn.Module, batch: int, input_shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Images without values, `[batch, *input_shape]`, in the type that `model` calculates in."""
    floating = (tensor.dtype for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return torch.empty(batch, *input_shape, device=device, dtype=next(floating, torch.float32))


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the traceback that PyTorch logs before it raises; ours is one line."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


class _Bytes(TorchDispatchMode):
    """Adds up what the operations run inside read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.namespace == "prim" or func.is_view or name in _MOVES_NOTHING:
            return result
        # In-place operations on lists return nothing, and yet write their first argument.
        written = args[0] if result is None and name.endswith("_") else result
        self.total += sum(map(_nbytes, pytree.tree_leaves((args, kwargs, written))))
        return result


def _nbytes(value: object) -> int:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return 0
    # What was expanded is read once.
    size: int = value.numel() * value.element_size()
    return min(size, value.untyped_storage().nbytes())
