"""What training costs: operations of a network (`flops`), the paper's sums (`paper`), a run's ledger (`ledger`)."""

from earlybird.cost.counters import NO_ENERGY_COUNTER, EnergyCounter, NoCounter, find_counter, measure_idle
from earlybird.cost.energy_estimate import estimated_joules, unit_energies
from earlybird.cost.flops import ModelCost, count_cost, count_cost_and_traffic, layer_macs
from earlybird.cost.ledger import PHASES, CostLedger, PhaseCost
from earlybird.cost.meter import PhaseMeter
from earlybird.cost.paper import (
    CIFAR_TRAIN_IMAGES,
    IMAGENET_TRAIN_IMAGES,
    dense_training_flops,
    early_bird_training_flops,
    training_flops,
)
from earlybird.cost.traffic import ModelTraffic, Traffic, count_traffic
from earlybird.cost.work import Work, bit_operations, evaluation_work, training_work

__all__ = [
    "CIFAR_TRAIN_IMAGES",
    "IMAGENET_TRAIN_IMAGES",
    "NO_ENERGY_COUNTER",
    "PHASES",
    "CostLedger",
    "EnergyCounter",
    "ModelCost",
    "ModelTraffic",
    "NoCounter",
    "PhaseCost",
    "PhaseMeter",
    "Traffic",
    "Work",
    "bit_operations",
    "count_cost",
    "count_cost_and_traffic",
    "count_traffic",
    "dense_training_flops",
    "early_bird_training_flops",
    "estimated_joules",
    "evaluation_work",
    "find_counter",
    "layer_macs",
    "measure_idle",
    "training_flops",
    "training_work",
    "unit_energies",
]
