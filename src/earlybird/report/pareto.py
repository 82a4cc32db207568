"""Accuracy against cost under budgets: a curve for each method over its budgets, and which points are not dominated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earlybird.report.grid import EQUAL_COST, GridLine, RatioResults
from earlybird.report.quantities import rows_of

STEP_TIME, SPENT_TIME, MACS = "step time", "spent time", "macs"
"""Measures of cost: step time, as a share of the dense training's; seconds spent on search and training; their MACs."""


@dataclass(frozen=True)
class ParetoPoint:
    """Mean accuracy in percent of a method under one budget, its deviation over n seeds, at its mean cost."""

    cost: float
    accuracy: float
    deviation: float
    n: int


@dataclass(frozen=True)
class Curve:
    """Points of one method, in the order of their costs."""

    name: str
    points: tuple[ParetoPoint, ...]


def curves_of(results: Sequence[RatioResults], measure: str) -> list[Curve]:
    """Curves of all methods, in the order of the tables; a point for each budget and for runs without one.

    Without points: runs whose cost in this measure is not known, and seconds that cannot be compared with the dense
    run's (another device or number of threads).
    """
    key = _key(results, measure)
    curves: dict[str, dict[ParetoPoint, None]] = {}
    for name, line in _named_lines(results):
        timed = [row for row in line.rows if measure != SPENT_TIME or row["is_timed_alike"] is not False]
        group = GridLine(line.name, tuple(row for row in timed if row.get(key) is not None), None, None, 0)
        cost, accuracy = group.spread(key), group.spread("accuracy")
        if cost is not None and accuracy is not None:
            point = ParetoPoint(cost.mean, 100 * accuracy.mean, 100 * (accuracy.std or 0.0), accuracy.n)
            curves.setdefault(name, {})[point] = None
    return [Curve(name, tuple(sorted(points, key=lambda point: point.cost))) for name, points in curves.items()]


def is_on_cpu(results: Sequence[RatioResults]) -> bool:
    """True if all runs were computed on CPUs, so that their CPU seconds say more than those of the clock."""
    rows = [row for result in results for row in rows_of(result.equal_ratio)]
    return all(row["device"].startswith("cpu") for row in rows)


def non_dominated(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """Points that no other beats: more accurate, and not dearer by more than `EQUAL_COST`.

    By the means alone: an interval may still hold two of them level.
    """
    return [
        point
        for point in points
        if not any(
            other.cost <= (1 + EQUAL_COST) * point.cost
            and (
                other.accuracy > point.accuracy
                or (other.accuracy == point.accuracy and (1 + EQUAL_COST) * other.cost < point.cost)
            )
            for other in points
        )
    ]


def _key(results: Sequence[RatioResults], measure: str) -> str:
    seconds = "training_cpu_seconds" if is_on_cpu(results) else "training_wall_seconds"
    return {STEP_TIME: "time_share", SPENT_TIME: seconds, MACS: "training_macs"}[measure]


def _named_lines(results: Sequence[RatioResults]) -> list[tuple[str, GridLine]]:
    """Lines with the names of their curves: with p where a method has runs at several.

    Settings that differ from budget to budget (`cuts`) are one curve, `NAME:cuts=…`.
    """
    ratios: dict[tuple[str, str, frozenset[str]], set[float]] = {}
    lines = [(result, line) for result in results for line in result.equal_ratio if line.rows]
    for result, line in lines:
        ratios.setdefault(_runs(result, line), set()).add(result.prune_ratio)
    several = {result.budget for result in results if result.prune_ratio != _first(results, result.budget)}
    named = []
    for result, line in lines:
        is_of_p = result.budget in several and len(ratios[_runs(result, line)]) == 1
        name = _family(line.name, results)
        named.append((f"{name}, p = {result.prune_ratio:g}" if is_of_p else name, line))
    return named


def _first(results: Sequence[RatioResults], budget: str) -> float:
    return next(result.prune_ratio for result in results if result.budget == budget)


def _runs(result: RatioResults, line: GridLine) -> tuple[str, str, frozenset[str]]:
    return result.budget, line.name, frozenset(row["run_id"] for row in line.rows)


def _family(name: str, results: Sequence[RatioResults]) -> str:
    """Name of a method without the values of its settings, if no budget has two that differ in these alone."""
    plain = _without_values(name)
    for result in results:
        names = {line.name for line in result.equal_ratio if _without_values(line.name) == plain}
        if len(names) > 1:
            return name
    every = {line.name for result in results for line in result.equal_ratio if _without_values(line.name) == plain}
    return name if len(every) == 1 else plain


def _without_values(name: str) -> str:
    method, *settings = name.split(":")
    return ":".join([method, *(f"{setting.partition('=')[0]}=…" for setting in settings)])
