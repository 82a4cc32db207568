"""Decimal sums, the paper's roundings and the counted F."""

from __future__ import annotations

from decimal import Decimal

import pytest

from earlybird.errors import ConfigError
from earlybird.paper.claims import DrawFit, dense_gflops, draw_fits, petaflops, slim_grid, to_hundredths
from earlybird.paper.table2 import may_print, printed_round, rounded_like


@pytest.mark.parametrize(
    ("total", "printed"),
    [
        ("30.24", 30.3),  # 30.25, then the tie goes up: binary floats would give 30.2
        ("27.36", 27.4),  # 27.35
        ("10.83", 10.9),  # 10.85, which a float holds as a little less
        ("15.12", 15.1),  # 15.10
        ("7.44", 7.45),
        ("7.425", 7.45),  # a tie of the first step
        ("7.424", 7.4),
        ("9.974", 9.95),
        ("9.975", 10.0),
        ("0", 0.0),
    ],
)
def test_table_2_rounds_to_0_05_and_then_to_three_digits_half_up(total, printed):
    assert printed_round(Decimal(total)) == Decimal(str(printed))


def test_a_cell_that_is_no_multiple_of_0_05_was_rounded_to_three_digits_alone():
    assert rounded_like(Decimal("3.77"), Decimal("3.771")) == Decimal("3.77")
    assert rounded_like(Decimal("3.75"), Decimal("3.771")) == Decimal("3.75")
    assert rounded_like(Decimal("30.3"), Decimal("30.24")) == Decimal("30.3")


def test_a_tie_of_the_second_rounding_may_have_gone_either_way():
    # 10.83 is 10.85 after the first rounding, which three digits show as 10.9 or 10.8.
    assert [may_print(Decimal(cell), Decimal("10.83")) for cell in ("10.7", "10.8", "10.9")] == [False, True, True]


def test_table_3_rounds_half_up():
    assert to_hundredths(Decimal("2.345")) == Decimal("2.35")
    assert to_hundredths(Decimal("2.3449")) == Decimal("2.34")


def test_decimal_sums_are_exact():
    # 3 * 50,000 * (10 * 0.63 + 150 * 0.51) GFLOP = 150,000 * 82.8 G = 12.42 P
    drawn = petaflops(10 * Decimal("0.63") + 150 * Decimal("0.51"), "cifar10")
    assert drawn == petaflops(Decimal("82.8"), "cifar10") == Decimal("12.42")


def test_the_grid_ends_at_the_dense_network():
    assert list(slim_grid(Decimal("0.03"))) == [Decimal("0.01"), Decimal("0.02"), Decimal("0.03")]


def test_every_pair_that_matches_is_found_and_epochs_without_search_or_retraining_are_not_tried():
    fits = draw_fits([Decimal(1), Decimal(2)], 4, lambda epoch, slim: epoch * slim == 2)
    assert fits == (DrawFit(1, Decimal(2), 4), DrawFit(2, Decimal(1), 4))
    everything = draw_fits([Decimal(1)], 4, lambda epoch, slim: True)
    assert [fit.draw_epoch for fit in everything] == [1, 2, 3]


@pytest.mark.parametrize(
    ("network", "gflops"), [("vgg16", "0.63"), ("preresnet101", "0.31"), ("resnet18", "3.64"), ("resnet50", "8.21")]
)
def test_dense_f_of_the_four_networks(network, gflops):
    assert dense_gflops(network) == Decimal(gflops)


def test_a_fit_reads_as_a_pair_and_a_star_marks_a_tie():
    assert str(DrawFit(17, Decimal("0.43"), 160)) == "(17, 0.43)"
    assert str(DrawFit(17, Decimal("0.4"), 160, is_half_up=False)) == "(17, 0.40)*"


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no network 'resnet34'; give one of vgg16, preresnet101"):
        dense_gflops("resnet34")
