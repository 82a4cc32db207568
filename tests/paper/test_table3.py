"""Table 3: 13 rows, each with its status, its sum and the fits that were searched."""

from __future__ import annotations

from decimal import Decimal

import pytest

from earlybird.paper.claims import Claim, DrawFit, published
from earlybird.paper.table3 import Table3Row, early_bird_fits, slimming_fits, table3_rows

# model, method, p, printed, recomputed, status, sum. Recomputed by hand: 3 * 1,281,167 * GFLOP-epochs / 10^6.
EXPECTED = [
    ("resnet18", "unpruned", None, 1259.13, 1259.13, "derived", "90*3.64"),
    ("resnet18", "network_slimming", 0.1, 2424.86, 2424.86, "fitted", "90*(3.64 + 3.37)"),
    ("resnet18", "network_slimming", 0.3, 2168.89, 2168.89, "fitted", "90*(3.64 + 2.63)"),
    (
        "resnet18",
        "soft_filter_pruning",
        0.3,
        1991.94,
        1991.95,
        "from published inputs",
        "90*(3.64 + 3.64*(1 - 0.418))",
    ),
    ("resnet18", "early_bird_ff", 0.1, 1177.15, 1177.15, "fitted", "(11*3.64 + 79*3.37)"),
    ("resnet18", "early_bird_ff", 0.3, 952.46, 952.46, "fitted", "(11*3.64 + 79*2.63)"),
    ("resnet50", "unpruned", None, 2839.96, 2839.96, "derived", "90*8.21"),
    ("resnet50", "thinet", 0.3, 4358.53, 4358.53, "from published inputs", "90*(7.72 + 4.88)"),
    ("resnet50", "thinet", 0.5, 3850.03, 3850.03, "from published inputs", "90*(7.72 + 3.41)"),
    ("resnet50", "thinet", 0.7, 3431.48, 3431.48, "from published inputs", "90*(7.72 + 2.20)"),
    ("resnet50", "early_bird_ff", 0.3, 2242.3, None, "not derived", None),
    ("resnet50", "early_bird_ff", 0.5, 1718.78, 1718.78, "fitted, not unique", "(8*8.21 + 81*4.71)"),
    ("resnet50", "early_bird_ff", 0.7, 890.65, 890.65, "fitted, not unique", "(8*8.21 + 81*2.05)"),
]


def row(model: str, method: str, prune_ratio: float) -> Table3Row:
    return next(r for r in table3_rows() if (r.model, r.method, r.prune_ratio) == (model, method, prune_ratio))


def printed(method: str, prune_ratio: float, model: str = "resnet50") -> Claim:
    return published("Table 3", "training_flops", model, method, prune_ratio)


def number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


@pytest.mark.parametrize("place", range(13))
def test_each_row_in_the_order_of_print(place):
    found, expected = table3_rows()[place], EXPECTED[place]
    formula = "" if expected[-1] is None else f"3*N*{expected[-1]} G"
    totals = (number(found.printed), number(found.recomputed))
    assert (found.model, found.method, found.prune_ratio, *totals, found.status) == expected[:-1]
    assert found.formula == formula


def test_there_are_13_rows():
    assert len(table3_rows()) == len(EXPECTED) == 13


def test_only_soft_filter_pruning_is_off_and_by_a_hundredth():
    differences = {r.method: r.difference for r in table3_rows() if r.difference}
    assert differences == {"soft_filter_pruning": Decimal("0.01")}
    assert row("resnet18", "soft_filter_pruning", 0.3).note == "0.01 off"


def test_the_slim_f_of_network_slimming_is_unique():
    assert slimming_fits(printed("network_slimming", 0.1, "resnet18")) == (Decimal("3.37"),)
    assert slimming_fits(printed("network_slimming", 0.3, "resnet18")) == (Decimal("2.63"),)


@pytest.mark.parametrize("prune_ratio", [0.1, 0.3])
def test_resnet18_is_drawn_at_epoch_11_and_no_other_epoch_fits(prune_ratio):
    assert [fit.draw_epoch for fit in row("resnet18", "early_bird_ff", prune_ratio).fits] == [11]


def test_resnet50_at_half_fits_nine_pairs_of_a_schedule_that_lost_an_epoch():
    fits = row("resnet50", "early_bird_ff", 0.5).fits
    assert {fit.epochs for fit in fits} == {89}
    pairs = [(fit.draw_epoch, float(fit.slim_gflops)) for fit in fits]
    assert pairs == [
        (8, 4.71),
        (14, 4.43),
        (19, 4.16),
        (26, 3.71),
        (35, 2.96),
        (39, 2.54),
        (44, 1.91),
        (47, 1.46),
        (54, 0.11),
    ]


def test_resnet50_at_seven_tenths_fits_seven_pairs():
    row_found = row("resnet50", "early_bird_ff", 0.7)
    pairs = [(fit.draw_epoch, float(fit.slim_gflops)) for fit in row_found.fits]
    assert pairs == [(1, 2.54), (5, 2.27), (8, 2.05), (12, 1.73), (17, 1.28), (23, 0.65), (26, 0.29)]
    assert row_found.note.startswith("0 fits with 90 epochs in all, 7 with 89")


def test_resnet50_at_three_tenths_fits_only_pairs_that_no_other_row_shares():
    found = row("resnet50", "early_bird_ff", 0.3)
    assert found.fits == (DrawFit(40, Decimal("5.10"), 90), DrawFit(65, Decimal("1.99"), 90))
    assert found.recomputed is None and found.difference is None
    assert "no fit shares the other rows' draw epoch 8" in found.note
    assert "dense F 8.18 (without BN, ReLU, pooling) 3 with 90, first (10, 6.27)" in found.note
    assert "dense F 7.72 (ThiNet's) 1 with 90, first (70, 2.15), 11 with 89, first (8, 6.44)" in found.note


def test_a_number_that_nothing_gives_has_no_fit():
    # Two epochs of ResNet50 cost 63.11 P at the most, so one dense and one slim epoch cannot cost 2242.30 P.
    assert early_bird_fits(printed("early_bird_ff", 0.3), Decimal("8.21"), 2) == ()
