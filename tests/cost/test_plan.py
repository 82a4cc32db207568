"""Plans against sums worked out by hand, and against the paper's own."""

from __future__ import annotations

import pytest

from earlybird.cost import MethodPlan, ModelCost, PlannedData, Schedule, price, steps_that_buy, training_macs
from earlybird.errors import ConfigError
from earlybird.methods.pipeline import plan_method
from earlybird.settings.run import RunConfig

DATA = PlannedData(train_images=1000, test_images=100, batch_size=64)


def network(macs: int) -> ModelCost:
    return ModelCost(
        params=1, macs=macs, train_macs=3 * macs, paper_flops=2.0 * macs, macs_by_width={"32x32": macs},
        train_macs_by_width={"32x32": 3 * macs},
    )  # fmt: skip


DENSE, SLIM = network(100), network(40)


def schedule(epochs: float = 10, ticket_epoch: float = 2, data: PlannedData = DATA) -> Schedule:
    return Schedule(data.steps(epochs), data, DENSE, SLIM, data.steps(ticket_epoch))


def plan(method: str, on: Schedule) -> MethodPlan:
    return plan_method(RunConfig.from_dict({"method": {"name": method}}).method, on)


def macs(method: str, **moments: float) -> int:
    on = schedule(**moments)
    return price(plan(method, on), on)[0].macs


def paper(method: str) -> float:
    flops = price(plan(method, schedule()), schedule())[0].paper_flops
    assert flops is not None
    return flops


def test_a_step_takes_the_last_partial_batch_too() -> None:
    assert (DATA.steps_per_epoch, DATA.batches(100)) == (16, 1)


def test_images_are_counted_in_whole_batches() -> None:
    # 16 steps an epoch: 15 of 64 images and one of 40. Two and a half epochs: 2 * 1000 + 8 * 64.
    assert [DATA.images_by(DATA.steps(epoch)) for epoch in (0, 1, 2.5, 3)] == [0, 1000, 2512, 3000]


def test_methods_cost_what_they_execute() -> None:
    # An epoch: dense 1000 * 300, slim 1000 * 120; the test set once: dense 100 * 100, slim 100 * 40.
    dense, slim, tested = 300_000, 120_000, {"dense": 10_000, "slim": 4_000}
    assert macs("dense") == 10 * dense + tested["dense"]
    assert macs("early_bird") == 2 * dense + 8 * slim + tested["slim"]
    assert macs("reinit") == 2 * dense + 10 * slim + tested["slim"]
    assert macs("lottery_ticket") == 20 * dense + tested["dense"]
    assert macs("snip") == 10 * dense + 64 * 300 + tested["dense"]  # one batch to score on
    assert macs("network_slimming") == 10 * dense + 10 * slim + tested["slim"]
    assert macs("thinet") == 10 * dense + 10 * slim + tested["slim"]  # without a network nothing is fine-tuned
    assert macs("snip_channels") == 10 * slim + 64 * 300 + tested["slim"]
    assert macs("soft_filter_pruning") == 10 * dense + tested["dense"] + tested["slim"]


def test_the_papers_count_charges_what_the_paper_charges() -> None:
    # An epoch: 3 * 1000 images * F, F = 200 and 80; no evaluation, no scoring, no fine-tuning.
    dense, slim = 600_000, 240_000
    assert paper("dense") == paper("snip") == 10 * dense
    assert paper("lottery_ticket") == 20 * dense
    assert paper("network_slimming") == paper("thinet") == paper("soft_filter_pruning") == 10 * (dense + slim)
    assert paper("reinit") == 2 * dense + 10 * slim


def test_the_papers_count_of_early_bird_is_the_papers_sum() -> None:
    # Two epochs dense and eight slim, three forward passes an image.
    assert paper("early_bird") == pytest.approx(3 * 1000 * (2 * 200 + 8 * 80))


def test_a_ticket_at_the_start_trains_slim_alone_and_one_at_the_end_dense_alone() -> None:
    assert macs("early_bird", ticket_epoch=0) == 10 * 120_000 + 4_000
    assert macs("early_bird", ticket_epoch=10) == 10 * 300_000 + 4_000


def test_phases_add_up_to_the_whole() -> None:
    work, phases = price(plan("early_bird", schedule()), schedule())
    assert list(phases) == ["search", "retrain", "evaluate"]
    assert sum(part.macs for part in phases.values()) == work.macs
    assert work.images == 10 * 1000 + 100


def test_epochs_at_equal_cost() -> None:
    spent = training_macs(DENSE, DATA, 0, 32) + training_macs(SLIM, DATA, 32, 160)
    assert spent == 2 * 300_000 + 8 * 120_000
    # 5.2 dense epochs; the steps before the last of an epoch have 64 images of its 1000.
    assert steps_that_buy(spent, DENSE, DATA) == 5 * 16 + 3
    assert plan("dense_shorter", schedule()).stages[0].end_step == 5 * 16 + 3
    assert plan("uniform", schedule()).stages[0].end_step == steps_that_buy(spent, SLIM, DATA) == 13 * 16
    assert plan("scratch_longer", schedule()).stages[0].end_step == 25 * 16


@pytest.mark.parametrize(
    ("epochs", "ticket", "message"),
    [
        (10, 11, r"ticket epoch is 11; give a number in \[0, 10\]"),
        (10, -1, "ticket epoch is -1"),
        (0, 0, "epochs is 0"),
    ],
)
def test_impossible_schedules_are_refused(epochs: float, ticket: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule(epochs, ticket)


def test_impossible_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0; give an integer >= 1"):
        PlannedData(10, 10, 0)


def test_validation_is_read_after_each_epoch_and_not_where_a_phase_breaks_off() -> None:
    # e = 2.5: the search reads after epochs 1 and 2; the retrain after 3, ..., 10.
    data = PlannedData(train_images=1000, test_images=100, batch_size=64, val_images=10)
    on = schedule(10, 2.5, data)
    search, retrain = plan("early_bird", on).stages
    assert (search.validations(data), retrain.validations(data)) == (2, 8)
    with_val, _ = price(plan("early_bird", on), on)
    without, _ = price(plan("early_bird", schedule(10, 2.5)), schedule(10, 2.5))
    assert with_val.macs - without.macs == 2 * 10 * 100 + 8 * 10 * 40
    assert with_val.paper_flops == without.paper_flops
