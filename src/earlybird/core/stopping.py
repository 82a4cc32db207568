"""When to stop the search: three rules on the history of masks.

`paper` is Algorithm 1 of You et al. 2020. `authors_code` is what their released code does. `epi` is the Early Pruning
Indicator of Shen et al. (CVPR 2022), on kept counts instead of identities. All three are pure functions of history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from earlybird.errors import ConfigError

StopRule = Literal["paper", "authors_code", "epi"]
STOP_RULES: tuple[StopRule, ...] = ("paper", "authors_code", "epi")

# Shen et al.'s threshold as a third party's port has it; unverified (`docs/method.md` section 1).
EPI_TAU = 0.983
EPI_LOOKBACK = 5


def check_rule(rule: str, window: int, epsilon: float) -> None:
    """Raise `ConfigError` unless the rule is known and its window and threshold are in range."""
    if rule not in STOP_RULES:
        raise ConfigError(f"rule is {rule!r}; give one of {', '.join(STOP_RULES)}")
    least = 2 if rule == "authors_code" else 1
    if window < least:
        raise ConfigError(f"window is {window}; rule {rule!r} needs at least {least}")
    if not 0.0 < epsilon <= 1.0:
        raise ConfigError(f"epsilon is {epsilon}; give a number in (0, 1]")


def earliest_draw(rule: StopRule, window: int) -> int:
    """The first draw (1-based) after which a rule can fire at all."""
    return {"paper": window + 1, "authors_code": window, "epi": 2 * EPI_LOOKBACK + 1}[rule]


def fires_paper(consecutive: Sequence[float], *, window: int = 5, epsilon: float = 0.1) -> bool:
    """True if the last `window` distances between consecutive masks are all < `epsilon`."""
    return len(consecutive) >= window and all(distance < epsilon for distance in consecutive[-window:])


def fires_authors_code(to_previous: Sequence[float], *, window: int = 5, epsilon: float = 0.1) -> bool:
    """True if the newest of `window` masks lies within `epsilon` (inclusive) of each of the `window - 1` before it.

    Args:
        to_previous: distance of the newest mask to the one 1, 2, 3, ... draws before.
        window: masks looked at.
        epsilon: largest distance allowed.
    """
    return len(to_previous) >= window - 1 and all(distance <= epsilon for distance in to_previous[: window - 1])


def count_similarity(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Psi = 1 - mean over layers of |n_a - n_b| / (n_a + n_b), on kept counts; in [0, 1]."""
    return 1.0 - float(np.mean([abs(a[name] - b[name]) / max(1, a[name] + b[name]) for name in a]))


def epi_value(counts: Sequence[Mapping[str, int]]) -> float | None:
    """EPI_t: mean similarity of the newest counts to the 5 before; None while fewer than 6 masks are known."""
    if len(counts) <= EPI_LOOKBACK:
        return None
    return float(np.mean([count_similarity(counts[-1], counts[-1 - j]) for j in range(1, EPI_LOOKBACK + 1)]))


def fires_epi(values: Sequence[float], *, tau: float = EPI_TAU) -> bool:
    """True if the newest EPI is >= `tau` and >= each of the 5 before it."""
    if len(values) <= EPI_LOOKBACK:
        return False
    return values[-1] >= tau and all(values[-1] >= earlier for earlier in values[-1 - EPI_LOOKBACK : -1])


def first_firing_draw(
    distances: np.ndarray, rule: Literal["paper", "authors_code"] = "paper", *, window: int = 5, epsilon: float = 0.1
) -> int | None:
    """The draw (1-based) after which a rule fires on a matrix of pairwise mask distances; None if it never does.

    Args:
        distances: `[draws, draws]`, entry (i, j) = distance between the masks after i+1 and j+1 draws (Figure 3).
        rule: "paper" or "authors_code" ("epi" needs counts, which distances do not hold).
        window: see the rules.
        epsilon: see the rules.

    Raises:
        ConfigError: the rule cannot be read from distances, its settings are out of range, or the matrix is not square.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ConfigError(f"distance matrix has shape {distances.shape}; give a square one")
    if rule not in ("paper", "authors_code"):
        raise ConfigError(f"rule {rule!r} cannot be read from distances; give 'paper' or 'authors_code'")
    check_rule(rule, window, epsilon)
    consecutive: list[float] = []
    for newest in range(1, distances.shape[0]):
        consecutive.append(float(distances[newest, newest - 1]))
        to_previous = [float(distances[newest, newest - j]) for j in range(1, newest + 1)]
        fired = (
            fires_paper(consecutive, window=window, epsilon=epsilon)
            if rule == "paper"
            else fires_authors_code(to_previous, window=window, epsilon=epsilon)
        )
        if fired:
            return newest + 1
    return None
