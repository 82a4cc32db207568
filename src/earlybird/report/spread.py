"""Mean and deviation over seeds, and paired differences with Student's confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

# Quantiles 0.975 of Student's t for 1, 2, ... 30 degrees of freedom, as tables print them.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divisor n - 1) of one quantity over seeds; `std` is None for n = 1."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class RunGroup:
    """Rows that differ in nothing but the seed, and their name in the comparison."""

    name: str
    rows: tuple[Row, ...]

    def spread(self, key: str) -> Spread | None:
        """Spread of a quantity over the runs that have it; None where none has."""
        values = [row[key] for row in self.rows if row.get(key) is not None]
        if not values:
            return None
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def flags(self) -> list[str]:
        """Flags of its runs, once each."""
        return sorted({flag for row in self.rows for flag in row["flags"]})


def rows_of(groups: Iterable[RunGroup]) -> list[Row]:
    """Rows of all groups."""
    return [row for group in groups for row in group.rows]


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of n pairs, and half the width of its 95 % confidence interval (None for one pair)."""

    mean: float
    half_width: float | None
    n: int


def paired_difference(differences: Sequence[float]) -> PairedDifference | None:
    """Mean and confidence interval of differences within pairs; None without any.

    The interval is Student's: it takes the differences as normal, and says nothing of other data sets or networks.

    Example:
        >>> paired_difference([1.0, 2.0, 3.0])
        PairedDifference(mean=2.0, half_width=2.4843..., n=3)
    """
    n = len(differences)
    if not n:
        return None
    half_width = t_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n) if n > 1 else None
    return PairedDifference(statistics.fmean(differences), half_width, n)


def t_quantile(degrees: int) -> float:
    """Quantile 0.975 of Student's t, for >= 1 degrees of freedom; past 30 by its expansion around the normal's."""
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    # Cornish and Fisher 1938, to the second order: right to the third decimal from 30 on.
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def sampling_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy in [0, 1] that was counted on so many independent images.

    At (k + 1) / (n + 2), Laplace's estimate: all right out of 30 is no proof of a network without errors.
    """
    share = (accuracy * images + 1) / (images + 2)
    return math.sqrt(share * (1 - share) / images) if images else 0.0
