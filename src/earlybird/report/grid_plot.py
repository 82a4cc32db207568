"""Accuracy against total cost: a panel for each ratio of a grid, each method named beside the panel.

Cost is MACs of search and training as a multiple of the reference's, on a logarithmic axis. A filled point is the full
schedule, a hollow one the same method with its schedule set to the reference's cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from earlybird.report.grid import DENSE, RatioResults
from earlybird.report.plots import CUT, DENSE_INK, INK, SLIM, figure_file

_INCHES_A_NAME, _LEAST_PANEL, _BETWEEN, _HEAD, _WIDTH = 0.19, 2.6, 0.75, 0.85, 10.0
_LEFT, _RIGHT = 0.07, 0.66
_COSTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Measured(Protocol):
    """A mark of a picture: it has an accuracy in percent."""

    @property
    def accuracy(self) -> float:
        """In percent."""


Mark = TypeVar("Mark", bound=Measured)


@dataclass(frozen=True)
class Point:
    """One mark: mean accuracy in percent and its deviation, at a multiple of the reference's cost."""

    name: str
    cost: float
    accuracy: float
    deviation: float
    is_full: bool


def plot_grid(results: Sequence[RatioResults], reference: str, topic: str, path: str | Path) -> Path | None:
    """Draw a panel for each ratio of a grid that has costs to show; None where none has.

    Runs under a budget are those of `pareto_plot`. The title ends with `topic`: network, data, schedule and recipe. The
    suffix of the path names the format.
    """
    free = [result for result in results if not result.budget]
    panels = [(result, found) for result in free if (found := points_of(result))]
    if not panels:
        return None
    heights = [max(_LEAST_PANEL, _INCHES_A_NAME * len(found)) for _, found in panels]
    inches = _HEAD + sum(heights) + _BETWEEN * len(panels)
    caption = (
        f"Cost: MACs of search and training, {reference} = 1. Filled: full schedule; hollow: made to cost that. "
        "Bars: ± deviation over seeds."
    )
    with figure_file(path, f"Test accuracy against total cost: {topic}", caption, (_WIDTH, inches)) as figure:
        top = inches - _HEAD
        for (result, found), height in zip(panels, heights, strict=True):
            box = (_LEFT, (top - height) / inches, _RIGHT - _LEFT, height / inches)
            _panel(figure.add_axes(box), found, reference, result.prune_ratio)
            top -= height + _BETWEEN
    return Path(path)


def points_of(result: RatioResults) -> list[Point]:
    """Marks of one ratio, those at equal cost that are not the full run itself among them."""
    matched = [line for line in result.equal_cost if line not in result.equal_ratio]
    return [
        Point(line.name, line.cost_ratio, 100 * accuracy.mean, 100 * (accuracy.std or 0.0), is_full)
        for lines, is_full in ((result.equal_ratio, True), (matched, False))
        for line in lines
        if (accuracy := line.spread("accuracy")) is not None and line.cost_ratio is not None
    ]


def _panel(axes: Axes, points: Sequence[Point], reference: str, ratio: float) -> None:
    axes.set_title(f"p = {ratio:g}" if ratio else "all", fontsize=10, loc="left")
    axes.set_xscale("log")
    costs = [point.cost for point in points]
    axes.set_xlim(0.85 * min(costs), 1.18 * max(costs))
    shown = in_view(points)
    low, high = min(p.accuracy - p.deviation for p in shown), max(p.accuracy + p.deviation for p in shown)
    room = 0.06 * max(high - low, 1.0)
    axes.set_ylim(low - room, high + room)
    axes.xaxis.set_major_locator(FixedLocator(_COSTS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"total cost / {reference}")
    axes.set_ylabel("test accuracy, %")
    axes.axvline(1.0, color=CUT, linewidth=0.9, linestyle=":", zorder=1)
    full = {point.name: point for point in points if point.is_full}
    for point in points:
        if not point.is_full and (start := full.get(point.name)) is not None:
            ends = [start.cost, point.cost], [start.accuracy, point.accuracy]
            axes.plot(*ends, color="#C9D0D8", linewidth=0.8, zorder=2)
    for point in shown:
        ink = _ink(point.name, reference)
        axes.errorbar(
            point.cost, point.accuracy, yerr=point.deviation or None, color=ink, marker="o", markersize=5.5,
            markerfacecolor=ink if point.is_full else "white", elinewidth=1.0, capsize=2, linestyle="none", zorder=4,
        )  # fmt: skip
    _name(axes, points, shown, reference)


def in_view(points: Sequence[Mark]) -> list[Mark]:
    """Points without those so far below that they would compress the axis; these are named all the same."""
    values = sorted(point.accuracy for point in points)
    middle, best = values[len(values) // 2], values[-1]
    least = middle - max(10.0, 4 * (best - middle))
    return [point for point in points if point.accuracy >= least]


def _name(axes: Axes, points: Sequence[Point], shown: Sequence[Point], reference: str) -> None:
    """Draw the names to the right of the panel in the order of their accuracies, each with a line to its point."""
    low, high = axes.get_ylim()
    ordered = sorted(points, key=lambda point: (-point.accuracy, point.name))
    step, right = (high - low) / len(ordered), axes.get_xlim()[1]
    # From the middle of the text's left edge: from its middle it would cross the names above and below.
    style = {"arrowstyle": "-", "color": "#DDE1E6", "linewidth": 0.6, "relpos": (0.0, 0.5), "shrinkB": 3}
    for number, point in enumerate(ordered):
        is_shown = point in shown
        text = f"{point.accuracy:.2f}  {point.name}" + ("" if point.is_full else ", equal cost")
        axes.annotate(
            text if is_shown else f"{text} (below)", (point.cost, point.accuracy),
            xytext=(right * 1.03, high - (number + 0.5) * step), fontsize=8, va="center",
            color=_ink(point.name, reference), annotation_clip=False, arrowprops=style if is_shown else None,
        )  # fmt: skip


def _ink(name: str, reference: str) -> str:
    return SLIM if name == reference else DENSE_INK if name == DENSE else INK
