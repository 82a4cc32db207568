"""Table 3 (ImageNet, 90 epochs): each printed total, the sum that gives it, and the status of that sum.

F of the dense networks is counted, what other papers published is a claim of theirs, and the rest is searched: a slim
F or a draw epoch that gives the printed number is a fit, not a derivation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import groupby

from earlybird.paper import claims
from earlybird.paper.claims import Claim, Derivation, DrawFit, Recomputed, draw_fits, find
from earlybird.report.table import Column, Table

EPOCHS = 90
ONE_EPOCH_LOST = 89
LABELS = {"network_slimming": "NS", "thinet": "ThiNet", "soft_filter_pruning": "SFP", "early_bird_ff": "EB"}


@dataclass(frozen=True)
class Table3Row:
    """One row of Table 3 in PFLOPs; `difference` is recomputed - printed, and both are None if it cannot be recomputed.

    `fits` holds every searched (draw epoch, slim F) of an Early-Bird row at the counted dense F, also of a row that is
    not derived.
    """

    model: str
    method: str
    prune_ratio: float | None
    printed: Decimal
    recomputed: Decimal | None
    difference: Decimal | None
    status: Derivation
    formula: str
    note: str
    fits: tuple[DrawFit, ...] = ()


def recompute() -> Recomputed:
    """Table 3, a table a network, with notes and contradictions."""
    tables = [_table(model, list(rows)) for model, rows in groupby(table3_rows(), key=lambda row: row.model)]
    notes = [f"{_label(row)}: {row.note}." for row in table3_rows() if row.note]
    return Recomputed("table3", table3_rows(), tables, notes)


@cache
def table3_rows() -> tuple[Table3Row, ...]:
    """The 13 rows of Table 3 in the order of print. Counting and searching take a few seconds the first time."""
    return tuple(_row(claim) for claim in find("Table 3", "training_flops"))


def slimming_fits(claim: Claim) -> tuple[Decimal, ...]:
    """All slim F (GFLOP per image) for which 90 dense and 90 slim epochs cost the claimed total."""
    dense = claims.dense_gflops(claim.model)
    return tuple(slim for slim in claims.slim_grid(dense) if _total(EPOCHS * (dense + slim)) == claim.value)


def early_bird_fits(
    claim: Claim, dense: Decimal, epochs: int, slims: Iterable[Decimal] | None = None
) -> tuple[DrawFit, ...]:
    """All pairs of draw epoch and slim F (of `slims` if given) for which `epochs` in all cost the claimed total."""
    slims = claims.slim_grid(dense) if slims is None else slims
    return draw_fits(slims, epochs, lambda epoch, slim: _total(epoch * dense + (epochs - epoch) * slim) == claim.value)


def _total(gflop_epochs: Decimal) -> Decimal:
    return claims.to_hundredths(claims.petaflops(gflop_epochs, "imagenet"))


def _row(claim: Claim) -> Table3Row:
    fits = _fits(claim) if claim.method == "early_bird_ff" else ()
    gflop_epochs, formula = _sum(claim, fits)
    recomputed = None if gflop_epochs is None else _total(gflop_epochs)
    difference = None if recomputed is None else recomputed - claim.value
    formula = f"3*N*{formula} G" if formula else ""
    note = claims.findings()["table3"]["notes"].get(_label(claim), "")
    return Table3Row(*claim.row, claim.value, recomputed, difference, claim.derivation, formula, note, fits)


def _sum(claim: Claim, fits: Sequence[DrawFit]) -> tuple[Decimal | None, str]:
    """Sum over epochs of F in GFLOP, and the same in words; None and "" if it cannot be recomputed."""
    dense = claims.dense_gflops(claim.model)
    if claim.method == "unpruned":
        return EPOCHS * dense, f"{EPOCHS}*{dense}"
    if claim.method == "early_bird_ff":
        common = _common_draw(claim.model)
        shown = next((fit for fit in fits if (fit.epochs, fit.draw_epoch) == common), None)
        if shown is None:
            return None, ""
        slim, retrained = shown.slim_gflops, shown.epochs - shown.draw_epoch
        return shown.draw_epoch * dense + retrained * slim, f"({shown.draw_epoch}*{dense} + {retrained}*{slim})"
    if claim.method == "soft_filter_pruning":
        cut = claims.published("He et al. 2018", "forward_flops_cut", *claim.row).value
        return EPOCHS * (dense + dense * (1 - cut)), f"{EPOCHS}*({dense} + {dense}*(1 - {cut}))"
    if claim.method == "thinet":
        dense = claims.published("Luo et al. 2017", "forward_flops", claim.model, "unpruned").value
        slim = claims.published("Luo et al. 2017", "forward_flops", *claim.row).value
    else:
        (slim,) = slimming_fits(claim)
    return EPOCHS * (dense + slim), f"{EPOCHS}*({dense} + {slim})"


@cache
def _fits(claim: Claim) -> tuple[DrawFit, ...]:
    """All fits at the counted dense F, with the whole schedule and, if no other row tells slim F, one epoch lost."""
    dense = claims.dense_gflops(claim.model)
    for other in find("Table 3", "training_flops"):
        # Network slimming cuts by the same rule to the same ratio: where it is printed, it tells the ticket's slim F.
        if (other.method, other.setting) == ("network_slimming", claim.setting):
            return early_bird_fits(claim, dense, EPOCHS, slimming_fits(other))
    return tuple(fit for epochs in (EPOCHS, ONE_EPOCH_LOST) for fit in early_bird_fits(claim, dense, epochs))


def _common_draw(model: str) -> tuple[int, int]:
    """Schedule and draw epoch that fit the most rows of a network, the earliest of them.

    The pairs of one row are many by chance alone; one draw epoch for several rows is what tells them apart.
    """
    rows = [row for row in find("Table 3", "training_flops") if (row.model, row.method) == (model, "early_bird_ff")]
    places = Counter((fit.epochs, fit.draw_epoch) for row in rows for fit in _fits(row))
    most = max(places.values())
    return min(place for place, fitted in places.items() if fitted == most)


def _label(row: Claim | Table3Row) -> str:
    """Network, method in short, pruning ratio."""
    label = f"{row.model} {LABELS.get(row.method, row.method)}"
    return label if row.prune_ratio is None else f"{label} p={row.prune_ratio:g}"


def _table(model: str, rows: Sequence[Table3Row]) -> Table:
    numbers = [Column(name, form=".2f") for name in ("printed", "recomputed", "off")]
    cells = []
    for row in rows:
        values = (row.printed, row.recomputed, row.difference)
        how = f"{row.status}: {row.formula}" if row.formula else row.status
        method = _label(row).removeprefix(f"{model} ")
        cells.append([method, *(None if value is None else float(value) for value in values), how])
    return Table([Column("method", "left"), *numbers, Column("how", "left")], cells, f"Table 3: {model} on ImageNet")
