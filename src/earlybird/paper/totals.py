"""Totals of training FLOPs: F counted on the networks, sums and the paper's roundings, and the search for fits.

F is the GFLOP of one forward pass. Sums are decimal: they decide whether a number equals a printed one, and the last
bit of a float must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from functools import cache

from earlybird.cost import count_cost
from earlybird.cost.paper import FORWARDS_PER_TRAINING_STEP
from earlybird.errors import ConfigError
from earlybird.models import build_model

HUNDREDTH = Decimal("0.01")
TABLE2_STEP = Decimal("0.05")
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


def petaflops(gflop_epochs: Decimal, images: int) -> Decimal:
    """PFLOPs of training on `images` an epoch, for the sum over epochs of F in GFLOP: 3 * n * sum(F) / 10^6."""
    return (FORWARDS_PER_TRAINING_STEP * images * gflop_epochs).scaleb(-6)


def to_hundredths(pflops: Decimal) -> Decimal:
    """Rounded to 0.01, half up, as Table 3 prints its totals."""
    return pflops.quantize(HUNDREDTH, ROUND_HALF_UP)


def printed_round(pflops: Decimal) -> Decimal:
    """Rounded as Table 2 prints its totals: to 0.05 P, then to three significant digits, half up both times.

    The paper does not state the rule: the cells whose sums are known (lottery ticket, SNIP and ThiNet on VGG16) show
    it.

    Example:
        printed_round(Decimal("30.24"))   # 30.3: 30.25 first
    """
    return three_digits(_stepped(pflops))


def rounded_like(printed: Decimal, pflops: Decimal) -> Decimal:
    """Rounded as the cell `printed` of Table 2 was: by `printed_round`, or to three digits alone.

    Some cells below 10 P are no multiples of 0.05, such as 3.77; the first step cannot have been taken there.
    """
    # At 10 P and above three digits hide whether the step was taken; LT's 30.24, printed 30.3, shows that it was.
    return printed_round(pflops) if printed_round(printed) == printed else three_digits(pflops)


def may_print(printed: Decimal, pflops: Decimal) -> bool:
    """Tell whether the cell `printed` of Table 2 may stand for this total, a tie rounded either way.

    The first rounding makes ties for the second (10.83 is 10.85 after it), and the paper does not say what it did.
    """
    return printed in (rounded_like(printed, pflops), three_digits(_stepped(pflops), ROUND_HALF_DOWN))


def _stepped(pflops: Decimal) -> Decimal:
    return (pflops / TABLE2_STEP).quantize(Decimal(1), ROUND_HALF_UP) * TABLE2_STEP


def three_digits(pflops: Decimal, rounding: str = ROUND_HALF_UP) -> Decimal:
    """Rounded to three significant digits."""
    return pflops.quantize(Decimal(1).scaleb(pflops.adjusted() - 2), rounding)


def slim_grid(dense: Decimal) -> Iterator[Decimal]:
    """All F that a slim network may have: multiples of 0.01 GFLOP above 0, up to the dense network's."""
    return (hundredths * HUNDREDTH for hundredths in range(1, int(dense / HUNDREDTH) + 1))


def draw_fits(
    slims: Iterable[Decimal],
    epochs: int,
    matches: Callable[[int, Decimal], bool],
    is_half_up: Callable[[int, Decimal], bool] = lambda epoch, slim: True,
) -> tuple[DrawFit, ...]:
    """All pairs of a draw epoch in 1 .. epochs - 1 and one of `slims` that `matches` accepts; earliest draw first."""
    pairs = [(epoch, slim) for slim in slims for epoch in range(1, epochs) if matches(epoch, slim)]
    return tuple(DrawFit(epoch, slim, epochs, is_half_up(epoch, slim)) for epoch, slim in sorted(pairs))
