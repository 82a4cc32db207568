"""A forecast against the run that it forecasts: how far off it was, where both are of the same training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earlybird.settings.presets import method_label

# Counts of the same training agree; another share of validation images or another schedule shows here.
_SAME_MACS = 1e-3


def check_against(record: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Predicted and measured seconds and counted MACs of one run; `reason` where they are not of one training.

    Errors are (predicted - measured) / measured. `caution` says what differs between the run's machine and this one.
    """
    method, total = method_label(record["config"]["method"]), record["cost"]["total"]
    found: dict[str, Any] = {"run_id": record["run_id"], "method": method, "reason": None, "caution": None}
    if method not in facts["methods"]:
        return found | {"reason": "its method is not among those of the table"}
    planned = facts["methods"][method]["cases"]["planned"]
    off = planned["macs"] / total["macs"] - 1 if total["macs"] else float("inf")
    if record["config"]["training"].get("budget_macs"):
        return found | {
            "reason": "it was trained for as long as its training.budget_macs allowed, which is not planned"
        }
    if abs(off) > _SAME_MACS:
        reason = f"the plan is of another training than the run: {100 * off:+.1f} % of its MACs; leave its settings out"
        return found | {"reason": reason}
    here, there = facts["calibration"]["machine"], record["device"]
    if differing := [f"{key} {there.get(key)}, here {here[key]}" for key in here if there.get(key) != here[key]]:
        found["caution"] = f"the run was timed elsewhere ({'; '.join(differing)})"
    pairs = {name: (planned[name], total[name]) for name in ("cpu_seconds", "wall_seconds", "macs")}
    return found | {
        name: {"predicted": predicted, "measured": measured, "error": (predicted - measured) / measured}
        for name, (predicted, measured) in pairs.items()
        if measured
    }
