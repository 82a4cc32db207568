"""Figure 5: training FLOPs of Early-Bird tickets against the draw epoch, beside progressive pruning and training.

Progressive pruning and training is one dense training and one slim one. Early Bird is e dense epochs and T - e slim
ones. The paper draws the figure and prints no numbers of it, so F and e are those that fit Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes

from earlybird.paper.claims import DrawFit, Recomputed, Setting, petaflops, published, to_hundredths
from earlybird.paper.table2 import DATASET, EPOCHS, Table2Row, drawn_petaflops, table2_rows, three_digits
from earlybird.report.plots import CUT, DENSE_INK, HALO, INK, SLIM, figure_file
from earlybird.report.table import Table, named_columns

DRAW_EPOCHS = (0, 10, 20, 40, 80, 160)
# The paper draws tickets in the first fifth of the schedule; a pair of the second half fits the arithmetic only.
LATEST_DRAW = EPOCHS // 2
PANELS_BESIDE = 3


@dataclass(frozen=True)
class Figure5Row(Setting):
    """One fit of one setting of Table 2, totals in PFLOPs rounded to 0.01.

    `curve` pairs `DRAW_EPOCHS` with the totals of drawing there; `drawn` is the total at the fitted `draw_epoch`.
    `reduction` is baseline / drawn; `inside_claim` says whether it lies in the text's range when rounded to one
    decimal, as the text rounds.
    """

    dense_gflops: Decimal
    slim_gflops: Decimal
    draw_epoch: int
    curve: tuple[tuple[int, Decimal], ...]
    drawn: Decimal
    baseline: Decimal
    reduction: Decimal
    inside_claim: bool


def recompute() -> Recomputed:
    """Numbers of Figure 5, one table per network and data set, and the settings that support the text."""
    claimed, settings = claimed_reductions(), settings_by_claim()
    inside, outside, unfitted = (", ".join(found) or "none" for found in settings.values())
    verdict = (
        f"Inside the text's {claimed[0]}-{claimed[1]}x (earliest fit): {inside}.",
        f"Outside: {outside}.",
        f"No pair fits Table 2, so no curve: {unfitted}.",
    )
    groups = groupby(figure5_rows(), key=lambda row: (row.model, row.dataset))
    facts = {"claimed_reductions": claimed, "settings": settings}
    return Recomputed("figure5", figure5_rows(), [_table(list(rows)) for _, rows in groups], verdict, facts)


def figure5_rows() -> tuple[Figure5Row, ...]:
    """One row for every fit of the first half of the schedule, in Table 2's order of print, earliest draw first."""
    fits = ((row, fit) for row in table2_rows() for fit in row.fits)
    return tuple(_row(row, fit) for row, fit in fits if fit.draw_epoch <= LATEST_DRAW)


def claimed_reductions() -> list[Decimal]:
    """Lowest and highest reduction of FLOPs that the text claims for the figure."""
    return [published("Section 4.3", f"fig5_flops_{end}").value for end in ("low", "high")]


def settings_by_claim() -> dict[str, list[str]]:
    """Settings inside the text's range, outside it, and without a fit; a setting counts by its earliest fit."""
    return {
        "inside_claim": [str(row) for row in _earliest_fits() if row.inside_claim],
        "outside_claim": [str(row) for row in _earliest_fits() if not row.inside_claim],
        "no_fit": [str(row) for row in table2_rows() if not row.fits],
    }


def _earliest_fits() -> list[Figure5Row]:
    return [next(rows) for _, rows in groupby(figure5_rows(), key=str)]


def _row(printed: Table2Row, fit: DrawFit) -> Figure5Row:
    dense, slim = printed.dense_gflops, fit.slim_gflops
    drawn = drawn_petaflops("early_bird_ff", dense, slim, fit.draw_epoch)
    baseline = petaflops(EPOCHS * (dense + slim), DATASET)
    totals = ((epoch, drawn_petaflops("early_bird_ff", dense, slim, epoch)) for epoch in DRAW_EPOCHS)
    lowest, highest = claimed_reductions()
    return Figure5Row(
        printed.model, printed.dataset, printed.prune_ratio, dense, slim, fit.draw_epoch,
        curve=tuple((epoch, to_hundredths(total)) for epoch, total in totals),
        drawn=to_hundredths(drawn),
        baseline=to_hundredths(baseline),
        reduction=to_hundredths(baseline / drawn),
        inside_claim=lowest <= round(baseline / drawn, 1) <= highest,
    )  # fmt: skip


def _table(rows: Sequence[Figure5Row]) -> Table:
    columns = named_columns("p", "F", "e", *map(str, DRAW_EPOCHS), "at e", "base", "times", "text")
    cells = []
    for row in rows:
        totals = [str(three_digits(total)) for total in (*dict(row.curve).values(), row.drawn, row.baseline)]
        head = [f"{row.prune_ratio:g}", f"{row.slim_gflops:.2f}", str(row.draw_epoch)]
        cells.append([*head, *totals, f"{row.reduction:.2f}x", "yes" if row.inside_claim else "no"])
    heading = f"Figure 5: {rows[0].model} on {rows[0].dataset}, dense F {rows[0].dense_gflops} GFLOP"
    return Table(columns, cells, heading)


def plot_figure5(path: str | Path) -> Path:
    """Draw the earliest fit of each setting, a panel a setting; the suffix of the path names the format."""
    panels = _earliest_fits()
    lines = -(-len(panels) // PANELS_BESIDE)
    height = 2.3 * lines
    heading = "Training FLOPs of Early-Bird tickets against the draw epoch (Figure 5, recomputed)"
    caption = (
        "PFLOPs. Dashed: progressive pruning and training. Red: the draw epoch that fits Table 2. The text claims "
        "{:g} to {:g}x.".format(*claimed_reductions())
    )
    with figure_file(path, heading, caption, (10.0, height)) as figure:
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.6 / height, top=1 - 0.95 / height, hspace=0.55)
        for place, row in enumerate(panels):
            axes = figure.add_subplot(lines, PANELS_BESIDE, place + 1)
            _panel(axes, row, is_lowest=place >= len(panels) - PANELS_BESIDE)
    return Path(path)


def _panel(axes: Axes, row: Figure5Row, *, is_lowest: bool) -> None:
    drawn, baseline = float(row.drawn), float(row.baseline)
    axes.plot(DRAW_EPOCHS, [float(total) for _, total in row.curve], color=SLIM, linewidth=1.8)
    axes.axhline(baseline, color=DENSE_INK, linewidth=1.4, linestyle="--")
    axes.plot([row.draw_epoch], [drawn], marker="o", color=CUT, markersize=6, zorder=4)
    axes.vlines(row.draw_epoch, drawn, baseline, color=CUT, linewidth=1.0, zorder=3)
    label = f"{row.reduction:.2f}x at epoch {row.draw_epoch}"
    axes.text(row.draw_epoch + 4, (drawn + baseline) / 2, label, va="center", fontsize=9, color=INK, bbox=HALO)
    axes.set_title(f"{row.model}, {row.dataset}, p = {row.prune_ratio:g}", fontsize=9.5, loc="left")
    axes.set_xlim(0, EPOCHS)
    axes.set_ylim(0, 1.08 * baseline)
    if is_lowest:
        axes.set_xlabel("draw epoch")
