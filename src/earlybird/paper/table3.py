"""Table 3 (ImageNet, 90 epochs): each printed total beside the sum that gives it, and how that sum was come by.

F of the dense networks is counted, what other papers published is named below, and the rest is searched: a slim F or
a draw epoch that gives the printed number is a fit, not a derivation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Literal

from earlybird.cost import IMAGENET_TRAIN_IMAGES
from earlybird.paper.counted import dense_gflops, product_gflops
from earlybird.paper.printed import TABLE3, PrintedRow
from earlybird.paper.sums import DrawFit, draw_fits, early_bird_petaflops, petaflops, slim_grid, to_hundredths

Status = Literal["derived", "from published inputs", "fitted", "fitted, not unique", "not derived"]

EPOCHS = 90
ONE_EPOCH_LOST = 89
# Luo et al. 2017 (ThiNet), GFLOP per image: the dense ResNet50 and what is left at each pruning ratio.
THINET_RESNET50_DENSE_GFLOPS = Decimal("7.72")
THINET_RESNET50_SLIM_GFLOPS = {0.3: Decimal("4.88"), 0.5: Decimal("3.41"), 0.7: Decimal("2.20")}
# He et al. 2018 (soft filter pruning): share of ResNet18's FLOPs that is cut at p = 0.3.
SFP_RESNET18_CUT_SHARE = Decimal("0.418")


@dataclass(frozen=True)
class Table3Row:
    """One row of Table 3 in PFLOPs; `difference` is recomputed - printed, and both are None where nothing gives it.

    `fits` holds every searched (draw epoch, slim F) of an Early-Bird row at the counted dense F, also of a row that is
    not derived.
    """

    model: str
    method: str
    prune_ratio: float | None
    printed: float
    recomputed: float | None
    difference: float | None
    status: Status
    formula: str
    note: str
    fits: tuple[DrawFit, ...] = ()


@cache
def table3_rows() -> tuple[Table3Row, ...]:
    """The 13 rows of Table 3 in the order of print. Counting and searching take a few seconds the first time."""
    return tuple(RECOMPUTE[row.method](row) for row in TABLE3)


def slimming_fits(row: PrintedRow) -> tuple[Decimal, ...]:
    """Every slim F (GFLOP per image) with which 90 dense and 90 slim epochs cost what the row prints."""
    dense = dense_gflops(row.model)
    return tuple(slim for slim in slim_grid(dense) if _prints(_imagenet(EPOCHS * (dense + slim)), row))


def early_bird_fits(row: PrintedRow, dense: Decimal, epochs: int) -> tuple[DrawFit, ...]:
    """Every (draw epoch, slim F) with which a schedule of `epochs` in all costs what the row prints, at F `dense`."""
    return _fits_among(slim_grid(dense), row, dense, epochs)


def _fits_among(slims: Iterable[Decimal], row: PrintedRow, dense: Decimal, epochs: int) -> tuple[DrawFit, ...]:
    return draw_fits(slims, epochs, lambda epoch, slim: _prints(_drawn(dense, slim, epoch, epochs), row))


def _imagenet(gflop_epochs: Decimal) -> Decimal:
    return petaflops(gflop_epochs, IMAGENET_TRAIN_IMAGES)


def _drawn(dense: Decimal, slim: Decimal, epoch: int, epochs: int) -> Decimal:
    return early_bird_petaflops(
        dense, slim, images=IMAGENET_TRAIN_IMAGES, search_epochs=epoch, retrain_epochs=epochs - epoch
    )


def _printed(row: PrintedRow) -> Decimal:
    return Decimal(str(row.total_petaflops))


def _prints(pflops: Decimal, row: PrintedRow) -> bool:
    return to_hundredths(pflops) == _printed(row)


# One function a method: from the printed row to the recomputed one ---------------------------------------------------


def _recomputed(row: PrintedRow, total: Decimal, status: Status, formula: str, note: str = "") -> Table3Row:
    total = to_hundredths(total)
    difference = total - _printed(row)
    off = f"{abs(difference)} off" if difference else ""
    note = "; ".join(filter(None, (off, note)))
    head = (row.model, row.method, row.prune_ratio, row.total_petaflops)
    return Table3Row(*head, float(total), float(difference), status, f"3*N*{formula} G", note)


def _not_derived(row: PrintedRow, note: str, fits: tuple[DrawFit, ...] = ()) -> Table3Row:
    head = (row.model, row.method, row.prune_ratio, row.total_petaflops)
    return Table3Row(*head, None, None, "not derived", "", note, fits)


def _unpruned(row: PrintedRow) -> Table3Row:
    dense = dense_gflops(row.model)
    return _recomputed(row, _imagenet(EPOCHS * dense), "derived", f"{EPOCHS}*{dense}")


def _thinet(row: PrintedRow) -> Table3Row:
    dense, slim = THINET_RESNET50_DENSE_GFLOPS, THINET_RESNET50_SLIM_GFLOPS[row.prune_ratio or 0.0]
    total = _imagenet(EPOCHS * (dense + slim))
    return _recomputed(row, total, "from published inputs", f"{EPOCHS}*({dense} + {slim})")


def _soft_filter_pruning(row: PrintedRow) -> Table3Row:
    dense, cut = dense_gflops(row.model), SFP_RESNET18_CUT_SHARE
    total = _imagenet(EPOCHS * (dense + dense * (1 - cut)))
    return _recomputed(row, total, "from published inputs", f"{EPOCHS}*({dense} + {dense}*(1 - {cut}))")


def _network_slimming(row: PrintedRow) -> Table3Row:
    fits = slimming_fits(row)
    if not fits:
        return _not_derived(row, "no slim F fits")
    dense, slim = dense_gflops(row.model), fits[0]
    total = _imagenet(EPOCHS * (dense + slim))
    return _recomputed(row, total, _fitted(len(fits)), f"{EPOCHS}*({dense} + {slim})", f"slim F is {_count(len(fits))}")


def _early_bird(row: PrintedRow) -> Table3Row:
    beside = [r for r in TABLE3 if (r.model, r.prune_ratio, r.method) == (row.model, row.prune_ratio, SLIMMING)]
    # Network slimming cuts by the same rule to the same ratio: where it is printed, it tells the ticket's slim F.
    return _drawn_with_known_slim(row, beside[0]) if beside else _drawn_alone(row)


def _drawn_with_known_slim(row: PrintedRow, beside: PrintedRow) -> Table3Row:
    fits = _fits_among(slimming_fits(beside), row, dense_gflops(row.model), EPOCHS)
    if not fits:
        return _not_derived(row, "no draw epoch fits the slim F of network slimming")
    return _of_fit(row, fits[0], fits, f"slim F is network slimming's; draw epoch is {_count(len(fits))}")


def _drawn_alone(row: PrintedRow) -> Table3Row:
    fits, common = _lone_fits(row.model)[row.prune_ratio], _common_draws(row.model)
    earliest = common[0]
    if named := [fit for fit in fits if (fit.epochs, fit.draw_epoch) == earliest]:
        return _of_fit(row, named[0], fits, f"{_counts_by_schedule(fits)}; {_why_named(common)}")
    return _not_derived(row, _what_else_fits(row, fits, earliest[1]), fits)


def _of_fit(row: PrintedRow, fit: DrawFit, fits: tuple[DrawFit, ...], note: str) -> Table3Row:
    dense, slim = dense_gflops(row.model), Decimal(str(fit.slim_gflops))
    total = _drawn(dense, slim, fit.draw_epoch, fit.epochs)
    formula = f"({fit.draw_epoch}*{dense} + {fit.epochs - fit.draw_epoch}*{slim:.2f})"
    return replace(_recomputed(row, total, _fitted(len(fits)), formula, note), fits=fits)


SLIMMING = "network_slimming"
RECOMPUTE: dict[str, Callable[[PrintedRow], Table3Row]] = {
    "unpruned": _unpruned,
    SLIMMING: _network_slimming,
    "soft_filter_pruning": _soft_filter_pruning,
    "thinet": _thinet,
    "early_bird_ff": _early_bird,
}


# Early-Bird rows that no other row tells the slim F of ---------------------------------------------------------------


@cache
def _lone_fits(model: str) -> dict[float | None, tuple[DrawFit, ...]]:
    """Per pruning ratio all fits at the counted dense F, with the whole schedule and with one epoch lost."""
    rows = [row for row in TABLE3 if (row.model, row.method) == (model, "early_bird_ff")]
    dense = dense_gflops(model)
    return {
        row.prune_ratio: tuple(
            fit for epochs in (EPOCHS, ONE_EPOCH_LOST) for fit in early_bird_fits(row, dense, epochs)
        )
        for row in rows
    }


def _common_draws(model: str) -> list[tuple[int, int]]:
    """The (schedule, draw epoch) that fit the most rows of a network, the earliest first.

    The pairs of one row are many by chance alone; one draw epoch for several rows is what tells them apart.
    """
    places = Counter((fit.epochs, fit.draw_epoch) for fits in _lone_fits(model).values() for fit in fits)
    most = max(places.values())
    return sorted(place for place, rows in places.items() if rows == most)


def _fitted(fits: int) -> Status:
    return "fitted" if fits == 1 else "fitted, not unique"


def _count(fits: int) -> str:
    return "the only fit" if fits == 1 else f"one of {fits} fits"


def _pairs(fits: tuple[DrawFit, ...]) -> str:
    return ", ".join(f"({fit.draw_epoch}, {fit.slim_gflops:.2f})" for fit in fits)


def _counts_by_schedule(fits: tuple[DrawFit, ...]) -> str:
    lost = sum(fit.epochs == ONE_EPOCH_LOST for fit in fits)
    return f"{len(fits) - lost} fits with {EPOCHS} epochs in all, {lost} with {ONE_EPOCH_LOST}"


def _why_named(common: list[tuple[int, int]]) -> str:
    shared = ", ".join(str(epoch) for _, epoch in common)
    return f"draw epochs that fit another row of this network too: {shared}; the earliest is shown"


def _what_else_fits(row: PrintedRow, fits: tuple[DrawFit, ...], draw_epoch: int) -> str:
    """Say which pairs give the number after all, and with which other dense F, so that nobody has to search again."""
    parts = [f"no fit shares the other rows' draw epoch {draw_epoch}; {_counts_by_schedule(fits)}: {_pairs(fits)}"]
    for dense, whose in (
        (product_gflops(row.model), "without BN, ReLU, pooling"),
        (THINET_RESNET50_DENSE_GFLOPS, "ThiNet's"),
    ):
        found = {epochs: early_bird_fits(row, dense, epochs) for epochs in (EPOCHS, ONE_EPOCH_LOST)}
        shown = [f"{len(pairs)} with {epochs}, first {_pairs(pairs[:1])}" for epochs, pairs in found.items() if pairs]
        parts.append(f"with dense F {dense} ({whose}) {', '.join(shown) or 'none'}")
    return "; ".join(parts)
