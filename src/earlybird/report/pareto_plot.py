"""Picture of accuracy against cost under budgets: a panel for each measure of cost, a curve for each method.

The methods differ in marker and dashes as well as in colour, so that it can be read in grey; the colours are those of
Okabe and Ito, told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from earlybird.report.grid import DENSE, RatioResults
from earlybird.report.grid_plot import in_view
from earlybird.report.pareto import MACS, SPENT_TIME, STEP_TIME, Curve, ParetoPoint, curves_of, is_on_cpu, non_dominated
from earlybird.report.plots import DENSE_INK, INK, figure_file
from earlybird.report.quantities import si

_SIZE = (11.0, 7.4)
_LARGE = (0.065, 0.475, 0.62, 0.415)
_SMALL = ((0.065, 0.08, 0.285, 0.27), (0.40, 0.08, 0.285, 0.27))
_LEGEND = (0.705, 0.90)
_INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
# Points of nearly equal cost, by this share of the axis, stand side by side, so many points of an inch apart.
_SAME_COST, _APART = 0.012, 5.5
_LEAST_ROOM = 0.08
_LETTERS, _LINES = 40, 50
_MARK: dict[str, Any] = {
    "markersize": 6, "linewidth": 1.2, "markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 4,
}  # fmt: skip
_RING: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgecolor": INK,
    "markeredgewidth": 1.1, "zorder": 5,
}  # fmt: skip
_WHOLE: dict[str, Any] = {"color": DENSE_INK, "linewidth": 1.0, "linestyle": (0, (2, 3)), "zorder": 1}


def plot_pareto(results: Sequence[RatioResults], topic: str, path: str | Path) -> Path | None:
    """Draw test accuracy against cost, as far as the runs have budgets; None where none has.

    The title ends with `topic`: network, data, schedule and recipe. The suffix of the path names the format.
    """
    found = {measure: curves_of(results, measure) for measure in (STEP_TIME, SPENT_TIME, MACS)}
    panels = [measure for measure, curves in found.items() if sum(len(curve.points) for curve in curves) > 1]
    if not panels or not any(result.budget and any(line.rows for line in result.equal_ratio) for result in results):
        return None
    names = list(dict.fromkeys(curve.name for measure in panels for curve in found[measure]))
    looks = dict(zip(names, _looks(names), strict=True))
    heading, caption = f"Test accuracy against cost: {topic}", _caption([c for m in panels for c in found[m]])
    whole = next((spread.mean for r in results if r.whole and (spread := r.whole.spread("accuracy"))), None)
    with figure_file(path, heading, caption, _SIZE) as figure:
        for measure, box in zip(panels, (_LARGE, *_SMALL), strict=False):
            axes = figure.add_axes(box)
            _panel(axes, found[measure], looks)
            _name_cost(axes, measure, is_cpu=is_on_cpu(results))
            axes.set_ylabel("test accuracy, %" if box[0] == _LARGE[0] else "")
            if whole is not None:
                axes.axhline(100 * whole, **_WHOLE)
        _legend(figure, {_label(name, found[panels[0]]): look for name, look in looks.items()}, whole is not None)
    return Path(path)


def _looks(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    number = 0
    for name in names:
        if name == DENSE:
            yield {"color": DENSE_INK, "marker": "o", "linestyle": "-"}
            continue
        ink, marker, dashes = _INKS[number % len(_INKS)], _MARKERS[number % len(_MARKERS)], _DASHES[number % 4]
        yield {"color": ink, "marker": marker, "linestyle": dashes}
        number += 1


def _caption(curves: Sequence[Curve]) -> str:
    seeds = sorted({point.n for curve in curves for point in curve.points})
    told = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    bars = "" if seeds[-1] == 1 else ". Bars: ± sample standard deviation"
    single = " (none for one seed)" if seeds[0] == 1 and bars else ""
    means = f"Mean over n = {told} seed{'s' if seeds[-1] > 1 else ''}{bars}{single}"
    return f"{means}. Points of nearly equal cost stand side by side."


def _panel(axes: Axes, curves: Sequence[Curve], looks: dict[str, dict[str, Any]]) -> None:
    shown = in_view([point for curve in curves for point in curve.points])
    costs = [point.cost for point in shown]
    low, high = min(p.accuracy - p.deviation for p in shown), max(p.accuracy + p.deviation for p in shown)
    # Room at both sides for points that are moved aside, so much that one budget is one place; above for the rings.
    room, height = max(0.08 * (max(costs) - min(costs)), _LEAST_ROOM * max(costs)), max(high - low, 0.5)
    axes.set_xlim(min(costs) - room, max(costs) + room)
    axes.set_ylim(low - 0.08 * height, high + 0.12 * height)
    places, best = _side_by_side(axes, curves), non_dominated(shown)
    for curve in curves:
        kept, look = [point for point in curve.points if point in shown], looks[curve.name]
        at = [places[curve.name, point] for point in kept]
        for x, point in zip(at, kept, strict=True):
            if point.deviation:
                axes.errorbar(x, point.accuracy, yerr=point.deviation, color=look["color"], elinewidth=0.9, capsize=2.5)
            if point in best:
                axes.plot(x, point.accuracy, **_RING)
        axes.plot(at, [point.accuracy for point in kept], **_MARK, **look)


def _name_cost(axes: Axes, measure: str, *, is_cpu: bool) -> None:
    names = {
        STEP_TIME: "training time / dense, by measured step times, search included",
        SPENT_TIME: f"{'CPU ' if is_cpu else ''}seconds spent on search and training",
        MACS: "MACs of search and training",
    }
    axes.set_xlabel(names[measure])
    axes.tick_params(labelsize=8.5)
    form = _short_si if measure == MACS else "{:g}".format
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def _short_si(value: float) -> str:
    """`20 T`, not `20.0 T`."""
    number, space, prefix = si(value).partition(" ")
    return f"{float(number):g}{space}{prefix}"


def _side_by_side(axes: Axes, curves: Sequence[Curve]) -> dict[tuple[str, ParetoPoint], float]:
    """Horizontal place of each point: its cost, moved aside where others have nearly the same."""
    left, right = axes.get_xlim()
    inches = axes.get_position().width * axes.figure.get_figwidth()  # type: ignore[union-attr]
    apart = _APART / 72 / inches * (right - left)
    every = sorted(((point.cost, number) for number, curve in enumerate(curves) for point in curve.points))
    by_place = {(point.cost, n): (curve.name, point) for n, curve in enumerate(curves) for point in curve.points}
    places: dict[tuple[str, ParetoPoint], float] = {}
    while every:
        near = [found for found in every if found[0] - every[0][0] <= _SAME_COST * (right - left)]
        every = every[len(near) :]
        for place, found in enumerate(sorted(near, key=lambda found: found[1])):
            places[by_place[found]] = found[0] + (place - (len(near) - 1) / 2) * apart
    return places


def _label(name: str, curves: Sequence[Curve]) -> str:
    """Name of a method, in lines of a legend, with what lies too far below to be drawn."""
    shown = in_view([point for curve in curves for point in curve.points])
    below = [point for curve in curves if curve.name == name for point in curve.points if point not in shown]
    told = "".join(f"\n   not drawn: {point.accuracy:.2f} % at {point.cost:.2g}" for point in below)
    return (name if len(name) <= _LETTERS else name.replace(":", ":\n   ")) + told


def _legend(figure: Figure, looks: dict[str, dict[str, Any]], has_whole: bool) -> None:
    """Names of the methods, and what the ring and the line mean, to the right of the panels."""
    named: dict[str, Any] = {label: Line2D([], [], **_MARK | look) for label, look in looks.items()}
    if has_whole:
        named["dense, full schedule"] = Line2D([], [], **_WHOLE)
    named["not dominated: none is more accurate\nat the same cost (within 3 %) or less"] = Line2D([], [], **_RING)
    lines = sum(1.6 + label.count("\n") for label in named)
    figure.legend(
        list(named.values()), list(named), loc="upper left", bbox_to_anchor=_LEGEND, borderaxespad=0,
        fontsize=8.5 * min(1.0, _LINES / lines), labelspacing=0.9, handlelength=3.2,
    )  # fmt: skip
