"""Figure 5 of the paper from the recomputed totals: training FLOPs against the draw epoch, a panel a setting."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earlybird.report.canvas import CUT, DENSE_INK, HALO, INK, SLIM, save_figure, title

Row = Mapping[str, Any]
_COLUMNS = 3


def plot_figure5(facts: Mapping[str, Any], path: str | Path) -> Path:
    """Draw what `figure5_facts` holds: the earliest fit of each network, data set and ratio.

    Args:
        facts: rows with `curve` (epoch, PFLOPs), `draw_epoch`, `drawn`, `baseline`, `reduction`; `claimed_reductions`.
        path: the file; its suffix names the format.
    """
    panels = [next(rows) for _, rows in groupby(facts["rows"], key=_setting)]
    lowest, highest = facts["claimed_reductions"]
    lines = -(-len(panels) // _COLUMNS)

    def build(figure: Figure) -> None:
        title(
            figure,
            "Training FLOPs of Early-Bird tickets against the draw epoch (Figure 5, recomputed)",
            f"PFLOPs. Dashed: progressive pruning and training. Red: the draw epoch that fits Table 2. The text claims "
            f"{lowest:g} to {highest:g}x.",
        )
        height = figure.get_figheight()
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.6 / height, top=1 - 0.95 / height, hspace=0.55)
        for place, row in enumerate(panels):
            _panel(figure.add_subplot(lines, _COLUMNS, place + 1), row, is_lowest=place >= len(panels) - _COLUMNS)

    return save_figure(build, path, inches=(10.0, 2.3 * lines))


def _setting(row: Row) -> tuple[str, str, float]:
    return row["model"], row["dataset"], row["prune_ratio"]


def _panel(axes: Axes, row: Row, *, is_lowest: bool) -> None:
    epochs, totals = zip(*row["curve"], strict=True)
    axes.plot(epochs, totals, color=SLIM, linewidth=1.8)
    axes.axhline(row["baseline"], color=DENSE_INK, linewidth=1.4, linestyle="--")
    axes.plot([row["draw_epoch"]], [row["drawn"]], marker="o", color=CUT, markersize=6, zorder=4)
    axes.vlines(row["draw_epoch"], row["drawn"], row["baseline"], color=CUT, linewidth=1.0, zorder=3)
    label = f"{row['reduction']:.2f}x at epoch {row['draw_epoch']}"
    middle = (row["drawn"] + row["baseline"]) / 2
    axes.text(row["draw_epoch"] + 4, middle, label, va="center", fontsize=9, color=INK, bbox=HALO)
    axes.set_title(f"{row['model']}, {row['dataset']}, p = {row['prune_ratio']:g}", fontsize=9.5, loc="left")
    axes.set_xlim(0, epochs[-1])
    axes.set_ylim(0, 1.08 * row["baseline"])
    if is_lowest:
        axes.set_xlabel("draw epoch")
