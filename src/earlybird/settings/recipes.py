"""Recipes: names for defaults of `training` that belong together, as presets are for settings of a method.

A configuration holds the settings; which recipe they are is read off them, so a name cannot promise what was not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from earlybird.errors import ConfigError, require
from earlybird.settings.run import TrainingSettings

# What "modern" changes, and so what tells recipes apart.
_MODERN: Mapping[str, Any] = MappingProxyType(
    {"schedule": "linear", "warmup": 0.05, "label_smoothing": 0.1, "ema": 0.999, "nesterov": True}
)
_DEFAULTS = TrainingSettings()
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"paper": {name: getattr(_DEFAULTS, name) for name in _MODERN}, "modern": _MODERN}
)
PAPER = "paper"


def recipe_settings(name: str) -> dict[str, Any]:
    """Settings of `training` that a recipe gives.

    Raises:
        ConfigError: there is none of this name.
    """
    require("--recipe", name, isinstance(name, str) and name in RECIPES, ", ".join(RECIPES))
    return dict(RECIPES[name])


def recipe_of(training: Mapping[str, Any]) -> str:
    """Recipe whose settings a training has: the nearest, with what differs from it.

    Args:
        training: section of a configuration; a setting that an older version lacked counts as its default.

    Example:
        >>> recipe_of({}), recipe_of({"schedule": "cosine"})
        ('paper', 'paper with schedule=cosine')
    """
    name, changed = _nearest(training)
    told = ", ".join(f"{key}={value}" for key, value in changed.items())
    return f"{name} with {told}" if told else name


def refuse_another_recipe(asked: str, training: Mapping[str, Any]) -> None:
    """Raise unless a training is of the recipe that was asked for: a file or flags may have given what it changes.

    Raises:
        ConfigError: its settings are nearer to another recipe.
    """
    if _nearest(training)[0] != asked:
        changed = ", ".join(name for name in _MODERN if training.get(name) != RECIPES[asked][name])
        told = f"--recipe is {asked!r}, but the settings given are of recipe {recipe_of(training)}"
        raise ConfigError(f"{told}; leave out --recipe, or what sets {changed} (--config, --training.*)")


def _nearest(training: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the recipe that fewest settings differ from, the earlier of two, and those settings."""
    own = {name: training.get(name, default) for name, default in RECIPES[PAPER].items()}
    differing = {
        recipe: {name: value for name, value in own.items() if value != settings[name]}
        for recipe, settings in RECIPES.items()
    }
    return min(differing.items(), key=lambda found: len(found[1]))
