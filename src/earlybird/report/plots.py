"""Figures of one run: distance between its masks, accuracy, kept channels (You et al. 2020, Figure 3).

Each `plot_*` reads one record and writes one file; the suffix of the path names the format (`.svg`, `.png`, `.pdf`).
`figure_file` is the style of all figures: the same record gives the same bytes, anywhere.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earlybird.atomic import write_atomically
from earlybird.core.stop_rules import STOP_RULES
from earlybird.errors import RunFolderError
from earlybird.report import comparison
from earlybird.report.quantities import percent

# Grey is the dense network, blue the slim one, red the moment of the cut, in every figure.
DENSE_INK = "#7B8794"
DENSE_LIGHT = "#DDE1E6"
SLIM = "#1F6FB2"
CUT = "#C8102E"
INK = "#1F2933"
MUTED = "#66707C"

HALO = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
"""Box behind a label, so that lines under it do not cross its letters."""

LOOK = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same outlines on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#B4BBC4",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E8EBEF",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "earlybird",  # element ids are drawn at random without it
}

_ROWS_PER_COLUMN = 52
_Points = list[tuple[float, Mapping[str, Any]]]  # epochs trained so far in all, metrics row


def plot_run(record: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Draw the figures of a run as far as its record has the numbers; returns the files written.

    `accuracy.svg` always; `mask_distance.svg` where masks were drawn; `kept_channels.svg` where channels were cut.
    """
    folder = Path(folder)
    written = [plot_accuracy(record, folder / "accuracy.svg")]
    if (record.get("ticket") or {}).get("distances"):
        written.append(plot_mask_distance(record, folder / "mask_distance.svg"))
    if comparison.is_cut(record):
        written.append(plot_kept_channels(record, folder / "kept_channels.svg"))
    return written


def plot_mask_distance(record: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the mask distance between consecutive draws against completed epochs, with epsilon, window and cut.

    Raises:
        RunFolderError: the run drew fewer than two masks, so that it has no distance.
    """
    ticket = record.get("ticket") or {}
    if not ticket.get("distances") or not ticket.get("distance_epochs"):
        raise RunFolderError(f"run '{record['run_id']}' has no mask distances to plot; it drew fewer than two masks")
    with figure_file(path, "Mask distance between consecutive draws", _caption(record)) as figure:
        total_epochs = float(ticket.get("total_epochs") or comparison.scheduled_epochs(record))
        distance_axes(figure.add_axes((0.085, 0.125, 0.895, 0.65)), ticket, total_epochs)
    return Path(path)


def plot_accuracy(record: Mapping[str, Any], path: str | Path) -> Path:
    """Draw training, validation and final test accuracy in percent against epochs trained, phase after phase."""
    with figure_file(path, "Accuracy while training", _caption(record)) as figure:
        accuracy_axes(figure.add_axes((0.085, 0.125, 0.895, 0.70)), record)
    return Path(path)


def plot_kept_channels(record: Mapping[str, Any], path: str | Path) -> Path:
    """Draw a bar per layer: channels of the dense network (light) and channels kept (dark), with percentages.

    Raises:
        RunFolderError: the run lists no layers, as a dense run does.
    """
    layers = record.get("layers") or []
    if not layers:
        raise RunFolderError(f"run '{record['run_id']}' lists no layers to plot; it cut nothing")
    columns = math.ceil(len(layers) / _ROWS_PER_COLUMN)
    rows = math.ceil(len(layers) / columns)
    # Inches of a row, and of a letter at the size of the names, which get the room they need.
    row, letter = (0.29, 0.075) if len(layers) <= 24 else (0.21, 0.063)
    width, height = 8.0 if columns == 1 else 6.4 * columns, 1.15 + row * rows
    share, names = width / columns, 0.25 + letter * max(len(layer["name"]) for layer in layers)
    kept, dense = sum(layer["kept"] for layer in layers), sum(layer["dense"] for layer in layers)
    caption = f"{_caption(record)}  ·  {kept:,} of {dense:,} channels kept ({percent(kept / dense)})"
    widest = max(layer["dense"] for layer in layers)
    with figure_file(path, "Channels kept, layer by layer", caption, (width, height), x=0.16 / width) as figure:
        for column in range(columns):
            left, bars = (column * share + names) / width, (share - names - 0.2) / width
            axes = figure.add_axes((left, 0.12 / height, bars, 1 - 1.12 / height))
            kept_axes(axes, layers[column * rows : (column + 1) * rows], rows, widest)
            if column == 0:
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.2)
    return Path(path)


def distance_axes(axes: Axes, ticket: Mapping[str, Any], total_epochs: float) -> None:
    """Draw the distances, in [0, 1], of a record's `ticket`, found or searched for in vain, over completed epochs.

    Without epochs of the whole schedule (0) the upper axis is left out.
    """
    epochs, distances = ticket["distance_epochs"], ticket["distances"]
    cut = None if ticket.get("none") else float(ticket["epoch"])
    axes.plot(epochs, distances, color=MUTED, linewidth=1.4, marker="o", markersize=4.5 if len(epochs) <= 60 else 2.5)
    axes.set_xlim(0, max(epochs[-1], cut or 0.0) * 1.06)
    axes.set_ylim(0, max(*distances, ticket.get("epsilon") or 0.0) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("completed epochs")
    axes.set_ylabel("mask distance  (0 = same mask)")
    rule = STOP_RULES.get(str(ticket.get("rule")))
    # A rule that compares no distances has no line here.
    reads_distances = (rule is None or rule.reads_distances) and ticket.get("epsilon") is not None
    if reads_distances:
        _draw_epsilon(axes, ticket)
    if cut is None:
        at, words = axes.get_xlim()[1], "no ticket: the mask never held still\nfor as long as the rule asks"
    else:
        axes.axvline(cut, color=CUT, linewidth=1.6, zorder=3)
        fired = _draw_window(axes, ticket) if reads_distances else 0
        at, words = cut, f"ticket drawn after {cut:.4g} epochs"
        if total_epochs:
            words += f"\n{percent(ticket['fraction_of_schedule'])} of the {total_epochs:g}-epoch schedule"
        if fired:
            words += f"\n○ the {fired} distances that fired the rule"
    _red_label(axes, words, (at, 1), (9, -5), is_left=at > 0.5 * axes.get_xlim()[1], va="top", linespacing=1.4)
    if total_epochs:
        to_percent, to_epochs = 100 / total_epochs, total_epochs / 100
        both = (lambda epochs: epochs * to_percent, lambda percents: percents * to_epochs)
        top = axes.secondary_xaxis("top", functions=both)
        top.set_xlabel("share of the schedule", fontsize=9, color=MUTED)
        top.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        top.tick_params(labelsize=8.5)


def _draw_epsilon(axes: Axes, ticket: Mapping[str, Any]) -> None:
    epsilon, ratio = ticket["epsilon"], ticket.get("prune_ratio") or 0.0
    axes.axhline(epsilon, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
    chance = 2 * ratio * (1 - ratio)  # the distance of two independent masks of this ratio
    against = f"  ({percent(epsilon / chance)} of chance)" if chance else ""
    transform = axes.get_yaxis_transform()
    _label(axes, f"ε = {epsilon:g}{against}", (0, epsilon), (6, 5), fontsize=9, xycoords=transform)


def _draw_window(axes: Axes, ticket: Mapping[str, Any]) -> int:
    """Ring the consecutive distances that fired the rule; returns how many."""
    drawn = [place for place, epoch in enumerate(ticket["distance_epochs"]) if epoch <= ticket["epoch"] + 1e-9]
    rule = STOP_RULES.get(str(ticket.get("rule")))
    # The first draw has no distance; every other one up to the earliest that fires has one that the rule reads.
    count = max(rule.earliest(int(ticket.get("window") or 0)) - 1, 0) if rule else 0
    fired = drawn[-count:] if count else []
    epochs, distances = ([ticket[key][place] for place in fired] for key in ("distance_epochs", "distances"))
    axes.plot(
        epochs, distances, linestyle="none", marker="o", markersize=8, markerfacecolor="white", markeredgecolor=CUT,
        markeredgewidth=1.8, zorder=5, clip_on=False,
    )  # fmt: skip
    return len(fired)


def accuracy_axes(axes: Axes, record: Mapping[str, Any]) -> None:
    """Draw accuracies in percent over the epochs trained in all, search and retraining one after the other."""
    ticket = comparison.drawn_ticket(record)
    cut = None if ticket is None else float(ticket["epoch"])
    phases = _epochs_trained(record["metrics"], cut)
    last = max((points[-1][0] for points in phases.values()), default=1.0)
    look: dict[str, Any] = {"markersize": 3.5 if last <= 60 else 0}
    train = look | {"linewidth": 1.9, "marker": "o"}
    val = look | {"linewidth": 1.3, "linestyle": (0, (4, 2)), "marker": "s", "markerfacecolor": "white"}
    for phase, points in phases.items():
        color, label = DENSE_INK, "dense network" if cut is not None or len(phases) == 1 else phase
        if cut is not None and phase == "retrain":
            color, label = SLIM, "slim network" if comparison.is_cut(record) else "retraining"
        for name, key, style in (("training", "train_accuracy", train), ("validation", "val_accuracy", val)):
            if measured := [(epoch, 100 * row[key]) for epoch, row in points if row.get(key) is not None]:
                axes.plot(*zip(*measured, strict=True), color=color, label=f"{label}, {name}", **style)
    axes.set_xlabel("epochs trained")
    axes.set_ylabel("accuracy (%)")
    if (accuracy := (record.get("test") or {}).get("accuracy")) is not None:  # read once, after the last epoch
        star: dict[str, Any] = {"marker": "*", "markersize": 14, "zorder": 6, "clip_on": False}
        axes.plot([last], [100 * accuracy], linestyle="none", color=INK, **star)
        words, at = f"test\n{100 * accuracy:.2f} %", (last, 100 * accuracy)
        _label(axes, words, at, (11, 0), va="center", fontweight="bold", zorder=6, annotation_clip=False)
    axes.margins(y=0.12)
    axes.set_xlim(0, last * 1.14)
    ticks = MaxNLocator(nbins=9, integer=True, steps=[1, 2, 5, 10]).tick_values(0, last)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= last])
    if phases:
        axes.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)
    if cut is not None:
        axes.axvline(cut, color=CUT, linewidth=1.6, zorder=3)
        words = f"{'cut' if comparison.is_cut(record) else 'ticket'} after {cut:.4g} epochs"
        _red_label(axes, words, (cut, 0), (8, 8), is_left=cut > 0.5 * last)


def _epochs_trained(metrics: Sequence[Mapping[str, Any]], cut: float | None) -> dict[str, _Points]:
    """Phase -> (epochs trained so far in all, metrics row), in order of training.

    A row's epoch counts completed epochs of the schedule, a fraction where the search ended inside one. Retraining that
    restarts or rewinds the schedule counts anew: its rows move right by what it repeats, which was trained as well.
    """
    phases: dict[str, _Points] = {}
    for row in metrics:
        phases.setdefault(str(row["phase"]), []).append((float(row["epoch"]), row))
    if cut is not None and (retrain := phases.get("retrain")):
        start = retrain[0][0] - 1
        if start < math.floor(cut):
            phases["retrain"] = [(epoch + cut - start, row) for epoch, row in retrain]
    return phases


def kept_axes(axes: Axes, layers: Sequence[Mapping[str, Any]], rows: int, widest: int) -> None:
    """Draw the layers of one column from the top down, each with the share kept at its bar and the counts at the right.

    The axes lose their ticks and frame. The layers of a full column (`rows`) and the network's `widest` layer make bars
    equally thick, and comparable, in all columns.
    """
    places = list(range(len(layers)))
    size = 9 if rows <= 24 else 7.5
    axes.hlines(places, 0, 1, transform=axes.get_yaxis_transform(), color="#EEF0F3", linewidth=0.8, zorder=0)
    axes.barh(places, [layer["dense"] for layer in layers], height=0.72, color=DENSE_LIGHT, label="dense network")
    axes.barh(places, [layer["kept"] for layer in layers], height=0.72, color=SLIM, label="kept")
    box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none"}  # interrupts the row's line
    style: dict[str, Any] = {"va": "center", "fontsize": size, "bbox": box}
    for place, layer in enumerate(layers):
        kept, dense = layer["kept"], layer["dense"]
        whole = int(100 * kept / dense + 0.5)
        share = min(whole, 99) if kept < dense else whole  # 100 % only for a layer that lost nothing
        _label(axes, f"{share} %", (dense, place), (4, 0), color=INK, zorder=3, **style)
        right = axes.get_yaxis_transform()
        axes.text(1, place, f"{kept} / {dense}", transform=right, ha="right", color=MUTED, **style)
    axes.set_yticks(places, [layer["name"] for layer in layers], fontsize=size, color=INK)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, widest * 1.30)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _caption(record: Mapping[str, Any]) -> str:
    """One line under a title: network, data, method, p, seed."""
    parts = [f"{comparison.model_label(record)} on {comparison.data_label(record)}", comparison.method_label(record)]
    if (ratio := comparison.requested_ratio(record)) is not None:
        parts.append(f"p = {ratio:g}")
    if (seed := comparison.seed_of(record)) is not None:
        parts.append(f"seed {seed}")
    return "  ·  ".join(parts)


def _label(axes: Axes, words: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Draw text in a white box at an offset in points; `style` goes to matplotlib's `annotate`."""
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9.5, "bbox": HALO, "zorder": 4}
    axes.annotate(words, xy=at, xytext=offset, **(look | style))


def _red_label(
    axes: Axes, words: str, at: tuple[float, float], offset: tuple[float, float], *, is_left: bool, **style: Any
) -> None:
    """Draw red text beside a vertical line; `at` is an epoch and a height in [0, 1] of the axes."""
    side = {"ha": "right" if is_left else "left", "xycoords": axes.get_xaxis_transform()}
    offset = (-offset[0], offset[1]) if is_left else offset
    _label(axes, words, at, offset, color=CUT, fontweight="bold", **side, **style)


@contextmanager
def figure_file(
    path: str | Path, heading: str, caption: str, inches: tuple[float, float] = (8.0, 4.6), *, x: float = 0.02
) -> Iterator[Figure]:
    """Hand out a new figure of that size and write it at the end; the suffix of the path names the format.

    A bold heading and a muted caption stand in its top 0.62 inches, from `x` on. The global state of matplotlib is left
    as found: no pyplot, and the look holds inside this context only.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(LOOK, after_reset=True):
        figure = Figure(figsize=inches)
        FigureCanvasAgg(figure)
        figure.text(x, 1 - 0.14 / inches[1], heading, va="top", fontsize=13, fontweight="bold")
        figure.text(x, 1 - 0.42 / inches[1], caption, va="top", fontsize=9.5, color=MUTED)
        yield figure
        # A date would make every rewrite of an unchanged run a change.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], dpi=110, metadata=metadata)
        write_atomically(path, buffer.getvalue())
