"""`RunConfig`: all settings of a run, in frozen dataclasses of plain values.

The same values are flags, YAML and the record. Reading them imports no torch.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from earlybird.errors import ConfigError
from earlybird.settings.catalog import method_class, name_of
from earlybird.settings.data import DataConfig
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.fields import check_ranges
from earlybird.settings.method import Method
from earlybird.settings.model import ModelConfig
from earlybird.settings.presets import preset_settings
from earlybird.settings.training import TrainingSettings
from earlybird.user_code import Kind, is_code

SECTIONS = ("model", "data", "method", "training")
# The flags that may name code of the user's own, and what it is then.
CODE_FLAGS: Mapping[str, Kind] = {
    "--model": "model", "--data": "data", "--method": "method", "--methods": "method",
    "--method.criterion": "criterion",
}  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """One run: network, data, method, training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: Method = field(default_factory=EarlyBirdTraining)
    training: TrainingSettings = field(default_factory=TrainingSettings)

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
        _refuse_unknown("section", plain, SECTIONS)
        model, data, method, training = (_section(plain, name) for name in SECTIONS)
        name = method.pop("name", EarlyBirdTraining.name)
        kind, method = method_class(name), preset_settings(name) | method
        if isinstance(training.get("milestones"), list):
            training["milestones"] = tuple(training["milestones"])
        return cls(
            model=_build(ModelConfig, "model", model),
            data=_build(DataConfig, "data", data),
            method=_build(kind, "method", method),
            training=_build(TrainingSettings, "training", training),
        )


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
    """Stored configuration with the defaults of settings that did not exist when it was written."""
    method = stored.get("method")
    name = str(method.get("name", "")) if isinstance(method, dict) else ""
    if is_code(name, "method") and name != name_of(config.method):
        return stored  # To ask it for its defaults would run code that only a file names.
    try:
        return RunConfig.from_dict(copy.deepcopy(stored)).to_dict()
    except ConfigError:  # It holds something that exists no more: the diff will name it.
        return stored


def _section(plain: dict[str, Any], name: str) -> dict[str, Any]:
    """Copy of one section; empty if YAML has the name and nothing below it."""
    section = plain.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"section {name!r} is {section!r}; give keys and values, such as {name}.name")
    return dict(section)


def _build(kind: Any, section: str, values: dict[str, Any]) -> Any:
    _refuse_unknown(f"key in {section!r}", values, [f.name for f in dataclasses.fields(kind)])
    built = kind(**values)
    check_ranges(section, built)  # Those of the user's own methods too, which need not look at them.
    return built


def _refuse_unknown(what: str, given: dict[str, Any], legal: Any) -> None:
    for key in given:
        if key not in legal:
            close = difflib.get_close_matches(str(key), legal, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"unknown {what}: {key!r}; {hint}expected one of {', '.join(legal)}")
