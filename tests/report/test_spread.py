"""Confidence intervals worked out by hand."""

from __future__ import annotations

import math

import pytest

from earlybird.report.quantities import Spread, sampling_error, spread_of, t_quantile


def test_the_interval_of_three_pairs_is_students():
    # Mean 2, deviation 1, t(2) = 4.303: half a width of 4.303 / sqrt(3).
    found = spread_of([1.0, 2.0, 3.0])
    assert found == Spread(2.0, 1.0, 3)
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3))


def test_one_pair_has_no_interval_and_none_no_difference():
    assert spread_of([0.7]) == Spread(0.7, None, 1)
    assert spread_of([0.7]).half_width is None
    assert spread_of([]) is None


def test_equal_differences_leave_no_doubt():
    assert spread_of([0.5, 0.5]) == Spread(0.5, 0.0, 2)
    assert spread_of([0.5, 0.5]).half_width == 0.0


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (10, 2.228), (30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980)]
)
def test_the_quantiles_are_those_of_the_tables(degrees, quantile):
    assert t_quantile(degrees) == pytest.approx(quantile, abs=6e-4)


def test_an_accuracy_of_half_on_ten_thousand_images_is_known_to_half_a_point():
    assert sampling_error(0.5, 10_000) == pytest.approx(0.005)
    assert sampling_error(1.0, 100) == pytest.approx((101 / 102 * 1 / 102 / 100) ** 0.5)
    assert sampling_error(0.5, 0) == 0.0
