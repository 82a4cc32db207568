"""`RunConfig`: everything that decides a run, in frozen dataclasses of plain values.

The same values are flags, YAML and the record. Reading them imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from earlybird.errors import ConfigError
from earlybird.methods.catalog import Method, method_class
from earlybird.methods.early_bird import EarlyBirdTraining
from earlybird.training.settings import TrainingSettings


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Raises:
        ConfigError: `width` is not positive.
    """

    name: str = field(
        default="vgg16",
        metadata={"help": "`earlybird list`, torchvision:NAME, timm:NAME, pkg.mod:callable, file.py:callable"},
    )
    width: float = field(default=1.0, metadata={"help": "width multiplier of the built-in networks"})

    def __post_init__(self) -> None:
        if not 0 < self.width < 100:
            raise ConfigError(f"model.width is {self.width!r}; give a number > 0")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split and augmented.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str = field(
        default="cifar10",
        metadata={"help": "digits, cifar10, cifar100, hf:NAME-or-folder, imagefolder:PATH, pkg.mod:callable"},
    )
    root: str | None = field(default=None, metadata={"help": "folder of cifar10 / cifar100"})
    download: bool = field(default=False, metadata={"help": "download cifar10 / cifar100 where absent"})
    val_fraction: float = field(default=0.0, metadata={"help": "part of the training images set aside for validation"})
    train_images: int | None = field(
        default=None, metadata={"help": "train on a fixed, stratified subset of this size"}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "height and width of a batch, where it can be chosen"}
    )
    augment: Literal["auto", "crop_flip", "flip", "none", "imagenet"] = field(
        default="auto",
        metadata={"help": "auto: crop_flip for images in memory (none for digits), imagenet for folders"},
    )
    workers: int = field(default=0, metadata={"help": "data processes, for sets too large for memory"})
    cache: str | None = field(
        default=None, metadata={"help": "where decoded images are kept; default ~/.cache/earlybird"}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"data.val_fraction is {self.val_fraction!r}; give a fraction in [0, 1)")
        if self.train_images is not None and self.train_images < 1:
            raise ConfigError(f"data.train_images is {self.train_images!r}; give an integer >= 1")
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers!r}; give an integer >= 0")


@dataclass(frozen=True)
class RunConfig:
    """One run: network, data, method, training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: Method = field(default_factory=EarlyBirdTraining)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, the method's name first among its settings."""
        plain = {
            section: dataclasses.asdict(getattr(self, section)) for section in ("model", "data", "method", "training")
        }
        plain["method"] = {"name": self.method.name, **plain["method"]}
        plain["training"]["milestones"] = list(self.training.milestones)
        return plain

    def to_yaml(self) -> str:
        """The same as YAML."""
        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False)
        return text

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RunConfig:
        """Build a configuration from nested values.

        Raises:
            ConfigError: a section or key is unknown, or a value is refused.
        """
        _refuse_unknown("section", plain, ("model", "data", "method", "training"))
        method = dict(plain.get("method", {}))
        kind = method_class(method.pop("name", EarlyBirdTraining.name))
        training = dict(plain.get("training", {}))
        if "milestones" in training:
            training["milestones"] = tuple(training["milestones"])
        return cls(
            model=_build(ModelConfig, "model", plain.get("model", {})),
            data=_build(DataConfig, "data", plain.get("data", {})),
            method=_build(kind, "method", method),
            training=_build(TrainingSettings, "training", training),
        )


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Lines `section.key: old -> new` for every setting on which two configurations differ."""
    lines = []
    for section in {**a, **b}:
        old, new = a.get(section, {}), b.get(section, {})
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                lines.append(f"{section}.{key}: {old.get(key)!r} -> {new.get(key)!r}")
    return lines


def _build(kind: Any, section: str, values: dict[str, Any]) -> Any:
    _refuse_unknown(f"key in {section!r}", values, [f.name for f in dataclasses.fields(kind)])
    return kind(**values)


def _refuse_unknown(what: str, given: dict[str, Any], legal: Any) -> None:
    for key in given:
        if key not in legal:
            close = difflib.get_close_matches(key, legal, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"unknown {what}: {key!r}; {hint}legal: {', '.join(legal)}")
