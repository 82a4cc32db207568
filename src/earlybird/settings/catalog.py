"""Methods by name: the built-in classes, presets of them, and the user's own by path."""

from __future__ import annotations

import dataclasses
from typing import Any

from earlybird.errors import ConfigError
from earlybird.settings.controls import Dense, DenseShorter, ScratchLonger, Uniform
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.lottery_ticket import LotteryTicket
from earlybird.settings.method import Method
from earlybird.settings.network_slimming import NetworkSlimming
from earlybird.settings.presets import PRESETS
from earlybird.settings.snip import Snip
from earlybird.settings.soft_filter_pruning import SoftFilterPruning
from earlybird.settings.thinet import ThiNet
from earlybird.user_code import find_callable, is_code

_CLASSES: tuple[type[Method], ...] = (
    EarlyBirdTraining, Dense, LotteryTicket, Snip, NetworkSlimming, ThiNet, SoftFilterPruning, Uniform, ScratchLonger,
    DenseShorter,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _CLASSES}

_IMPORTED: dict[str, type[Method]] = {}


def method_names() -> list[str]:
    """Methods and presets; the user's own (`pkg.mod:Class`, `file.py:Class`) come on top of these."""
    return [*METHODS, *PRESETS]


def method_class(name: str) -> type[Method]:
    """The dataclass of a method, or of the method that a preset is of.

    Raises:
        ConfigError: no method has this name, or code of the user's is no method.
    """
    if name in PRESETS:
        name = PRESETS[name][0]
    if name in METHODS:
        return METHODS[name]
    if not is_code(name, "method"):
        legal = f"{', '.join(method_names())}, pkg.mod:Class or file.py:Class"
        raise ConfigError(f"method.name is {name!r}; give one of {legal}")
    if name not in _IMPORTED:
        _IMPORTED[name] = _checked(name, find_callable(name, "method", ConfigError))
    return _IMPORTED[name]


def summary_of(name: str) -> str:
    """First docstring line of a method's class; for a preset, its method and the settings in which it differs."""
    if name in PRESETS:
        base, changed = PRESETS[name]
        return f"{base} with {', '.join(f'{key}={value}' for key, value in changed.items())}"
    return (method_class(name).__doc__ or "").strip().partition("\n")[0].rstrip(".")


def name_of(method: Method) -> str:
    """The name by which `method_class` finds a method's class again."""
    paths = [path for path, kind in _IMPORTED.items() if kind is type(method)]
    return paths[-1] if paths else method.name


def _checked(name: str, found: Any) -> type[Method]:
    frozen = dataclasses.is_dataclass(found) and isinstance(found, type) and found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    lacking = [part for part in ("name", "search", "restore") if not hasattr(found, part)]
    if not frozen or lacking:
        what = f"lacks {', '.join(lacking)}" if lacking else "is no frozen dataclass"
        raise ConfigError(f"method {name!r} {what}; see docs/extending.md")
    kind: type[Method] = found
    return kind
