"""`ThiNet`: settings of ThiNet (Luo et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from earlybird.settings.early_bird import DEFAULT_ROUND_TO
from earlybird.settings.fields import setting
from earlybird.settings.method import DenseStartSettings


@dataclass(frozen=True)
class ThiNet(DenseStartSettings):
    """Train dense, cut layer by layer what the next layer would miss least, fine-tune after each, retrain."""

    name: ClassVar[str] = "thinet"

    prune_ratio: float = setting(0.5, "fraction of each layer's channels to remove", "[0, 1)")
    images_per_class: int = setting(10, "training images per class to sample", ">= 1")
    locations: int = setting(10, "(output channel, position) pairs to sample in each image", ">= 1")
    finetune_steps: int = setting(100, "fine-tuning steps after each layer", ">= 0")
    finetune_lr: float = setting(1e-3, "learning rate of these steps", "> 0")
    policy: Literal["inner", "tie"] = setting("inner", "residual policy: what crosses an add stays, or is cut together")
    min_channels: int = setting(1, "channels that stay in every layer", ">= 1")
    round_to: int = setting(DEFAULT_ROUND_TO, "kept widths are multiples of this; 1 = int((1 - p) * C)", ">= 1")

    def starts_from_dense(self) -> bool:
        """The dense training comes first, whatever the settings."""
        return True
