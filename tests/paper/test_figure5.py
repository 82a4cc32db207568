"""Figure 5: the curve of each fit, its baseline, and which settings bear out the text."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from earlybird.paper.figure5 import DRAW_EPOCHS, Figure5Row, figure5_rows, settings_by_claim
from earlybird.paper.table2 import table2_rows


@pytest.fixture
def vgg() -> Figure5Row:
    return next(row for row in figure5_rows() if str(row) == "vgg16 cifar10 p=0.3")


def test_a_curve_worked_out_by_hand(vgg):
    # 0.15 P for each GFLOP-epoch: 0.15 * (e * 0.63 + (160 - e) * 0.51) = 12.24 + 0.018 e
    assert (float(vgg.dense_gflops), float(vgg.slim_gflops), vgg.draw_epoch) == (0.63, 0.51, 23)
    curve = [(epoch, float(total)) for epoch, total in vgg.curve]
    assert curve == [(0, 12.24), (10, 12.42), (20, 12.6), (40, 12.96), (80, 13.68), (160, 15.12)]
    assert vgg.drawn == Decimal("12.65")  # 12.654
    assert vgg.baseline == Decimal("27.36")  # 0.15 * 160 * 1.14
    assert vgg.reduction == Decimal("2.16")  # 27.36 / 12.654 = 2.1622
    assert vgg.inside_claim  # 2.2 when rounded as the text rounds


def test_every_fit_of_the_first_half_has_a_row():
    early = [fit for row in table2_rows() for fit in row.fits if fit.draw_epoch <= 80]
    assert [row.draw_epoch for row in figure5_rows()] == [fit.draw_epoch for fit in early]
    assert len(early) == 15


def test_a_later_draw_costs_more():
    for row in figure5_rows():
        assert [epoch for epoch, _ in row.curve] == list(DRAW_EPOCHS)
        assert all(earlier < later for (_, earlier), (_, later) in pairwise(row.curve))


def test_reductions_at_the_earliest_fits():
    found = {str(row): float(row.reduction) for row in reversed(figure5_rows())}
    assert found == {
        "preresnet101 cifar10 p=0.3": 2.11,  # 160 * 57 / (32 * 31 + 128 * 26) = 9120 / 4320
        "preresnet101 cifar10 p=0.5": 2.20,  # 8320 / 3790
        "preresnet101 cifar10 p=0.7": 3.02,  # 7040 / 2332
        "vgg16 cifar10 p=0.3": 2.16,
        "vgg16 cifar10 p=0.5": 2.35,  # 160 * 106 / (17 * 63 + 143 * 43) = 16960 / 7220
        "preresnet101 cifar100 p=0.3": 2.13,  # 9120 / 4280
        "preresnet101 cifar100 p=0.5": 2.30,  # 8320 / 3620
        "preresnet101 cifar100 p=0.7": 3.15,  # 6880 / 2186
        "vgg16 cifar100 p=0.1": 2.06,  # 19360 / 9405
        "vgg16 cifar100 p=0.3": 2.21,  # 17920 / 8120
        "vgg16 cifar100 p=0.5": 2.49,  # 16320 / 6552
    }


def test_five_settings_lie_inside_the_texts_range_six_outside_and_one_has_no_curve():
    inside, outside, unfitted = settings_by_claim().values()
    assert inside == [
        "preresnet101 cifar10 p=0.5",
        "vgg16 cifar10 p=0.3",
        "vgg16 cifar10 p=0.5",
        "preresnet101 cifar100 p=0.5",
        "vgg16 cifar100 p=0.3",
    ]
    assert outside == [
        "preresnet101 cifar10 p=0.3",
        "preresnet101 cifar10 p=0.7",
        "preresnet101 cifar100 p=0.3",
        "preresnet101 cifar100 p=0.7",
        "vgg16 cifar100 p=0.1",
        "vgg16 cifar100 p=0.5",
    ]
    assert unfitted == ["vgg16 cifar10 p=0.7"]
