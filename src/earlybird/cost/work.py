"""`Work`: images, products, the paper's FLOPs and bytes moved of a stretch of a run, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from earlybird.cost.flops import ModelCost
from earlybird.cost.paper import FORWARDS_PER_TRAINING_STEP


@dataclass(frozen=True)
class Work:
    """Counted work of one stretch of a run.

    Attributes:
        images: images run through the network.
        macs_by_width: bits of the two operands, such as "32x32" -> multiply-accumulates as executed.
        paper_flops: FLOPs that the paper's convention charges; None where it cannot be said.
        traffic_bytes: bytes that operations read and wrote; None where they were not counted.
    """

    images: int = 0
    macs_by_width: Mapping[str, int] = field(default_factory=dict)
    paper_flops: float | None = 0.0
    traffic_bytes: int | None = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all widths."""
        return sum(self.macs_by_width.values())

    def __add__(self, other: Work) -> Work:
        paper = None if self.paper_flops is None or other.paper_flops is None else self.paper_flops + other.paper_flops
        traffic = (self.traffic_bytes, other.traffic_bytes)
        return Work(
            images=self.images + other.images,
            macs_by_width=added(self.macs_by_width, other.macs_by_width),
            paper_flops=paper,
            traffic_bytes=None if traffic[0] is None or traffic[1] is None else traffic[0] + traffic[1],
        )


def training_work(cost: ModelCost, images: int, batches: int) -> Work:
    """Work of training on `images` images in `batches` steps; the paper charges three forward passes an image."""
    return Work(
        images=images,
        macs_by_width={width: images * macs for width, macs in cost.train_macs_by_width.items()},
        paper_flops=FORWARDS_PER_TRAINING_STEP * images * cost.paper_flops,
        traffic_bytes=cost.traffic.training.of(images, batches) if cost.traffic else None,
    )


def evaluation_work(cost: ModelCost, images: int, batches: int) -> Work:
    """Work of forward passes in eval mode; the paper charges training only."""
    return Work(
        images=images,
        macs_by_width={width: images * macs for width, macs in cost.macs_by_width.items()},
        paper_flops=0.0,
        traffic_bytes=cost.traffic.forward.of(images, batches) if cost.traffic else None,
    )


def added(*parts: Mapping[str, int]) -> dict[str, int]:
    """MACs of the same operand widths put together, widths with nothing left out."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return {width: macs for width, macs in sorted(total.items()) if macs}


def bit_operations(macs_by_width: Mapping[str, int]) -> int:
    """BitOps: each MAC counts as the product of its operands' widths in bits."""
    return sum(macs * int(a) * int(b) for (a, _, b), macs in ((w.partition("x"), m) for w, m in macs_by_width.items()))
