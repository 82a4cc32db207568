"""Cost of one image in a network, counted in two conventions that are never mixed (`docs/method.md` section 6).

Ours: multiply-accumulates (MACs) of every convolution, linear and matrix product, forward and backward as executed. The
paper's (You et al. 2020): FLOPs = 2 * MAC plus BatchNorm, ReLU and pooling. Both read the operations that a copy of the
network runs on the `meta` device, so shapes are real, no number is computed and the caller's network is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from earlybird.copying import copied, empty_tensors
from earlybird.cost.mac_counter import MacCounter
from earlybird.cost.paper import PaperExtras
from earlybird.cost.traffic import ModelTraffic, count_traffic, empty_images, loss_of_outputs
from earlybird.errors import ModelError, one_line, require

# Bits that each precision of a run gives the operands of its products.
OPERAND_BITS = {"fp32": 32, "bf16": 16}


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
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            # Empty tensors: a real copy on a GPU would show up in the run's peak memory.
            duplicate, bits = copied(model, empty_tensors(model)), OPERAND_BITS[precision]
            forward, extras = MacCounter(bits), PaperExtras()
            with torch.no_grad(), forward, extras:
                duplicate.eval()(empty_images(duplicate, 1, input_shape, "meta"))
            training = _training(duplicate.train(), empty_images(duplicate, 2, input_shape, "meta"), bits)
    except Exception as error:
        raise ModelError(
            f"the cost of {type(model).__name__} cannot be counted on the meta device for images of shape "
            f"{input_shape} (no batch dimension): {one_line(error)}; "
            f"its forward must take this shape and must not read values out of tensors"
        ) from error
    train_macs_by_width = {width: macs // 2 for width, macs in training.by_width.items()}
    return ModelCost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=forward.macs,
        train_macs=sum(train_macs_by_width.values()),
        paper_flops=float(2 * forward.macs + extras.flops),
        macs_by_width=dict(forward.by_width),
        train_macs_by_width=train_macs_by_width,
        uncounted=tuple(dict.fromkeys([*forward.uncounted, *training.uncounted])),
    )


def _training(model: nn.Module, images: Tensor, operand_bits: int) -> MacCounter:
    with torch.enable_grad(), MacCounter(operand_bits) as counter:
        loss = loss_of_outputs(model(images))
        if loss.requires_grad:  # otherwise every parameter is frozen, and training costs a forward pass
            loss.backward()
    return counter


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
    duplicate = copied(model, empty_tensors(model)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            duplicate(empty_images(duplicate, 1, input_shape, "meta"))
        except Exception as error:
            name = type(model).__name__
            raise ModelError(f"{name} does not run on meta tensors of shape {input_shape}: {error}") from error
    root = f"{type(model).__name__}."
    counts = {path.removeprefix(root): sum(flops.values()) // 2 for path, flops in counter.get_flop_counts().items()}
    return {name: counts[name] for name, _ in model.named_modules() if counts.get(name)}
