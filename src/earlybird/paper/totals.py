"""Totals of training FLOPs: F counted on the networks, sums, and the search for fits.

F is the GFLOP of one forward pass. Sums are decimal: they decide whether a number equals a printed one, and the last
bit of a float must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

from earlybird.cost import count_cost
from earlybird.cost.ledger import FORWARDS_PER_TRAINING_STEP
from earlybird.data.images import PUBLISHED
from earlybird.errors import ConfigError
from earlybird.models import build_model

HUNDREDTH = Decimal("0.01")
# Paper's name -> what to build, classes, image side. CIFAR-100's larger last layer does not show in 0.01 G.
NETWORKS = {
    "vgg16": ("vgg16", 10, 32),
    "preresnet101": ("preresnet101", 10, 32),
    "resnet18": ("torchvision:resnet18", 1000, 224),
    "resnet50": ("torchvision:resnet50", 1000, 224),
}


@dataclass(frozen=True)
class DrawFit:
    """Draw epoch and slim F (GFLOP) that give the printed totals, in a schedule of `epochs` in all.

    `is_half_up` is False where one of the totals lies half-way between two printable ones and was rounded down.
    """

    draw_epoch: int
    slim_gflops: Decimal
    epochs: int
    is_half_up: bool = True

    def __str__(self) -> str:
        """Pair as the tables list it; a star marks a tie that was rounded down."""
        return f"({self.draw_epoch}, {self.slim_gflops:.2f}){'' if self.is_half_up else '*'}"


@cache
def dense_gflops(network: str) -> Decimal:
    """F of an unpruned network of the paper, rounded to 0.01 GFLOP as the paper does.

    Raises:
        ConfigError: the paper has no such network.
    """
    if network not in NETWORKS:
        raise ConfigError(f"the paper has no network {network!r}; give one of {', '.join(NETWORKS)}")
    name, classes, side = NETWORKS[network]
    model = build_model(name, num_classes=classes, image_size=side)
    return Decimal(str(count_cost(model, (3, side, side)).paper_gflops))


def petaflops(gflop_epochs: Decimal, dataset: str) -> Decimal:
    """PFLOPs of training on the n images of a data set, by the sum over epochs of F in GFLOP: 3 * n * sum(F) / 10^6."""
    return (FORWARDS_PER_TRAINING_STEP * PUBLISHED[dataset].train_images * gflop_epochs).scaleb(-6)


def to_hundredths(pflops: Decimal) -> Decimal:
    """Rounded to 0.01, half up, as Table 3 prints its totals."""
    return pflops.quantize(HUNDREDTH, ROUND_HALF_UP)


def slim_grid(dense: Decimal) -> Iterator[Decimal]:
    """All F that a slim network may have: multiples of 0.01 GFLOP above 0, up to the dense network's."""
    return (hundredths * HUNDREDTH for hundredths in range(1, int(dense / HUNDREDTH) + 1))


def draw_fits(slims: Iterable[Decimal], epochs: int, matches: Callable[[int, Decimal], bool]) -> tuple[DrawFit, ...]:
    """All pairs of a draw epoch in 1 .. epochs - 1 and one of `slims` that `matches` accepts; earliest draw first."""
    pairs = [(epoch, slim) for slim in slims for epoch in range(1, epochs) if matches(epoch, slim)]
    return tuple(DrawFit(epoch, slim, epochs) for epoch, slim in sorted(pairs))
