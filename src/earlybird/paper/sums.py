"""Sums of training FLOPs in decimal arithmetic, the two roundings of the paper's tables, and the search for fits.

`earlybird.cost.paper` gives the same sums as floats. Here they decide whether a number equals a printed one, and a
float's last bit must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal

from earlybird.cost.paper import FORWARDS_PER_TRAINING_STEP
from earlybird.errors import ConfigError

HUNDREDTH = Decimal("0.01")
TABLE2_STEP = Decimal("0.05")


@dataclass(frozen=True)
class DrawFit:
    """A draw epoch and a slim F (GFLOP per image) that give the printed totals, in a schedule of `epochs` in all.

    `is_half_up` is False where one of the totals lies half-way between two printable ones and was rounded down.
    """

    draw_epoch: int
    slim_gflops: float
    epochs: int
    is_half_up: bool = True


def petaflops(gflop_epochs: Decimal, images: int) -> Decimal:
    """PFLOPs of training on `images` an epoch, for the sum over epochs of F in GFLOP: 3 * n * sum(F) / 10^6."""
    return (FORWARDS_PER_TRAINING_STEP * images * gflop_epochs).scaleb(-6)


def early_bird_petaflops(
    dense: Decimal, slim: Decimal, *, images: int, search_epochs: int, retrain_epochs: int
) -> Decimal:
    """PFLOPs of `search_epochs` at F `dense` and `retrain_epochs` at F `slim`."""
    return petaflops(search_epochs * dense + retrain_epochs * slim, images)


def to_hundredths(pflops: Decimal) -> Decimal:
    """Rounded to 0.01, half up: how Table 3 prints its totals."""
    return pflops.quantize(HUNDREDTH, ROUND_HALF_UP)


def printed_round(pflops: Decimal | float) -> float:
    """Rounded as Table 2 prints its totals: to 0.05 P, then to three significant digits, half up both times.

    A float is taken for the decimal number that it shows. The paper does not state the rule: the cells whose sums are
    known (lottery ticket, SNIP and ThiNet on VGG16) show it.

    Example:
        printed_round(30.24)   # 30.3: 30.25 first

    Raises:
        ConfigError: not a number of at least 0.
    """
    if not pflops >= 0:
        raise ConfigError(f"pflops is {pflops}; a total of training FLOPs is at least 0")
    stepped = (Decimal(str(pflops)) / TABLE2_STEP).quantize(Decimal(1), ROUND_HALF_UP) * TABLE2_STEP
    return float(_three_digits(stepped))


def rounded_like(printed: float, pflops: Decimal) -> float:
    """Rounded as the cell `printed` of Table 2 was: by `printed_round`, or to three digits alone.

    Some cells below 10 P are no multiples of 0.05, such as 3.77; the first step cannot have been taken there.

    Raises:
        ConfigError: `pflops` is not a number of at least 0.
    """
    # At 10 P and above three digits hide whether the step was taken; LT's 30.24, printed 30.3, shows that it was.
    return printed_round(pflops) if printed_round(printed) == printed else float(_three_digits(pflops))


def may_print(printed: float, pflops: Decimal) -> bool:
    """May the cell `printed` of Table 2 stand for this total, if a tie may be rounded either way?

    The first rounding makes ties for the second (10.83 is 10.85 after it), and the paper does not say what it did.
    """
    return rounded_like(printed, pflops) == printed or _rounded_down(pflops) == printed


def _rounded_down(pflops: Decimal) -> float:
    stepped = (pflops / TABLE2_STEP).quantize(Decimal(1), ROUND_HALF_UP) * TABLE2_STEP
    return float(_three_digits(stepped, ROUND_HALF_DOWN))


def _three_digits(pflops: Decimal, rounding: str = ROUND_HALF_UP) -> Decimal:
    return pflops.quantize(Decimal(1).scaleb(pflops.adjusted() - 2), rounding)


def slim_grid(dense: Decimal) -> Iterator[Decimal]:
    """Every F that a slim network may have: multiples of 0.01 GFLOP above 0, up to the dense network's."""
    return (hundredths * HUNDREDTH for hundredths in range(1, int(dense / HUNDREDTH) + 1))


def draw_fits(slims: Iterable[Decimal], epochs: int, matches: Callable[[int, Decimal], bool]) -> tuple[DrawFit, ...]:
    """All pairs of a draw epoch in 1 .. epochs - 1 and one of `slims` that `matches` accepts; earliest draw first."""
    candidates = tuple(slims)
    pairs = ((epoch, slim) for epoch in range(1, epochs) for slim in candidates)
    return tuple(DrawFit(epoch, float(slim), epochs) for epoch, slim in pairs if matches(epoch, slim))
