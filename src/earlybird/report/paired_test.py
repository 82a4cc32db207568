"""Paired t-test of a difference over seeds, and Holm's correction for the number of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from earlybird.report.quantities import Spread

_NO_SPREAD = 1e-9  # of a difference in points: what rounding leaves of none


def probability(difference: Spread) -> float | None:
    """Two-sided p, in [0, 1], of a paired t-test that the mean difference is zero.

    None for one pair, and for differences that are all the same: accuracies are counts of images, so that a few seeds
    may agree by chance, and a test would take their agreement for certainty.

    The finite series of Student's distribution for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3-4).

    Example:
        >>> probability(Spread(mean=2.0, std=1.0, n=3))
        0.07417990022744854
    """
    if difference.std is None or difference.std < _NO_SPREAD:
        return None
    degrees, t = difference.n - 1, abs(difference.mean) / (difference.std / math.sqrt(difference.n))
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2 == 0:
        term = within = sine
        for k in range(2, degrees, 2):
            term *= cosine**2 * (k - 1) / k
            within += term
        return 1 - within
    term, within = sine * cosine, angle
    for k in range(1, degrees, 2):
        within += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return 1 - within * 2 / math.pi


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number: below 0.05, a difference stands at 5 % for the whole family.

    Holm 1979; in the order given.

    Example:
        >>> [round(p, 2) for p in holm([0.03, 0.01, 0.04])]
        [0.06, 0.03, 0.06]
    """
    corrected, largest = [0.0] * len(probabilities), 0.0
    for rank, i in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        largest = max(largest, (len(probabilities) - rank) * probabilities[i])
        corrected[i] = min(1.0, largest)
    return corrected
