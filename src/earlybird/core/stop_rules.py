"""Stop rules of the search, one value each, and the history of masks that they read; nothing here loads torch or numpy.

`paper` is Algorithm 1 of You et al. 2020, `epi` the Early Pruning Indicator of Shen et al. (CVPR 2022), on kept counts
instead of identities. `authors_code` is the condition of their released code, read on our masks: theirs cut int(pN) + 1
channels and every tie, without a floor, which on small networks moves the draw of firing (`docs/method.md` section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earlybird.errors import ConfigError, is_integer, is_number, require

if TYPE_CHECKING:
    import numpy as np

    from earlybird.core.mask import ChannelMask

# Shen et al.'s threshold as a third party's port has it; unverified (`docs/method.md` section 1).
EPI_TAU = 0.983
EPI_LOOKBACK = 5


@dataclass(frozen=True)
class StopRule:
    """Condition on the history of masks that ends the search.

    Attributes:
        name: its name in `STOP_RULES`, options and tickets.
        summary: the condition in one clause, for help texts.
        fires: (history, window, epsilon) -> True if the rule is met after the newest draw.
        earliest: window -> the first draw (1-based) after which the rule can fire.
        masks_needed: window -> masks, >= 1, that the next one is compared with.
        least_window: smallest window that makes sense.
        reads_distances: distances alone decide; otherwise epsilon and the window mean nothing to the rule.
        value: masks, newest last -> a number to remember of this draw (`MaskHistory.values`), or None for none.
    """

    name: str
    summary: str
    fires: Callable[[MaskHistory, int, float], bool]
    earliest: Callable[[int], int]
    masks_needed: Callable[[int], int]
    least_window: int = 1
    reads_distances: bool = True
    value: Callable[[Sequence[ChannelMask]], float | None] = lambda masks: None


class MaskHistory:
    """Draws of one prune ratio, as far as its stop rule reads them.

    Attributes:
        masks: the newest masks, as many as the next one is compared with.
        distances: of consecutive masks, every draw; the first is draw 2 against draw 1.
        values: numbers from `StopRule.value`, every draw that gave one.
        to_previous: distance of the newest mask to the one 1, 2, 3, ... draws before; empty right after `restore`.
    """

    def __init__(self, rule: StopRule, window: int, epsilon: float) -> None:
        self.rule, self.window, self.epsilon = rule, window, epsilon
        self.masks: list[ChannelMask] = []
        self.distances: list[float] = []
        self.values: list[float] = []
        self.to_previous: list[float] = []

    def record(self, mask: ChannelMask, to_previous: Sequence[float]) -> None:
        """Add the newest mask; `to_previous[j]` is its distance to the (j+1)-th mask before it, for all of `masks`."""
        masks = [*self.masks, mask]
        value = self.rule.value(masks)
        self.values += [] if value is None else [value]
        self.masks = masks[-self.rule.masks_needed(self.window) :]
        self.distances += to_previous[:1]
        self.to_previous = list(to_previous)

    def fires(self) -> bool:
        """True if the rule is met by the history so far; right after `restore` it says nothing."""
        return self.rule.fires(self, self.window, self.epsilon)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        masks = [dict(mask) for mask in self.masks]
        return {"masks": masks, "distances": list(self.distances), "epi_values": list(self.values)}

    def restore(self, masks: Sequence[ChannelMask], distances: Sequence[float], values: Sequence[float]) -> None:
        """Restore the parts of a `state_dict`."""
        self.masks, self.to_previous = list(masks), []
        self.distances, self.values = list(map(float, distances)), list(map(float, values))


def _paper_fires(history: MaskHistory, window: int, epsilon: float) -> bool:
    newest = history.distances[-window:]
    return len(newest) == window and all(distance < epsilon for distance in newest)


def _authors_code_fires(history: MaskHistory, window: int, epsilon: float) -> bool:
    nearest = history.to_previous[: window - 1]
    return len(nearest) == window - 1 and all(distance <= epsilon for distance in nearest)


def _epi_fires(history: MaskHistory, window: int, epsilon: float) -> bool:
    newest = history.values[-1 - EPI_LOOKBACK :]
    return len(newest) > EPI_LOOKBACK and newest[-1] >= max(EPI_TAU, *newest[:-1])


def _epi_value(masks: Sequence[ChannelMask]) -> float | None:
    """Mean similarity of the newest kept counts to the 5 before; None while fewer than 6 masks are known.

    Similarity: 1 - mean over layers of |n_a - n_b| / (n_a + n_b), in [0, 1].
    """
    import numpy as np

    if len(masks) <= EPI_LOOKBACK:
        return None
    newest, *earlier = (mask.kept_counts() for mask in reversed(masks[-1 - EPI_LOOKBACK :]))
    apart = [[abs(n - counts[name]) / max(1, n + counts[name]) for name, n in newest.items()] for counts in earlier]
    return float(np.mean([1.0 - float(np.mean(layers)) for layers in apart]))


STOP_RULES: dict[str, StopRule] = {
    rule.name: rule
    for rule in (
        StopRule(
            "paper",
            "the last `window` distances are all < epsilon",
            _paper_fires,
            earliest=lambda window: window + 1,
            masks_needed=lambda window: 1,
        ),
        StopRule(
            "authors_code",
            "the newest of `window` masks lies within epsilon of each other one",
            _authors_code_fires,
            earliest=lambda window: window,
            masks_needed=lambda window: window - 1,
            least_window=2,
        ),
        StopRule(
            "epi",
            "the kept counts of the layers have settled",
            _epi_fires,
            earliest=lambda window: 2 * EPI_LOOKBACK + 1,
            masks_needed=lambda window: EPI_LOOKBACK,
            reads_distances=False,
            value=_epi_value,
        ),
    )
}


def checked_stop_rule(name: str, window: int, epsilon: float) -> StopRule:
    """Stop rule of this name, with its window and threshold checked.

    Raises:
        ConfigError: the rule is unknown, or its window or threshold out of range.
    """
    require("rule", name, name in STOP_RULES, f"one of {', '.join(STOP_RULES)}")
    rule = STOP_RULES[name]
    if not is_integer(window) or window < rule.least_window:
        raise ConfigError(f"window is {window!r}; rule {name!r} needs at least {rule.least_window}")
    require("epsilon", epsilon, is_number(epsilon) and 0.0 < epsilon <= 1.0, "a number in (0, 1]")
    return rule


def first_firing_draw(
    distances: np.ndarray, rule: str = "paper", *, window: int = 5, epsilon: float = 0.1
) -> int | None:
    """Draw (1-based) after which a rule fires on a matrix of pairwise mask distances; None if it never does.

    Args:
        distances: `[draws, draws]`, entry (i, j) = distance between the masks after i+1 and j+1 draws (Figure 3).
        rule: one that reads distances ("epi" needs counts, which distances do not hold).

    Raises:
        ConfigError: the rule cannot be read from distances, its settings are out of range, or the matrix is not square.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ConfigError(f"distance matrix has shape {distances.shape}; give a square one")
    readable = [name for name, known in STOP_RULES.items() if known.reads_distances]
    if rule not in readable:
        raise ConfigError(f"rule {rule!r} cannot be read from distances; give {' or '.join(map(repr, readable))}")
    history = MaskHistory(checked_stop_rule(rule, window, epsilon), window, epsilon)
    for newest in range(1, distances.shape[0]):
        history.to_previous = [float(distances[newest, newest - j]) for j in range(1, newest + 1)]
        history.distances += history.to_previous[:1]
        if history.fires():
            return newest + 1
    return None
