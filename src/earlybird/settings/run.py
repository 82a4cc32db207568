"""`RunConfig`: all settings of a run; the same values are flags, YAML and the record."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from earlybird.atomic import read_file
from earlybird.errors import ConfigError, did_you_mean, one_line, require
from earlybird.settings.budget import parse_budget
from earlybird.settings.catalog import MatchedToTicket, WideStart, method_class, name_of, preset_settings
from earlybird.settings.fields import check_ranges, check_settings, setting
from earlybird.settings.method import ROUND_TO, EarlyBirdTraining, Method
from earlybird.user_code import Kind, is_code

PrecisionChoice = Literal["auto", "fp32", "bf16"]
StepKind = Literal["eager", "captured", "compiled"]
StepChoice = Literal["auto", "eager", "captured", "compiled"]
Tf32Choice = Literal["conv", "all", "never"]

# Method -> its default `round_to` before that became "auto".
_ROUND_TO_BEFORE_AUTO = {WideStart.name: ROUND_TO}
_ONE_OF_THEM = "leave one of them out"

SECTIONS = ("model", "data", "method", "training")
# The flags that may name code of the user's own, and what it is then.
CODE_FLAGS: Mapping[str, Kind] = {
    "--model": "model", "--data": "data", "--method": "method", "--methods": "method",
    "--method.criterion": "criterion",
}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Name and width of the network.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str = setting("vgg16", "`earlybird list`, torchvision:NAME, timm:NAME, pkg.mod:callable, file.py:callable")
    width: float = setting(1.0, "width multiplier of the built-in networks", "(0, 100)")

    def __post_init__(self) -> None:
        check_settings("model", self)


@dataclass(frozen=True)
class DataConfig:
    """Data set, split and augmentation.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str = setting(
        "cifar10", "digits, cifar10, cifar100, hf:NAME, hf:FOLDER, imagefolder:PATH, pkg.mod:callable, file.py:callable"
    )
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
    nesterov: bool = setting(False, "Nesterov's form of the momentum")
    weight_decay: float = setting(1e-4, "L2 weight decay on all parameters", ">= 0")
    schedule: Literal["step", "cosine", "linear", "constant"] = setting(
        "step", "learning-rate schedule; cosine and linear fall to 0 over what follows the warm-up"
    )
    milestones: tuple[float, ...] = setting((0.5, 0.75), "fractions of the schedule at which 'step' drops")
    lr_decay: float = setting(0.1, "factor of each drop", "(0, 1]")
    warmup: float = setting(0.0, "fraction of the schedule with linearly rising lr", "[0, 1)")
    label_smoothing: float = setting(0.0, "cross-entropy label smoothing", "[0, 1)")
    ema: float = setting(
        0.0,
        "decay of an exponential moving average of the weights, which is evaluated and saved in their place; 0 = none",
        "[0, 1)",
    )
    low_resolution: float = setting(
        0.0, "share of each schedule, its first, that trains on images of 3/4 of the side; 0 = none", "[0, 1)"
    )
    micro_batches: int = setting(1, "split each batch, accumulating gradients", ">= 1")
    clip_norm: float = setting(0.0, "clip the gradient norm; 0 = off", ">= 0")
    eval_batch_size: int = setting(500, "images of a forward pass in evaluation", ">= 1")
    precision: PrecisionChoice = setting("auto", "auto measures fp32 against bf16 once and records the choice")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    step: StepChoice = setting(
        "auto", "form of a step; captured: a CUDA graph; auto: eager on a CPU, on CUDA the faster of eager and captured"
    )
    tf32: Tf32Choice = setting("conv", "fp32 products that CUDA may round to TF32; conv is what PyTorch does by itself")
    seed: int = setting(0, "the one seed that all others follow from", "[0, 2147483648)")
    checkpoint_every: int = setting(0, "optimizer steps between checkpoints; 0 = once per epoch", ">= 0")
    budget: str = setting(
        "",
        "what the whole run may cost, search included: time=F or macs=F (share of the dense training of T epochs), "
        "seconds=N; the dense schedule is shortened to it, and what the search leaves goes to the last training",
    )
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
        parts = f"an integer in [1, {self.batch_size}], the images of a batch"
        require("training.micro_batches", self.micro_batches, self.micro_batches <= self.batch_size, parts)
        if self.nesterov and not self.momentum:
            raise ConfigError(
                "training.nesterov needs momentum, which is 0; give --training.momentum 0.9, or leave it out"
            )
        if self.low_resolution and (self.budget or self.budget_macs):
            what = "training.budget" if self.budget else "training.budget_macs"
            raise ConfigError(f"training.low_resolution contradicts {what}, which counts whole images; {_ONE_OF_THEM}")
        if parse_budget(self.budget) and self.budget_macs:
            raise ConfigError("training.budget contradicts training.budget_macs; give one of them")


@dataclass(frozen=True)
class RunConfig:
    """One run: network, data, method, training.

    Raises:
        ConfigError: two settings contradict each other.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: Method = field(default_factory=EarlyBirdTraining)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.training.low_resolution and isinstance(self.method, MatchedToTicket):
            told = f"training.low_resolution contradicts method {self.method.name}, which is matched to a ticket's cost"
            raise ConfigError(f"{told} in whole images; {_ONE_OF_THEM}")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, the method's name first among its settings."""
        plain = {section: dataclasses.asdict(getattr(self, section)) for section in SECTIONS}
        plain["method"] = {"name": name_of(self.method), **plain["method"]}
        plain["training"]["milestones"] = list(self.training.milestones)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RunConfig:
        """Build a configuration from nested values.

        Raises:
            ConfigError: a section or key is unknown, or a value is refused.
        """
        refuse_unknown("section", plain, SECTIONS)
        given = {section: _section(plain, section) for section in SECTIONS}
        name = given["method"].pop("name", EarlyBirdTraining.name)
        kinds = {"model": ModelConfig, "data": DataConfig, "method": method_class(name), "training": TrainingSettings}
        given["method"] = preset_settings(name) | given["method"]
        if isinstance(given["training"].get("milestones"), list):
            given["training"]["milestones"] = tuple(given["training"]["milestones"])
        return cls(**{section: _build(kinds[section], section, given[section]) for section in SECTIONS})


def read_yaml(file: str | Path) -> Any:
    """Content of a YAML file, or of a text of several lines.

    Raises:
        ConfigError: it cannot be read; the message has the file, the line and the reason.
    """
    is_text = "\n" in str(file)
    try:
        content = yaml.load(str(file) if is_text else read_file(Path(file)).decode("utf-8-sig"), _UniqueKeys)
        json.dumps(content, default=str, skipkeys=True)  # which refuses what contains itself
        return content
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark, why = (
            getattr(error, "problem_mark", None),
            getattr(error, "problem", None) or getattr(error, "strerror", None),
        )
        place = ("the YAML text" if is_text else str(file)) + (f", line {mark.line + 1}," if mark else "")
        raise ConfigError(
            f"{place} cannot be read ({why or one_line(error).partition('; use sys')[0]}); mend it or give another file"
        ) from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Mapping of a node, its keys once each."""
        keys = set()
        for key, _ in node.value:
            if key.value in keys and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


def refuse_unnamed_code(flag: str, name: str, trusted: Collection[str]) -> None:
    """Raise if a file names code that the user has not named: only the user decides that code runs.

    `flag` gives the name on the command line; `trusted` are the names that the user gave.

    Raises:
        ConfigError: `name` is code and not among them.
    """
    if is_code(name, CODE_FLAGS[flag]) and name not in trusted:
        raise ConfigError(f"this run's {flag} is {name!r}, code that runs only when you name it; add {flag} {name}")


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Lines `section.key: old -> new` for every setting in which two configurations differ."""
    lines = []
    for section in {**a, **b}:
        old, new = _section(a, section), _section(b, section)
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                lines.append(f"{section}.{key}: {old.get(key)!r} -> {new.get(key)!r}")
    return lines


def with_younger_settings(stored: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Stored configuration with the defaults of settings that did not exist when it was written.

    A number that was the default, where it now is "auto", is what that run settled.
    """
    method = stored.get("method")
    name = str(method.get("name", "")) if isinstance(method, dict) else ""
    if is_code(name, "method") and name != name_of(config.method):
        return stored  # To ask it for its defaults would run code that only a file names.
    try:
        plain = RunConfig.from_dict(copy.deepcopy(stored)).to_dict()
        now = getattr(config.method, "round_to", None)
        if now == "auto" and plain["method"].get("round_to") == _ROUND_TO_BEFORE_AUTO.get(name):
            plain["method"]["round_to"] = now
        return plain
    except ConfigError:  # It holds something that exists no more: the diff will name it.
        return stored


def _section(plain: dict[str, Any], name: str) -> dict[str, Any]:
    """Copy of one section; empty if YAML has the name and nothing below it."""
    section = plain.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"section {name!r} is {section!r}; give keys and values, such as {name}.name")
    return dict(section)


def _build(kind: Any, section: str, values: dict[str, Any]) -> Any:
    refuse_unknown(f"key in {section!r}", values, [f.name for f in dataclasses.fields(kind)])
    built = kind(**values)
    check_ranges(section, built)  # Those of the user's own methods too, which need not look at them.
    return built


def refuse_unknown(what: str, given: Mapping[str, Any], legal: Collection[str]) -> None:
    """Raise `ConfigError` unless all keys are legal; `what` they are, for the message."""
    for key in given:
        if key not in legal:
            raise ConfigError(f"unknown {what}: {key!r}; {did_you_mean(key, legal)}expected one of {', '.join(legal)}")
