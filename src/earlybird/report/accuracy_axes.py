"""The axes of the accuracy figure: training and validation per epoch, the cut, the one final test accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from earlybird.report.canvas import CUT, DENSE_INK, HALO, INK, SLIM, cut_line
from earlybird.report.labels import drawn_ticket, is_cut


def accuracy_axes(axes: Axes, record: Mapping[str, Any]) -> None:
    """Draw accuracies in percent over the epochs trained in all, search and retraining one after the other."""
    ticket = drawn_ticket(record)
    cut = None if ticket is None else float(ticket["epoch"])
    phases = _epochs_trained(record["metrics"], cut)
    last = max((points[-1][0] for points in phases.values()), default=1.0)
    for phase, points in phases.items():
        color, label = _phase_look(phase, cut is not None, is_cut(record), len(phases))
        size = 3.5 if last <= 60 else 0
        train = {"linewidth": 1.9, "marker": "o", "markersize": size}
        _draw_curve(axes, points, "train_accuracy", color, f"{label}, training", train)
        val = {
            "linewidth": 1.3,
            "linestyle": (0, (4, 2)),
            "marker": "s",
            "markersize": size,
            "markerfacecolor": "white",
        }
        _draw_curve(axes, points, "val_accuracy", color, f"{label}, validation", val)
    axes.set_xlabel("epochs trained")
    axes.set_ylabel("accuracy (%)")
    _draw_test(axes, record, last)
    axes.margins(y=0.12)
    axes.set_xlim(0, last * 1.14)
    ticks = MaxNLocator(nbins=9, integer=True, steps=[1, 2, 5, 10]).tick_values(0, last)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= last])
    if phases:
        axes.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)
    if cut is not None:
        _draw_cut(axes, cut, last, "cut" if is_cut(record) else "ticket")


def _draw_curve(
    axes: Axes,
    points: Sequence[tuple[float, Mapping[str, Any]]],
    key: str,
    color: str,
    label: str,
    style: dict[str, Any],
) -> None:
    """One accuracy of one phase, where it was measured."""
    measured = [(epoch, 100 * row[key]) for epoch, row in points if row.get(key) is not None]
    if measured:
        epochs, values = zip(*measured, strict=True)
        axes.plot(epochs, values, color=color, label=label, **style)


def _draw_cut(axes: Axes, cut: float, last: float, noun: str) -> None:
    cut_line(axes, cut)
    is_left = cut > 0.5 * last
    axes.annotate(
        f"{noun} after {cut:.4g} epochs",
        xy=(cut, 0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-8 if is_left else 8, 8),
        textcoords="offset points",
        ha="right" if is_left else "left",
        fontsize=9.5,
        fontweight="bold",
        color=CUT,
        bbox=HALO,
        zorder=4,
    )


def _epochs_trained(
    metrics: Sequence[Mapping[str, Any]], cut: float | None
) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Phase -> (epochs trained so far in all, metrics row), in order of training.

    A row's epoch counts completed epochs of the schedule, a fraction where the search ended inside one. Retraining that
    restarts or rewinds the schedule counts anew: its rows move right by what it repeats, which was trained as well.
    """
    phases: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row in metrics:
        phases.setdefault(str(row["phase"]), []).append((float(row["epoch"]), row))
    retrain = phases.get("retrain", [])
    start = retrain[0][0] - 1 if retrain else 0.0
    if cut is not None and start < math.floor(cut):
        phases["retrain"] = [(epoch + cut - start, row) for epoch, row in retrain]
    return {phase: points for phase, points in phases.items() if points}


def _phase_look(phase: str, has_ticket: bool, is_slim: bool, phases: int) -> tuple[str, str]:
    """Colour and words of a phase: grey is dense, blue is slim."""
    if has_ticket and phase == "retrain":
        return SLIM, "slim network" if is_slim else "retraining"
    return DENSE_INK, "dense network" if has_ticket or phases == 1 else phase


def _draw_test(axes: Axes, record: Mapping[str, Any], last: float) -> None:
    """The test accuracy, read once after the last epoch, as a labelled star on the last epoch."""
    accuracy = (record.get("test") or {}).get("accuracy")
    if accuracy is None:
        return
    axes.plot([last], [100 * accuracy], linestyle="none", marker="*", markersize=14, color=INK, zorder=6, clip_on=False)
    axes.annotate(
        f"test\n{100 * accuracy:.2f} %",
        xy=(last, 100 * accuracy),
        xytext=(11, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        fontweight="bold",
        bbox=HALO,
        zorder=6,
        annotation_clip=False,
    )
