"""Table 2: a status for each of the 96 cells, and every pair that fits both Early-Bird totals."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from earlybird.paper.table2 import Table2Row, implied_slim_gflops, table2_rows, thinet_vgg16_gflops

# A star marks a tie that was rounded down. Draws past epoch 80 fit the arithmetic only; they are listed all the same.
FITS = {
    ("preresnet101", "cifar10", 0.3): ["32 .26", "33 .26"],
    ("preresnet101", "cifar10", 0.5): ["43 .21", "110 .08"],
    ("preresnet101", "cifar10", 0.7): ["14 .13"],
    ("vgg16", "cifar10", 0.3): ["23 .51", "130 .09*"],
    ("vgg16", "cifar10", 0.5): ["17 .43*", "18 .43*", "21 .42*", "107 .08*", "109 .07*"],
    ("vgg16", "cifar10", 0.7): [],
    ("preresnet101", "cifar100", 0.3): ["24 .26"],
    ("preresnet101", "cifar100", 0.5): ["26 .21", "109 .05"],
    ("preresnet101", "cifar100", 0.7): ["14 .12"],
    ("vgg16", "cifar100", 0.1): ["25 .58", "147 .10"],
    ("vgg16", "cifar100", 0.3): ["20 .49", "21 .49*", "124 .08", "125 .08*"],
    ("vgg16", "cifar100", 0.5): ["13 .39"],
}
SLIMMING = {
    ("preresnet101", "cifar10", 0.3): (0.27,),
    ("preresnet101", "cifar10", 0.5): (0.22,),
    ("preresnet101", "cifar10", 0.7): (0.15,),
    ("vgg16", "cifar10", 0.3): (0.51,),
    ("vgg16", "cifar10", 0.5): (0.44,),
    ("vgg16", "cifar10", 0.7): (0.36,),
    ("preresnet101", "cifar100", 0.3): (0.26,),
    ("preresnet101", "cifar100", 0.5): (0.21,),
    ("preresnet101", "cifar100", 0.7): (0.12,),
    ("vgg16", "cifar100", 0.1): (0.59,),
    ("vgg16", "cifar100", 0.3): (0.50,),
    ("vgg16", "cifar100", 0.5): (0.37,),
}


def place(row: Table2Row) -> tuple[str, str, float]:
    return row.model, row.dataset, row.prune_ratio


def statuses(row: Table2Row) -> dict[str, str]:
    return {cell.method: cell.status for cell in row.cells}


def test_the_12_settings_stand_in_the_order_of_print():
    assert [place(row) for row in table2_rows()] == list(FITS)


@pytest.mark.parametrize("setting", FITS, ids=str)
def test_all_pairs_that_fit_both_early_bird_totals(setting):
    row = next(row for row in table2_rows() if place(row) == setting)
    shown = [f"{fit.draw_epoch} {fit.slim_gflops:.2f}{'' if fit.is_half_up else '*'}" for fit in row.fits]
    assert [pair.replace(" 0.", " .") for pair in shown] == FITS[setting]
    found = {statuses(row)["early_bird_ff"], statuses(row)["early_bird_reinit"]}
    assert found <= {"fitted", "fitted, tie down"} if FITS[setting] else found == {"no fit"}


def test_a_tie_is_named_where_half_up_would_print_another_number():
    # 150,000 * (17 * 0.63 + 143 * 0.43) GFLOP = 10.83 P -> 10.85 -> 10.9 half up; the paper prints 10.8.
    row = next(row for row in table2_rows() if place(row) == ("vgg16", "cifar10", 0.5))
    cell = next(cell for cell in row.cells if cell.method == "early_bird_ff")
    assert (cell.printed, cell.recomputed, cell.status) == (Decimal("10.8"), Decimal("10.9"), "fitted, tie down")


@pytest.mark.parametrize("setting", SLIMMING, ids=str)
def test_the_slim_f_that_network_slimming_implies(setting):
    row = next(row for row in table2_rows() if place(row) == setting)
    cell = next(cell for cell in row.cells if cell.method == "network_slimming")
    assert tuple(map(float, cell.slim_gflops)) == SLIMMING[setting]
    assert cell.status == "implied F only"
    assert cell.recomputed is None


def test_vgg16_totals_without_a_fit_are_exact():
    for row in table2_rows():
        if row.model == "vgg16":
            assert {statuses(row)[method] for method in ("lottery_ticket", "snip", "thinet")} == {"exact"}


def test_snip_on_preresnet101_is_a_twentieth_off():
    cells = [cell for row in table2_rows() if row.model == "preresnet101" for cell in row.cells]
    snip = {(float(c.printed), float(c.recomputed), c.status) for c in cells if c.method == "snip"}
    assert snip == {(7.4, 7.45, "off by 0.05")}
    assert {c.status for c in cells if c.method == "lottery_ticket"} == {"exact"}
    assert {c.status for c in cells if c.method == "thinet"} == {"not derived"}


def test_eight_bit_rows_are_not_derived():
    cells = [cell for row in table2_rows() for cell in row.cells if cell.method in ("early_bird_lf", "early_bird_ll")]
    assert len(cells) == 24
    assert {(cell.recomputed, cell.status) for cell in cells} == {(None, "not derived")}


def test_every_one_of_the_96_cells_has_a_status():
    # LT 12, SNIP and ThiNet of VGG16 6 each; EB 2 x 11 settings, one cell by a tie; without a fit EB 2 x 1.
    counted = Counter(cell.status for row in table2_rows() for cell in row.cells)
    assert counted == {
        "exact": 24,
        "off by 0.05": 6,
        "fitted": 21,
        "fitted, tie down": 1,
        "no fit": 2,
        "implied F only": 12,
        "not derived": 30,
    }
    assert counted.total() == 96


def test_a_fitted_cell_comes_out_as_printed():
    cells = [cell for row in table2_rows() for cell in row.cells if cell.status == "fitted"]
    assert all(cell.recomputed == cell.printed for cell in cells)


@pytest.mark.parametrize(("prune_ratio", "gflops"), [(0.1, "0.51"), (0.3, "0.31"), (0.5, "0.16"), (0.7, "0.06")])
def test_f_of_thinets_vgg16(prune_ratio, gflops):
    assert thinet_vgg16_gflops(prune_ratio) == Decimal(gflops)


def test_thinet_cuts_nothing_at_ratio_zero():
    assert thinet_vgg16_gflops(0.0) == Decimal("0.63")


def test_implied_f_is_none_where_no_slim_network_gives_the_total():
    # 0.24 P for each 0.01 G: 0.24 * (31 + 14) = 10.8; 0.24 * (31 + 15) = 11.04, hence 11.05, hence 11.0 or 11.1.
    dense = Decimal("0.31")
    assert implied_slim_gflops(dense, Decimal("10.9")) == ()
    assert implied_slim_gflops(dense, Decimal("11.0")) == implied_slim_gflops(dense, Decimal("11.1"))
    assert implied_slim_gflops(dense, Decimal("11.1")) == (Decimal("0.15"),)
