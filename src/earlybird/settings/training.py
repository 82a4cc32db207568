"""`TrainingSettings`: what the paper's Section 4.1 and `docs/method.md` section 2 call the training protocol.

Plain values only, so that reading a configuration needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from earlybird.settings.fields import check_types, require

Schedule = Literal["step", "cosine", "constant"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained. Fractions are of the whole schedule, so a short run is the same schedule, scaled.

    Raises:
        ConfigError: a value is of another type or out of its range; the message names it and the legal values.
    """

    epochs: int = field(default=160, metadata={"help": "T, epochs of the whole schedule"})
    batch_size: int = field(default=128, metadata={"help": "images per optimizer step"})
    lr: float = field(default=0.1, metadata={"help": "initial learning rate"})
    momentum: float = field(default=0.9, metadata={"help": "SGD momentum"})
    weight_decay: float = field(default=1e-4, metadata={"help": "L2 weight decay on all parameters"})
    schedule: Schedule = field(default="step", metadata={"help": "learning-rate schedule"})
    milestones: tuple[float, ...] = field(
        default=(0.5, 0.75), metadata={"help": "fractions of the schedule at which 'step' drops"}
    )
    lr_decay: float = field(default=0.1, metadata={"help": "factor of each drop"})
    warmup: float = field(default=0.0, metadata={"help": "fraction of the schedule with linearly rising lr"})
    label_smoothing: float = field(default=0.0, metadata={"help": "cross-entropy label smoothing"})
    micro_batches: int = field(default=1, metadata={"help": "split each batch, accumulating gradients"})
    clip_norm: float = field(default=0.0, metadata={"help": "clip the gradient norm; 0 = off"})
    eval_batch_size: int = field(default=500, metadata={"help": "images of a forward pass in evaluation"})
    precision: PrecisionChoice = field(
        default="auto", metadata={"help": "auto measures fp32 against bf16 once and records the choice"}
    )
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda or cuda:N"})
    seed: int = field(default=0, metadata={"help": "the one seed that all others follow from"})
    checkpoint_every: int = field(
        default=0, metadata={"help": "optimizer steps between checkpoints; 0 = once per epoch"}
    )
    budget_macs: float = field(
        default=0.0,
        metadata={
            "help": "training MACs of the whole run, search included: the training after the search is as long as what "
            "is left of them buys; 0 = as long as the schedule"
        },
    )

    def __post_init__(self) -> None:
        check_types("training", self)
        require("training.epochs", self.epochs, self.epochs >= 1, "an integer >= 1")
        require("training.batch_size", self.batch_size, self.batch_size >= 1, "an integer >= 1")
        require("training.lr", self.lr, _finite(self.lr) and self.lr > 0, "a number > 0")
        require("training.momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        require("training.weight_decay", self.weight_decay, _finite(self.weight_decay), "a number >= 0")
        rising = all(0 < a < 1 for a in self.milestones) and list(self.milestones) == sorted(self.milestones)
        require("training.milestones", list(self.milestones), rising, "rising fractions in (0, 1)")
        require("training.lr_decay", self.lr_decay, 0 < self.lr_decay <= 1, "a number in (0, 1]")
        require("training.warmup", self.warmup, 0 <= self.warmup < 1, "a fraction in [0, 1)")
        require("training.label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "a number in [0, 1)")
        require("training.micro_batches", self.micro_batches, self.micro_batches >= 1, "an integer >= 1")
        require("training.eval_batch_size", self.eval_batch_size, self.eval_batch_size >= 1, "an integer >= 1")
        require("training.clip_norm", self.clip_norm, _finite(self.clip_norm), "a number >= 0 (0 = off)")
        require("training.checkpoint_every", self.checkpoint_every, self.checkpoint_every >= 0, "an integer >= 0")
        require("training.budget_macs", self.budget_macs, _finite(self.budget_macs), "a number >= 0 (0 = none)")
        require("training.seed", self.seed, 0 <= self.seed < 2**31, "an integer in [0, 2^31)")


def _finite(value: float) -> bool:
    return math.isfinite(value) and value >= 0
