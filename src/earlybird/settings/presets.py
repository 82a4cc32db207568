"""Presets: names for a method and the settings in which a variant or a control differs from it.

A configuration holds the method and all its settings; the preset that they are is written into the record of a run.
Nothing here knows the methods' classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Preset -> the method that it is, and the settings in which it differs.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "reinit": ("early_bird", {"weights": "reinit"}),
    "random": ("early_bird", {"channels": "random"}),
    "shuffled": ("early_bird", {"channels": "shuffled"}),
    "draw_0": ("early_bird", {"draw_at": 0}),
    "draw_1": ("early_bird", {"draw_at": 1}),
    "draw_5": ("early_bird", {"draw_at": 5}),
    "draw_last": ("early_bird", {"draw_at": "last"}),
    "early_bird_restart": ("early_bird", {"schedule": "restart"}),
    "lottery_ticket_reinit": ("lottery_ticket", {"weights": "reinit"}),
    "lottery_ticket_iterative": ("lottery_ticket", {"rounds": 3}),
    "soft_filter_pruning_as_written": ("soft_filter_pruning", {"zero_at_start": False}),
    "snip_channels": ("snip", {"form": "channels"}),
}


def preset_settings(name: str) -> dict[str, Any]:
    """Settings of a preset by which it differs from its method; none for another name."""
    return dict(PRESETS[name][1]) if name in PRESETS else {}


def preset_of(settings: Mapping[str, Any]) -> str | None:
    """Preset that a configured method is, or None; of several that fit, the one that sets most.

    Args:
        settings: `method` of a configuration, its name among them.
    """
    fitting = [
        preset
        for preset, (base, changed) in PRESETS.items()
        if base == settings.get("name") and all(settings.get(key) == value for key, value in changed.items())
    ]
    return max(fitting, key=lambda preset: len(PRESETS[preset][1]), default=None)


def method_label(settings: Mapping[str, Any]) -> str:
    """Name of a configured method: its preset, its own name, or of the user's code the class."""
    return preset_of(settings) or own_name(settings)


def own_name(settings: Mapping[str, Any]) -> str:
    """Name of a configured method itself, or of the user's code the class."""
    return str(settings.get("name", "method")).rpartition(":")[2]
