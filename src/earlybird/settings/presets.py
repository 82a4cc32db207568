"""Presets: names for a method and the settings in which a variant or a control differs from it.

A configuration and a record hold the method and all its settings, so the preset is known again from them. Nothing here
knows the methods' classes: reports name runs without loading torch.
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
    """What a name stands for beyond its class: the settings of a preset, or none."""
    return dict(PRESETS[name][1]) if name in PRESETS else {}


def method_label(settings: Mapping[str, Any]) -> str:
    """What a configured method is called: the preset that it is, its name, or of the user's own the class.

    Args:
        settings: `method` of a configuration or record, its name among them.
    """
    name = str(settings.get("name", "method"))
    fitting = [
        preset
        for preset, (base, changed) in PRESETS.items()
        if base == name and all(settings.get(key) == value for key, value in changed.items())
    ]
    # Of several the one that says most.
    best = max(fitting, key=lambda preset: len(PRESETS[preset][1]), default=name)
    return best.rpartition(":")[2]
