"""Table 2 (CIFAR, 160 epochs): all 96 totals, each with what our sums can say about it.

Lottery ticket and SNIP follow from the counted dense F, ThiNet on VGG16 from a network built at its widths. The slim F
of network slimming is searched, and so are the draw epoch and slim F that give the re-initialised and the
full-precision Early-Bird total at once. ThiNet on PreResNet101 and the 8-bit rows are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache

from torch import nn

from earlybird.cost import CIFAR_TRAIN_IMAGES, count_cost
from earlybird.models.vgg import CONVS_PER_STAGE, STAGE_CHANNELS
from earlybird.paper.counted import dense_gflops
from earlybird.paper.printed import METHODS, TABLE2, PrintedSetting
from earlybird.paper.sums import (
    HUNDREDTH,
    DrawFit,
    draw_fits,
    early_bird_petaflops,
    may_print,
    petaflops,
    printed_round,
    rounded_like,
    slim_grid,
)

EPOCHS = 160
# The paper counts an 8-bit operation as one FLOP and gives neither draw epoch nor slim F of the 8-bit searches.
EIGHT_BIT = ("early_bird_lf", "early_bird_ll")


@dataclass(frozen=True)
class Table2Cell:
    """One total in PFLOPs as printed and as recomputed, rounded alike; None where nothing of ours gives it.

    `status` is "exact", "off by 0.05" or another distance, "fitted", "fitted, tie down", "no fit", "implied F only" or
    "not derived". `slim_gflops` are the values of F that the cell alone implies, for network slimming.
    """

    method: str
    printed: float
    recomputed: float | None
    status: str
    slim_gflops: tuple[float, ...] = ()


@dataclass(frozen=True)
class Table2Row:
    """The eight cells of one network, data set and pruning ratio, in the order of print.

    `fits` are all (draw epoch, slim F) that give both `early_bird_reinit` and `early_bird_ff`, earliest first.
    """

    model: str
    dataset: str
    prune_ratio: float
    dense_gflops: float
    cells: tuple[Table2Cell, ...]
    fits: tuple[DrawFit, ...]


@cache
def table2_rows() -> tuple[Table2Row, ...]:
    """The 12 settings of Table 2 in the order of print. Counting and searching take seconds the first time."""
    return tuple(_row(printed) for printed in TABLE2)


def cifar_petaflops(gflop_epochs: Decimal) -> Decimal:
    """PFLOPs of training on CIFAR, for the sum over epochs of F in GFLOP."""
    return petaflops(gflop_epochs, CIFAR_TRAIN_IMAGES)


def drawn_petaflops(dense: Decimal, slim: Decimal, draw_epoch: int, retrain_epochs: int) -> Decimal:
    """PFLOPs of Early-Bird training on CIFAR: dense up to the draw epoch, slim for `retrain_epochs`."""
    return early_bird_petaflops(
        dense, slim, images=CIFAR_TRAIN_IMAGES, search_epochs=draw_epoch, retrain_epochs=retrain_epochs
    )


@cache
def thinet_vgg16_gflops(prune_ratio: float) -> Decimal:
    """F of a VGG16 that keeps int((1 - p) * C) channels of every convolution, rounded to 0.01 GFLOP: ThiNet's cut."""
    kept = 1 - Decimal(str(prune_ratio))
    layers: list[nn.Module] = []
    channels = 3
    for stage, convs in enumerate(CONVS_PER_STAGE[16]):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(convs):
            width = int(kept * STAGE_CHANNELS[stage])
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    network = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(channels, 10))
    return Decimal(str(count_cost(network, (3, 32, 32)).paper_gflops))


def implied_slim_gflops(dense: Decimal, printed: float) -> tuple[Decimal, ...]:
    """Every slim F with which 160 dense and 160 slim epochs round to the printed total of network slimming."""
    return tuple(slim for slim in slim_grid(dense) if may_print(printed, cifar_petaflops(EPOCHS * (dense + slim))))


def setting_fits(printed: PrintedSetting) -> tuple[DrawFit, ...]:
    """Every (draw epoch, slim F) that prints as both Early-Bird totals: retrained for 160 - e epochs and for 160."""
    dense = dense_gflops(printed.model)
    inherited, reinitialised = (printed.total_petaflops(f"early_bird_{kind}") for kind in ("ff", "reinit"))

    def totals(epoch: int, slim: Decimal) -> tuple[tuple[float, Decimal], ...]:
        return (
            (inherited, drawn_petaflops(dense, slim, epoch, EPOCHS - epoch)),
            (reinitialised, drawn_petaflops(dense, slim, epoch, EPOCHS)),
        )

    def matches(epoch: int, slim: Decimal) -> bool:
        return all(may_print(cell, total) for cell, total in totals(epoch, slim))

    def rounded_up(fit: DrawFit) -> DrawFit:
        pairs = totals(fit.draw_epoch, Decimal(str(fit.slim_gflops)))
        return replace(fit, is_half_up=all(rounded_like(cell, total) == cell for cell, total in pairs))

    return tuple(rounded_up(fit) for fit in draw_fits(slim_grid(dense), EPOCHS, matches))


def _row(printed: PrintedSetting) -> Table2Row:
    dense, fits = dense_gflops(printed.model), setting_fits(printed)
    known = _known_totals(printed, dense)
    cells = tuple(_cell(printed, method, dense, known, fits) for method in METHODS)
    return Table2Row(printed.model, printed.dataset, printed.prune_ratio, float(dense), cells, fits)


def _known_totals(printed: PrintedSetting, dense: Decimal) -> dict[str, Decimal]:
    """Totals that need no fit, unrounded: two dense trainings, one, and ThiNet's dense and slim one."""
    gflops = {"lottery_ticket": 2 * dense, "snip": dense}
    if printed.model == "vgg16":
        gflops["thinet"] = dense + thinet_vgg16_gflops(printed.prune_ratio)
    return {method: cifar_petaflops(EPOCHS * one_epoch) for method, one_epoch in gflops.items()}


def _cell(
    printed: PrintedSetting, method: str, dense: Decimal, known: Mapping[str, Decimal], fits: tuple[DrawFit, ...]
) -> Table2Cell:
    total = printed.total_petaflops(method)
    if method in known:
        return _compared(method, total, printed_round(known[method]))
    if method == "network_slimming":
        slims = tuple(float(slim) for slim in implied_slim_gflops(dense, total))
        return Table2Cell(method, total, None, "implied F only" if slims else "no fit", slims)
    if method in EIGHT_BIT or method == "thinet":
        return Table2Cell(method, total, None, "not derived")
    return _fitted(method, total, dense, fits)


def _compared(method: str, printed: float, recomputed: float) -> Table2Cell:
    distance = abs(Decimal(str(recomputed)) - Decimal(str(printed))).quantize(HUNDREDTH)
    return Table2Cell(method, printed, recomputed, f"off by {distance}" if distance else "exact")


def _fitted(method: str, printed: float, dense: Decimal, fits: tuple[DrawFit, ...]) -> Table2Cell:
    if not fits:
        return Table2Cell(method, printed, None, "no fit")
    epoch, slim = fits[0].draw_epoch, Decimal(str(fits[0].slim_gflops))
    retrain_epochs = EPOCHS if method == "early_bird_reinit" else EPOCHS - epoch
    total = drawn_petaflops(dense, slim, epoch, retrain_epochs)
    recomputed = rounded_like(printed, total)
    return Table2Cell(method, printed, recomputed, "fitted" if recomputed == printed else "fitted, tie down")
