"""Presets are known from a method and its settings, and reports name a run by what its record says."""

from __future__ import annotations

from typing import Any

import pytest

from earlybird.report.comparison import method_label as label_of_record
from earlybird.settings.catalog import PRESETS, method_label, preset_of
from earlybird.settings.run import RunConfig


@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_of_a_preset_are_known_as_that_preset(name: str):
    settings = RunConfig.from_dict({"method": {"name": name}}).to_dict()["method"]
    assert settings["name"] == PRESETS[name][0]
    assert preset_of(settings) == method_label(settings) == name


@pytest.mark.parametrize(
    ("settings", "label"),
    [({"name": "early_bird"}, "early_bird"), ({"name": "mine.py:Cut", "weights": "reinit"}, "Cut"), ({}, "method")],
)
def test_other_methods_go_by_their_own_name(settings: dict[str, Any], label: str):
    assert preset_of(settings) is None
    assert method_label(settings) == label


def test_a_record_says_which_preset_it_is_of_and_an_older_one_is_known_by_its_settings():
    record: dict[str, Any] = {"config": {"method": {"name": "early_bird", "weights": "reinit"}}}
    assert label_of_record(record) == "reinit"
    assert label_of_record(record | {"preset": "born_again"}) == "born_again"
    assert label_of_record(record | {"preset": None}) == "early_bird"
