"""`TrainingSettings`: the training protocol of the paper's Section 4.1 and `docs/method.md` section 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from earlybird.errors import require
from earlybird.settings.fields import check_settings, setting

Schedule = Literal["step", "cosine", "constant"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainingSettings:
    """Optimizer, schedule, precision, device and seed. Fractions are of the whole schedule: a short run scales it.

    Raises:
        ConfigError: a value is of another type or out of its range; the message names it and what is expected.
    """

    epochs: int = setting(160, "T, epochs of the whole schedule", ">= 1")
    batch_size: int = setting(128, "images per optimizer step", ">= 1")
    lr: float = setting(0.1, "initial learning rate", "> 0")
    momentum: float = setting(0.9, "SGD momentum", "[0, 1)")
    weight_decay: float = setting(1e-4, "L2 weight decay on all parameters", ">= 0")
    schedule: Schedule = setting("step", "learning-rate schedule")
    milestones: tuple[float, ...] = setting((0.5, 0.75), "fractions of the schedule at which 'step' drops")
    lr_decay: float = setting(0.1, "factor of each drop", "(0, 1]")
    warmup: float = setting(0.0, "fraction of the schedule with linearly rising lr", "[0, 1)")
    label_smoothing: float = setting(0.0, "cross-entropy label smoothing", "[0, 1)")
    micro_batches: int = setting(1, "split each batch, accumulating gradients", ">= 1")
    clip_norm: float = setting(0.0, "clip the gradient norm; 0 = off", ">= 0")
    eval_batch_size: int = setting(500, "images of a forward pass in evaluation", ">= 1")
    precision: PrecisionChoice = setting("auto", "auto measures fp32 against bf16 once and records the choice")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    seed: int = setting(0, "the one seed that all others follow from", "[0, 2147483648)")
    checkpoint_every: int = setting(0, "optimizer steps between checkpoints; 0 = once per epoch", ">= 0")
    budget_macs: float = setting(
        0.0,
        "training MACs of the whole run, search included: the training after the search is as long as what is left of "
        "them buys; 0 = as long as the schedule",
        ">= 0",
    )

    def __post_init__(self) -> None:
        check_settings("training", self)
        rising = all(0 < a < 1 for a in self.milestones) and list(self.milestones) == sorted(self.milestones)
        require("training.milestones", list(self.milestones), rising, "rising fractions in (0, 1)")
