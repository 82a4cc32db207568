"""The three figures of one run: how the mask settled, how accuracy went, what was kept (You et al. 2020, Figure 3).

Each function reads one record and writes one file; the suffix of the path names the format (`.svg`, `.png`, `.pdf`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from earlybird.errors import RunFolderError
from earlybird.report.accuracy_axes import accuracy_axes
from earlybird.report.canvas import percent, save_figure, title
from earlybird.report.distance_axes import distance_axes
from earlybird.report.kept_axes import kept_axes
from earlybird.report.labels import caption, is_cut, scheduled_epochs

ROWS_PER_COLUMN = 52


def plot_run(record: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write the figures that this run has facts for; returns the files written.

    `accuracy.svg` always; `mask_distance.svg` where masks were drawn; `kept_channels.svg` where channels were cut.
    """
    folder = Path(folder)
    written = [plot_accuracy(record, folder / "accuracy.svg")]
    if (record.get("ticket") or {}).get("distances"):
        written.append(plot_mask_distance(record, folder / "mask_distance.svg"))
    if is_cut(record):
        written.append(plot_kept_channels(record, folder / "kept_channels.svg"))
    return written


def plot_mask_distance(record: Mapping[str, Any], path: str | Path) -> Path:
    """Mask distance between consecutive draws against completed epochs, with epsilon, the window and the cut.

    Raises:
        RunFolderError: the run drew fewer than two masks, so that it has no distance.
    """
    ticket = record.get("ticket") or {}
    if not ticket.get("distances") or not ticket.get("distance_epochs"):
        raise RunFolderError(f"run '{record['run_id']}' has no mask distances to plot; it drew fewer than two masks")

    def build(figure: Figure) -> None:
        title(figure, "Mask distance between consecutive draws", caption(record))
        total_epochs = float(ticket.get("total_epochs") or scheduled_epochs(record))
        distance_axes(figure.add_axes((0.085, 0.125, 0.895, 0.65)), ticket, total_epochs)

    return save_figure(build, path, inches=(8.0, 4.6))


def plot_accuracy(record: Mapping[str, Any], path: str | Path) -> Path:
    """Training, validation and final test accuracy in percent against epochs trained, phase after phase."""

    def build(figure: Figure) -> None:
        title(figure, "Accuracy while training", caption(record))
        accuracy_axes(figure.add_axes((0.085, 0.125, 0.895, 0.70)), record)

    return save_figure(build, path, inches=(8.0, 4.6))


def plot_kept_channels(record: Mapping[str, Any], path: str | Path) -> Path:
    """One bar per layer: channels of the dense network (light) and channels kept (dark), with percentages.

    Raises:
        RunFolderError: the run lists no layers, as a dense run does.
    """
    layers = record.get("layers") or []
    if not layers:
        raise RunFolderError(f"run '{record['run_id']}' lists no layers to plot; it cut nothing")
    columns = math.ceil(len(layers) / ROWS_PER_COLUMN)
    rows = math.ceil(len(layers) / columns)
    inches = (8.0 if columns == 1 else 6.4 * columns, 1.15 + (0.29 if len(layers) <= 24 else 0.21) * rows)

    def build(figure: Figure) -> None:
        kept, dense = sum(layer["kept"] for layer in layers), sum(layer["dense"] for layer in layers)
        total = f"{kept:,} of {dense:,} channels kept ({percent(kept / dense)})"
        title(figure, "Channels kept, layer by layer", f"{caption(record)}  ·  {total}", x=0.16 / inches[0])
        widest = max(layer["dense"] for layer in layers)
        for column in range(columns):
            box = _column_box(inches, column, columns, layers)
            axes = figure.add_axes(box)
            kept_axes(axes, layers[column * rows : (column + 1) * rows], rows, widest)
            if column == 0:
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.2)

    return save_figure(build, path, inches=inches)


def _column_box(
    inches: tuple[float, float], column: int, columns: int, layers: Sequence[Mapping[str, Any]]
) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of one column of bars, as fractions of the figure; names get the room they need."""
    width, height = inches
    letters = max(len(layer["name"]) for layer in layers)
    names = 0.25 + letters * (0.075 if len(layers) <= 24 else 0.063)  # inches per letter at the label's size
    share = width / columns
    return ((column * share + names) / width, 0.12 / height, (share - names - 0.2) / width, 1 - 1.12 / height)
