"""Recipes are read off the settings, so that a name never promises what was not done."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from earlybird.errors import ConfigError
from earlybird.settings.recipes import RECIPES, recipe_of, recipe_settings, refuse_another_recipe
from earlybird.settings.run import TrainingSettings


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_a_recipe_are_known_as_that_recipe(name: str):
    training = asdict(TrainingSettings(**recipe_settings(name)))
    assert recipe_of(training) == name
    refuse_another_recipe(name, training)


def test_paper_is_the_defaults_and_modern_what_a_run_of_today_would_take():
    assert TrainingSettings(**recipe_settings("paper")) == TrainingSettings()
    modern = TrainingSettings(**recipe_settings("modern"))
    assert (modern.schedule, modern.warmup, modern.label_smoothing) == ("linear", 0.05, 0.1)
    assert (modern.ema, modern.nesterov) == (0.999, True)
    named = recipe_settings("modern")
    assert replace(modern, **{name: getattr(TrainingSettings(), name) for name in named}) == TrainingSettings()


@pytest.mark.parametrize(
    ("training", "label"),
    [
        ({}, "paper"),  # of a record that is older than all of these settings
        ({"lr": 0.5, "epochs": 3}, "paper"),
        ({"schedule": "cosine"}, "paper with schedule=cosine"),
        ({**RECIPES["modern"], "ema": 0.0}, "modern with ema=0.0"),
        ({"schedule": "linear", "warmup": 0.05}, "paper with schedule=linear, warmup=0.05"),
        ({"schedule": "linear", "warmup": 0.05, "ema": 0.999}, "modern with label_smoothing=0.0, nesterov=False"),
    ],
)
def test_what_differs_from_the_nearest_recipe_is_told(training: dict[str, Any], label: str):
    assert recipe_of(training) == label


def test_another_recipe_than_was_asked_for_is_refused_with_what_makes_it_so():
    told = (
        "--recipe is 'modern', but the settings given are of recipe paper with nesterov=True; leave out --recipe, or "
        r"what sets schedule, warmup, label_smoothing, ema \(--config, --training\.\*\)"
    )
    with pytest.raises(ConfigError, match=f"^{told}$"):
        refuse_another_recipe("modern", asdict(TrainingSettings(nesterov=True)))
    with pytest.raises(ConfigError, match=r"--recipe is 'modrn'; did you mean 'modern'\? give paper, modern"):
        recipe_settings("modrn")
