"""A forecast against the run that it forecasts: how far off it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_against(record: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Predicted and measured seconds and counted MACs of one run; None where the forecast has not its method.

    Errors are (predicted - measured) / measured.
    """
    method = _planned_name(record["config"]["method"])
    if method not in facts["methods"]:
        return None
    planned, total = facts["methods"][method]["cases"]["planned"], record["cost"]["total"]
    pairs = {name: (planned[name], total[name]) for name in ("cpu_seconds", "wall_seconds", "macs") if name in planned}
    return {
        "run_id": record["run_id"],
        "method": method,
        **{
            name: {"predicted": predicted, "measured": measured, "error": (predicted - measured) / measured}
            for name, (predicted, measured) in pairs.items()
            if measured
        },
    }


def _planned_name(method: Mapping[str, Any]) -> str:
    """The plan's name of a configured method."""
    restarts = method.get("weights") == "reinit" and method.get("schedule") in ("auto", "restart")
    return "early_bird, reinit" if restarts else str(method["name"])
