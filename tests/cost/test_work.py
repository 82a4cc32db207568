"""Counted work of training and of evaluation, and sums of it."""

from __future__ import annotations

import pytest

from earlybird.cost import ModelCost, Work, bit_operations, evaluation_work, training_work
from earlybird.cost.network import ModelTraffic, Traffic
from earlybird.errors import ModelError

COST = ModelCost(
    params=1,
    macs=10,
    train_macs=30,
    paper_flops=25.0,
    macs_by_width={"32x32": 10},
    train_macs_by_width={"16x16": 20, "32x32": 10},
    traffic=ModelTraffic(forward=Traffic(7, 100), training=Traffic(20, 1000)),
)


def test_training_charges_three_forward_passes_in_the_papers_count() -> None:
    work = training_work(COST, images=4, batches=2)
    assert work == Work(4, {"16x16": 80, "32x32": 40}, 3 * 4 * 25.0, 4 * 20 + 2 * 1000)
    assert work.macs == 120


def test_evaluation_costs_products_but_nothing_in_the_papers_count() -> None:
    assert evaluation_work(COST, images=4, batches=1) == Work(4, {"32x32": 40}, 0.0, 4 * 7 + 100)


def test_sums_keep_what_is_unknown_unknown() -> None:
    both = training_work(COST, 4, 2) + evaluation_work(COST, 4, 1)
    assert (both.images, both.macs_by_width, both.traffic_bytes) == (8, {"16x16": 80, "32x32": 80}, 2080 + 128)
    unknown = both + Work(1, {"8x8": 5}, None, None)
    assert (unknown.paper_flops, unknown.traffic_bytes, unknown.macs) == (None, None, 165)


def test_bit_operations_are_products_of_widths() -> None:
    assert bit_operations({"32x32": 2, "8x8": 3, "8x32": 1}) == 2 * 1024 + 3 * 64 + 256


def test_a_cost_whose_widths_do_not_add_up_is_refused() -> None:
    # A ledger adds up the widths: without them a training would cost nothing.
    with pytest.raises(ModelError, match=r"macs is 10, by width \{\}; give widths that add up"):
        ModelCost(params=1, macs=10, train_macs=0, paper_flops=0.0)
