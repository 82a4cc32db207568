"""`recorded_schedule`: the schedule of a finished run, for which a method's plan gives what the run executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from earlybird.cost import ModelCost
from earlybird.cost.plan import PlannedData, Schedule


def recorded_schedule(
    record: Mapping[str, Any], *, epochs: int | None = None, network: nn.Module | None = None
) -> Schedule:
    """Schedule of a finished run, its networks as they were counted.

    Args:
        record: of the run.
        epochs: T, if another than the run's; a ticket is drawn at the same fraction of it.
        network: the unpruned network, for methods whose plan depends on it.
    """
    data, training = record["data"], record["config"]["training"]
    images = PlannedData(
        data["train_images"], record["test"]["samples"], training["batch_size"], data.get("val_images") or 0,
        training["eval_batch_size"],
    )  # fmt: skip
    total = (epochs or training["epochs"]) * images.steps_per_epoch
    drawn = (record.get("ticket") or {}).get("fraction_of_schedule")
    return Schedule(
        total_steps=total,
        data=images,
        dense=_cost(record["dense"]),
        slim=_cost(record["final"]),
        ticket_step=total if drawn is None else round(drawn * total),
        classes=data["classes"],
        network=network,
        image_shape=tuple(data["image_shape"]),
        precision=record["resolved"]["precision"],
        budget_macs=record["notes"].get("budget_macs"),
    )


def _cost(counted: Mapping[str, Any]) -> ModelCost:
    """Cost of one image as the record has it: without widths of operands and without traffic."""
    macs, train_macs = counted["macs"], counted["train_macs"]
    return ModelCost(
        counted["params"], macs, train_macs, 1e9 * counted["paper_gflops"], {"all": macs}, {"all": train_macs}
    )
