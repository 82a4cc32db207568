"""Cost of training: of an operation, of one image in a network, of a layer in seconds, of a plan, of a run so far."""

from earlybird.cost.layer_table import LayerTable, measure_layer_table
from earlybird.cost.layer_timing import LayerSeconds, layer_seconds
from earlybird.cost.ledger import PHASES, CostLedger, PhaseCost, Work, bit_operations, evaluation_work, training_work
from earlybird.cost.meter import PhaseMeter, TrainingStep, read_clocks, step_seconds
from earlybird.cost.network import ModelCost, count_cost, count_cost_and_traffic, layer_macs
from earlybird.cost.plan import (
    MASKED,
    MethodPlan,
    PlannedData,
    Schedule,
    SmallerImages,
    Stage,
    price,
    steps_that_buy,
    steps_that_train,
    training_macs,
)

__all__ = [
    "MASKED", "PHASES", "CostLedger", "LayerSeconds", "LayerTable", "MethodPlan", "ModelCost", "PhaseCost",
    "PhaseMeter", "PlannedData", "Schedule", "SmallerImages", "Stage", "TrainingStep", "Work", "bit_operations",
    "count_cost", "count_cost_and_traffic", "evaluation_work", "layer_macs", "layer_seconds", "measure_layer_table",
    "price", "read_clocks", "step_seconds", "steps_that_buy", "steps_that_train", "training_macs",
    "training_work",
]  # fmt: skip
