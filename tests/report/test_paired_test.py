"""Paired t-test and Holm's correction against printed tables and by hand."""

from __future__ import annotations

import statistics

import pytest

from earlybird.report.paired_test import holm, probability
from earlybird.report.quantities import Spread, spread_of


# The 5 % points of Student's t, as tables print them, for 1 to 6 degrees of freedom.
@pytest.mark.parametrize(("degrees", "t"), [*enumerate([12.706, 4.303, 3.182, 2.776, 2.571, 2.447], 1)])
def test_a_paired_t_test_at_the_tabulated_point_has_probability_five_percent(degrees: int, t: float):
    plain = [float(i) for i in range(degrees + 1)]
    middle, error = statistics.fmean(plain), statistics.stdev(plain) / len(plain) ** 0.5
    points = [value - middle + t * error for value in plain]  # whose mean is t standard errors
    assert probability(spread_of(points)) == pytest.approx(0.05, abs=1e-4)


def test_one_pair_and_pairs_that_agree_to_the_image_have_no_probability():
    assert probability(Spread(2.0, None, 1)) is None
    # One image of 355 in each of two seeds: no spread, which is no certainty.
    assert probability(spread_of([100 * (352 / 355 - 351 / 355), 100 * (354 / 355 - 353 / 355)])) is None
    assert probability(spread_of([0.0, 0.0])) is None


def test_holm_multiplies_the_smallest_probability_by_their_number_and_keeps_the_order():
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
