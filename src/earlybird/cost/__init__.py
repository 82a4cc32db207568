"""Cost of training: of an operation, of one image in a network, of a plan, and of a run so far (`ledger`)."""

from earlybird.cost.ledger import PHASES, CostLedger, PhaseCost, Work, bit_operations, evaluation_work, training_work
from earlybird.cost.meter import PhaseMeter
from earlybird.cost.network import ModelCost, Traffic, count_cost, count_cost_and_traffic, count_traffic, layer_macs

__all__ = [
    "PHASES", "CostLedger", "ModelCost", "PhaseCost", "PhaseMeter", "Traffic", "Work", "bit_operations", "count_cost",
    "count_cost_and_traffic", "count_traffic", "evaluation_work", "layer_macs", "training_work",
]  # fmt: skip
