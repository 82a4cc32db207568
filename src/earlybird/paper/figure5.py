"""Figure 5: training FLOPs of Early-Bird tickets against the draw epoch, beside progressive pruning and training.

Progressive pruning and training is one dense training and one slim one. Early Bird is e dense epochs and T - e slim
ones. The paper draws the figure and prints no numbers of it, so F and e are those that fit Table 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from earlybird.paper.printed import FIGURE5_REDUCTIONS
from earlybird.paper.sums import DrawFit, to_hundredths
from earlybird.paper.table2 import EPOCHS, Table2Row, cifar_petaflops, drawn_petaflops, table2_rows

DRAW_EPOCHS = (0, 10, 20, 40, 80, 160)
# The paper draws tickets in the first fifth of the schedule; a pair of the second half fits the arithmetic only.
LATEST_DRAW = EPOCHS // 2


@dataclass(frozen=True)
class Figure5Row:
    """One fit of one setting of Table 2, totals in PFLOPs rounded to 0.01.

    `curve` pairs `DRAW_EPOCHS` with the totals of drawing there; `drawn` is the total at the fitted `draw_epoch`.
    `reduction` is baseline / drawn; `inside_claim` says whether it lies in the text's range when rounded to one
    decimal, as the text rounds.
    """

    model: str
    dataset: str
    prune_ratio: float
    dense_gflops: float
    slim_gflops: float
    draw_epoch: int
    curve: tuple[tuple[int, float], ...]
    drawn: float
    baseline: float
    reduction: float
    inside_claim: bool

    @property
    def setting(self) -> str:
        """Network, data set and ratio in one line."""
        return f"{self.model} {self.dataset} p={self.prune_ratio:g}"


def figure5_rows() -> tuple[Figure5Row, ...]:
    """One row for every fit of the first half of the schedule, in Table 2's order of print, earliest draw first."""
    return tuple(
        _row(setting, fit) for setting in table2_rows() for fit in setting.fits if fit.draw_epoch <= LATEST_DRAW
    )


def settings_by_claim() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Settings inside the text's range, outside it, and without a fit; a setting counts by its earliest fit."""
    earliest = [next(rows) for _, rows in groupby(figure5_rows(), key=lambda row: row.setting)]
    inside = tuple(row.setting for row in earliest if row.inside_claim)
    outside = tuple(row.setting for row in earliest if not row.inside_claim)
    unfitted = tuple(f"{s.model} {s.dataset} p={s.prune_ratio:g}" for s in table2_rows() if not s.fits)
    return inside, outside, unfitted


def _row(setting: Table2Row, fit: DrawFit) -> Figure5Row:
    dense, slim = Decimal(str(setting.dense_gflops)), Decimal(str(fit.slim_gflops))

    def drawn_at(epoch: int) -> Decimal:
        return drawn_petaflops(dense, slim, epoch, EPOCHS - epoch)

    drawn, baseline = drawn_at(fit.draw_epoch), cifar_petaflops(EPOCHS * (dense + slim))
    lowest, highest = FIGURE5_REDUCTIONS
    return Figure5Row(
        model=setting.model,
        dataset=setting.dataset,
        prune_ratio=setting.prune_ratio,
        dense_gflops=setting.dense_gflops,
        slim_gflops=fit.slim_gflops,
        draw_epoch=fit.draw_epoch,
        curve=tuple((epoch, float(to_hundredths(drawn_at(epoch)))) for epoch in DRAW_EPOCHS),
        drawn=float(to_hundredths(drawn)),
        baseline=float(to_hundredths(baseline)),
        reduction=float(to_hundredths(baseline / drawn)),
        inside_claim=lowest <= round(float(baseline / drawn), 1) <= highest,
    )
