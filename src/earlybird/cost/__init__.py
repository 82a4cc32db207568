"""Cost of training: a network's operations (`flops`, `traffic`), the paper's convention (`paper`), a run's `ledger`."""

from earlybird.cost.flops import ModelCost, count_cost, count_cost_and_traffic, layer_macs
from earlybird.cost.ledger import PHASES, CostLedger, PhaseCost, Work, bit_operations, evaluation_work, training_work
from earlybird.cost.meter import PhaseMeter
from earlybird.cost.traffic import ModelTraffic, Traffic, count_traffic

__all__ = [
    "PHASES", "CostLedger", "ModelCost", "ModelTraffic", "PhaseCost", "PhaseMeter", "Traffic", "Work", "bit_operations",
    "count_cost", "count_cost_and_traffic", "count_traffic", "evaluation_work", "layer_macs", "training_work",
]  # fmt: skip
