"""Table 2 (CIFAR, 160 epochs): all 96 totals, printed and recomputed.

Lottery ticket and SNIP follow from the counted dense F, ThiNet on VGG16 from a network built at its widths. The slim F
of network slimming is searched, and so are the draw epoch and slim F that give the re-initialised and the
full-precision Early-Bird total at once. ThiNet on PreResNet101 and the 8-bit rows are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from functools import cache
from itertools import groupby

from torch import nn

from earlybird.cost import count_cost
from earlybird.models.cifar import CONVS_PER_STAGE, VGG_STAGE_CHANNELS
from earlybird.paper import claims
from earlybird.paper.claims import Claim, DrawFit, Recomputed, Setting, petaflops, slim_grid
from earlybird.report.table import Column, Table

EPOCHS = 160
DATASET = "cifar10"  # CIFAR-100 has as many images
STEP = Decimal("0.05")  # of the printed totals
LABELS = {
    "lottery_ticket": "LT", "snip": "SNIP", "network_slimming": "NS", "thinet": "ThiNet",
    "early_bird_reinit": "EB re-init", "early_bird_ff": "EB FF", "early_bird_lf": "EB LF", "early_bird_ll": "EB LL",
}  # fmt: skip


@dataclass(frozen=True)
class Table2Cell:
    """Total in PFLOPs as printed and as recomputed, rounded alike; None if it cannot be recomputed.

    `status` is "exact", "off by 0.05" or another distance, "fitted", "fitted, tie down", "no fit", "implied F only" or
    "not derived". `slim_gflops` are the values of F that the cell alone implies, for network slimming.
    """

    method: str
    printed: Decimal
    recomputed: Decimal | None
    status: str
    slim_gflops: tuple[Decimal, ...] = ()


@dataclass(frozen=True)
class Table2Row(Setting):
    """The eight cells of one network, data set and pruning ratio, in the order of print.

    `fits` are all (draw epoch, slim F) that give both `early_bird_reinit` and `early_bird_ff`, earliest first.
    """

    dense_gflops: Decimal
    cells: tuple[Table2Cell, ...]
    fits: tuple[DrawFit, ...]


def recompute() -> Recomputed:
    """Table 2, a table a network and data set, with contradictions."""
    groups = groupby(table2_rows(), key=lambda row: (row.model, row.dataset))
    return Recomputed("table2", table2_rows(), [_table(list(rows)) for _, rows in groups])


@cache
def table2_rows() -> tuple[Table2Row, ...]:
    """The 12 settings of Table 2 in the order of print. Counting and searching take seconds the first time."""
    return tuple(_row(setting, printed) for setting, printed in claims.by_setting("Table 2", "training_flops").items())


@cache
def thinet_vgg16_gflops(prune_ratio: float) -> Decimal:
    """F of a VGG16 that keeps int((1 - p) * C) channels of every convolution, rounded to 0.01 GFLOP: ThiNet's cut."""
    kept = 1 - Decimal(str(prune_ratio))
    layers: list[nn.Module] = []
    channels = 3
    for stage, convs in enumerate(CONVS_PER_STAGE[16]):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(convs):
            width = int(kept * VGG_STAGE_CHANNELS[stage])
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    network = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(channels, 10))
    return Decimal(str(count_cost(network, (3, 32, 32)).paper_gflops))


def printed_round(pflops: Decimal, tie: str = ROUND_HALF_UP) -> Decimal:
    """Rounded as Table 2 prints its totals: to 0.05 P, then to three significant digits, half up both times.

    The paper does not state the rule: the cells whose sums are known (lottery ticket, SNIP and ThiNet on VGG16) show
    it.

    Example:
        printed_round(Decimal("30.24"))   # 30.3: 30.25 first
    """
    return three_digits((pflops / STEP).quantize(Decimal(1), ROUND_HALF_UP) * STEP, tie)


def rounded_like(printed: Decimal, pflops: Decimal) -> Decimal:
    """Rounded as the cell `printed` of Table 2 was: by `printed_round`, or to three digits alone.

    Some cells below 10 P are no multiples of 0.05, such as 3.77; the first step cannot have been taken there.
    """
    # At 10 P and above three digits hide whether the step was taken; LT's 30.24, printed 30.3, shows that it was.
    return printed_round(pflops) if printed_round(printed) == printed else three_digits(pflops)


def may_print(printed: Decimal, pflops: Decimal) -> bool:
    """Tell whether the cell `printed` of Table 2 may stand for this total, a tie rounded either way.

    The first rounding makes ties for the second (10.83 is 10.85 after it), and the paper does not say what it did.
    """
    return printed in (rounded_like(printed, pflops), printed_round(pflops, ROUND_HALF_DOWN))


def three_digits(pflops: Decimal, tie: str = ROUND_HALF_UP) -> Decimal:
    """Rounded to three significant digits."""
    return pflops.quantize(Decimal(1).scaleb(pflops.adjusted() - 2), tie)


def implied_slim_gflops(dense: Decimal, printed: Decimal) -> tuple[Decimal, ...]:
    """All slim F for which 160 dense and 160 slim epochs round to the printed total of network slimming."""
    return tuple(slim for slim in slim_grid(dense) if may_print(printed, petaflops(EPOCHS * (dense + slim), DATASET)))


def _row(setting: Setting, printed: Mapping[str, Claim]) -> Table2Row:
    dense = claims.dense_gflops(setting.model)
    fits = _fits(printed, dense)
    cells = tuple(_cell(claim, dense, fits) for claim in printed.values())
    return Table2Row(setting.model, setting.dataset, setting.prune_ratio, dense, cells, fits)


def _fits(printed: Mapping[str, Claim], dense: Decimal) -> tuple[DrawFit, ...]:
    """Every (draw epoch, slim F) that prints as both Early-Bird totals, of FF and of re-init."""
    cells = [(method, printed[method].value) for method in ("early_bird_ff", "early_bird_reinit")]

    def both(prints: Callable[[Decimal, Decimal], bool]) -> Callable[[int, Decimal], bool]:
        return lambda epoch, slim: all(prints(cell, drawn_petaflops(of, dense, slim, epoch)) for of, cell in cells)

    half_up = both(lambda cell, total: rounded_like(cell, total) == cell)
    fits = claims.draw_fits(slim_grid(dense), EPOCHS, both(may_print))
    return tuple(replace(fit, is_half_up=half_up(fit.draw_epoch, fit.slim_gflops)) for fit in fits)


def drawn_petaflops(method: str, dense: Decimal, slim: Decimal, draw_epoch: int) -> Decimal:
    """PFLOPs of Early-Bird training: dense up to the draw, then slim; re-initialised for a whole schedule."""
    retrain_epochs = EPOCHS if method == "early_bird_reinit" else EPOCHS - draw_epoch
    return petaflops(draw_epoch * dense + retrain_epochs * slim, DATASET)


def _cell(claim: Claim, dense: Decimal, fits: Sequence[DrawFit]) -> Table2Cell:
    method, printed = claim.method, claim.value
    if claim.derivation == "derived":
        second = {"lottery_ticket": dense, "snip": Decimal(0)}  # F of the training after the first dense one
        slim = second[method] if method in second else thinet_vgg16_gflops(claim.prune_ratio or 0.0)
        recomputed = rounded_like(printed, petaflops(EPOCHS * (dense + slim), DATASET))
        off = abs(recomputed - printed)
        return Table2Cell(method, printed, recomputed, f"off by {off:.2f}" if off else "exact")
    if method == "network_slimming":
        return Table2Cell(method, printed, None, "implied F only", implied_slim_gflops(dense, printed))
    if method not in ("early_bird_reinit", "early_bird_ff"):
        return Table2Cell(method, printed, None, "not derived")
    if not fits:
        return Table2Cell(method, printed, None, "no fit")
    recomputed = rounded_like(printed, drawn_petaflops(method, dense, fits[0].slim_gflops, fits[0].draw_epoch))
    return Table2Cell(method, printed, recomputed, "fitted" if recomputed == printed else "fitted, tie down")


def _table(rows: Sequence[Table2Row]) -> Table:
    columns = [Column(name) for row in rows for name in (f"p={row.prune_ratio:g}\nprinted", "\nrecomputed")]
    across = zip(*(row.cells for row in rows), strict=True)
    cells = [[LABELS[beside[0].method], *(text for cell in beside for text in _texts(cell))] for beside in across]
    pairs = [text for row in rows for text in ("", "\n".join(map(str, row.fits)) or "none")]
    title = f"Table 2: {rows[0].model} on {rows[0].dataset}, dense F {rows[0].dense_gflops} GFLOP"
    return Table([Column("\nmethod", "left"), *columns], [*cells, ["(e, F)", *pairs]], title)


def _texts(cell: Table2Cell) -> tuple[str, str]:
    """Printed total; recomputed total and its status."""
    recomputed = "" if cell.recomputed is None else f"{three_digits(cell.recomputed)} "
    implied = ", ".join(map(str, cell.slim_gflops))
    return str(three_digits(cell.printed)), f"F {implied}" if implied else f"{recomputed}{cell.status}"
