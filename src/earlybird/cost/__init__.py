"""What training costs: operations of a network (`flops`), the paper's sums (`paper`), a run's ledger (`ledger`)."""

from earlybird.cost.flops import ModelCost, count_cost
from earlybird.cost.ledger import NO_ENERGY_COUNTER, PHASES, CostLedger, PhaseCost, PhaseMeter
from earlybird.cost.paper import (
    CIFAR_TRAIN_IMAGES,
    IMAGENET_TRAIN_IMAGES,
    dense_training_flops,
    early_bird_training_flops,
    training_flops,
)

__all__ = [
    "CIFAR_TRAIN_IMAGES",
    "IMAGENET_TRAIN_IMAGES",
    "NO_ENERGY_COUNTER",
    "PHASES",
    "CostLedger",
    "ModelCost",
    "PhaseCost",
    "PhaseMeter",
    "count_cost",
    "dense_training_flops",
    "early_bird_training_flops",
    "training_flops",
]
