"""`DataConfig`: the images of a run, and how they are split and augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from earlybird.settings.fields import check_settings, setting


@dataclass(frozen=True)
class DataConfig:
    """Data set, split and augmentation.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str = setting("cifar10", "digits, cifar10, cifar100, hf:NAME-or-folder, imagefolder:PATH, pkg.mod:callable")
    root: str | None = setting(None, "folder of cifar10 / cifar100")
    download: bool = setting(False, "download cifar10 / cifar100 where absent")
    val_fraction: float = setting(0.0, "part of the training images set aside for validation", "[0, 1)")
    train_images: int | None = setting(None, "train on a fixed, stratified subset of this size", ">= 1")
    image_size: int | None = setting(None, "height and width of a batch, where it can be chosen", ">= 1")
    augment: Literal["auto", "crop_flip", "flip", "none", "imagenet"] = setting(
        "auto", "auto: crop_flip for images in memory (none for digits), imagenet for folders"
    )
    workers: int = setting(0, "data processes, for sets too large for memory", ">= 0")
    cache: str | None = setting(None, "where decoded images are kept; default ~/.cache/earlybird")

    def __post_init__(self) -> None:
        check_settings("data", self)
