"""Cost of one image in a network: operations in two conventions that are never mixed, and bytes moved.

Ours: multiply-accumulates (MACs) of every convolution, linear and matrix product, as executed. The paper's: FLOPs = 2 *
MAC plus BatchNorm, ReLU and pooling (`docs/method.md` section 6). Copies without numbers are run, never the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from earlybird.copying import copied, empty_tensors
from earlybird.cost.operations import MacCounter, Watch, moved_bytes, paper_extra_flops
from earlybird.errors import ModelError, one_line, require

# Bits that each precision of a run gives the operands of its products.
OPERAND_BITS = {"fp32": 32, "bf16": 16}

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


@dataclass(frozen=True)
class ModelCost:
    """Cost of one image in a network.

    Attributes:
        params: number of parameters.
        macs: forward in eval mode.
        train_macs: forward and backward in train mode, only the gradients that are really computed.
        paper_flops: forward FLOPs in the paper's convention, unrounded.
        macs_by_width: bits of the two operands, such as "16x16" -> MACs of `macs`.
        train_macs_by_width: the same of `train_macs`.
        uncounted: operations that neither count holds and that may multiply (a kernel of somebody's own, an FFT).
        traffic: bytes moved, where they were counted (`count_traffic`).
        traffic_reason: reason why they were not; "" where they were, or where nobody asked.

    Raises:
        ModelError: the products by width do not add up to the products: a ledger adds up the former.
    """

    params: int
    macs: int
    train_macs: int
    paper_flops: float
    macs_by_width: Mapping[str, int] = field(default_factory=dict)
    train_macs_by_width: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    traffic: ModelTraffic | None = None
    traffic_reason: str = ""

    def __post_init__(self) -> None:
        for name, widths in (("macs", self.macs_by_width), ("train_macs", self.train_macs_by_width)):
            if sum(widths.values()) != getattr(self, name):
                raise ModelError(f"{name} is {getattr(self, name)}, by width {dict(widths)}; give widths that add up")

    @property
    def paper_gflops(self) -> float:
        """The paper's F: `paper_flops` in GFLOP, rounded to 0.01 as the paper's tables did."""
        return round(self.paper_flops / 1e9, 2)


def count_cost(model: nn.Module, input_shape: tuple[int, ...], precision: str = "fp32") -> ModelCost:
    """Count parameters, MACs and the paper's FLOPs of `model` for one image of shape `input_shape` = (c, h, w).

    Works on a `meta` copy: the caller's network, its mode and the random state are left as found. Training is counted
    with a batch of two, since BatchNorm refuses one value per channel, and halved.

    Args:
        precision: of a run: "fp32", or "bf16", where autocast gives float32 operands of products 16 bits.

    Example:
        count_cost(build_model("vgg16", num_classes=10), (3, 32, 32)).macs   # 313_201_664

    Raises:
        ModelError: the shape is not positive, or the network does not run on `meta` with it, with the cause named.
        ConfigError: an unknown precision.
    """
    if not input_shape or any(size < 1 for size in input_shape):
        raise ModelError(f"input_shape is {input_shape}; give the shape of one image, such as (3, 32, 32)")
    require("precision", precision, precision in OPERAND_BITS, f"one of {', '.join(OPERAND_BITS)}")
    forward, training = (MacCounter(OPERAND_BITS[precision]) for _ in range(2))
    extras = Watch(paper_extra_flops)
    failed = (
        f"the cost of {type(model).__name__} cannot be counted on the meta device for images of shape {input_shape} "
        "(no batch dimension)"
    )
    with _dry_run(failed, "; its forward must take this shape and must not read values out of tensors"):
        # Empty tensors: a real copy on a GPU would show up in the run's peak memory.
        duplicate = copied(model, empty_tensors(model))
        with torch.no_grad(), forward, extras:
            duplicate.eval()(_empty_images(duplicate, 1, input_shape, "meta"))
        # Autocast does not run on `meta`: the counter knows of it.
        _train(duplicate, _empty_images(duplicate, 2, input_shape, "meta"), training)
    train_macs_by_width = {width: macs // 2 for width, macs in training.by_width.items()}
    return ModelCost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=forward.macs,
        train_macs=sum(train_macs_by_width.values()),
        paper_flops=float(2 * forward.macs + sum(extras.found)),
        macs_by_width=dict(forward.by_width),
        train_macs_by_width=train_macs_by_width,
        uncounted=tuple(dict.fromkeys([*forward.uncounted, *training.uncounted])),
    )


def count_cost_and_traffic(model: nn.Module, input_shape: tuple[int, ...], precision: str = "fp32") -> ModelCost:
    """`count_cost` with the traffic where it can be counted, and the reason where it cannot.

    A network may read numbers that fake tensors do not have (layers dropped at random, say). It trains all the same;
    only its energy is not estimated.

    Raises:
        ModelError, ConfigError: as `count_cost`.
    """
    cost = count_cost(model, input_shape, precision)
    try:
        return replace(cost, traffic=count_traffic(model, input_shape, precision))
    except ModelError as error:
        return replace(cost, traffic_reason=str(error))


def layer_macs(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Module path -> MACs of its forward pass for one image, submodules included; those without MACs are left out.

    Raises:
        ModelError: the network does not run on `meta` with this shape.
    """
    with _dry_run(f"{type(model).__name__} does not run on meta tensors of shape {input_shape}"):
        duplicate = copied(model, empty_tensors(model)).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            duplicate(_empty_images(duplicate, 1, input_shape, "meta"))
    root = f"{type(model).__name__}."
    counts = {path.removeprefix(root): sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    return {name: counts[name] for name, _ in model.named_modules() if counts.get(name)}


def count_traffic(model: nn.Module, input_shape: tuple[int, ...], precision: str = "fp32") -> ModelTraffic:
    """Count the bytes that `model` moves for images of shape `input_shape` = (c, h, w).

    Each operation that PyTorch runs is charged its operands and its result once. A cache keeps part of that away from
    the DRAM; what a fused kernel moves within itself is not seen. Counted on fake tensors, which have the types that
    autocast really gives and hold no numbers.

    Args:
        model: any network; left as it is, and no tensor of its size is made.
        precision: "fp32", or "bf16" for autocast around the forward pass.

    Raises:
        ModelError: the network does not run on fake tensors with this shape.
    """

    def moved(run: Callable[[nn.Module, Tensor, Watch[int], str], None], batch: int) -> int:
        watch = Watch(moved_bytes)
        with FakeTensorMode(allow_non_fake_inputs=True):
            run(_fake_copy(model), _empty_images(model, batch, input_shape), watch, precision)
        return sum(watch.found)

    with _dry_run(f"the memory traffic of {type(model).__name__} cannot be counted for images of shape {input_shape}"):
        # The same twice, with two sizes of batch: a line through two points has an exact slope.
        forward = [moved(_infer, batch) for batch in (1, 2)]
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        training = [moved(_train, batch) + SGD_PASSES * trained for batch in (2, 4)]
    return ModelTraffic(_line(forward, (1, 2)), _line(training, (2, 4)))


@contextmanager
def _dry_run(failed: str, cure: str = "") -> Iterator[None]:
    """Leave the random state alone, and say in one line what goes wrong, without the traceback that PyTorch logs."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            yield
    except Exception as error:
        raise ModelError(f"{failed}: {one_line(error)}{cure}") from error
    finally:
        log.setLevel(level)


def _train(model: nn.Module, images: Tensor, counter: AbstractContextManager[object], precision: str = "fp32") -> None:
    """Run a training step without its optimizer, in train mode, under a counter."""
    with torch.enable_grad(), counter:
        with _autocast(precision):
            outputs = _floating_tensors(model.train()(images))  # logits, and auxiliary heads beside them
            loss = torch.stack([tensor.sum() for tensor in outputs]).sum()
        if loss.requires_grad:  # otherwise every parameter is frozen, and training costs a forward pass
            loss.backward()


def _infer(model: nn.Module, images: Tensor, counter: AbstractContextManager[object], precision: str) -> None:
    with torch.no_grad(), counter, _autocast(precision):
        model.eval()(images)


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def _line(total: list[int], batches: tuple[int, int]) -> Traffic:
    slope = (total[1] - total[0]) // (batches[1] - batches[0])
    return Traffic(image_bytes=slope, batch_bytes=max(0, total[0] - batches[0] * slope))


def _fake_copy(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    kept = (value for module in model.modules() for value in pytree.tree_leaves(list(vars(module).values())))
    attributes = [value for value in kept if isinstance(value, Tensor) and value.layout == torch.strided]
    for tensor in (*model.parameters(), *model.buffers(), *attributes):
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
    return copied(model, memo)


def _empty_images(model: nn.Module, batch: int, input_shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Images without values, `[batch, *input_shape]`, in the type that `model` calculates in."""
    floating = (tensor.dtype for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return torch.empty(batch, *input_shape, device=device, dtype=next(floating, torch.float32))


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
