"""A record's energy as columns of a comparison: one for each counter, one for the estimate, never mixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MEASURED = "joules measured by "
ESTIMATED = "joules estimated"
COVERAGE = "coverage of "
WHOLE = 0.995  # what rounds to all of a run's seconds


def energy_row(record: Mapping[str, Any]) -> dict[str, float]:
    """Column key -> joules; only what the record has. Empty for a record that older versions wrote."""
    energy = record.get("energy") or {}
    row = {MEASURED + method: facts["joules"] for method, facts in (energy.get("measured") or {}).items()}
    return row | ({ESTIMATED: energy["estimated"]["joules"]} if energy.get("estimated") else {})


def energy_coverage(record: Mapping[str, Any]) -> dict[str, float]:
    """Column key -> share of the run's seconds that its joules are of, in [0, 1]."""
    measured = (record.get("energy") or {}).get("measured") or {}
    return {COVERAGE + method: facts["coverage"] for method, facts in measured.items()}


def energy_ratios(record: Mapping[str, Any], dense: Mapping[str, Any]) -> dict[str, float]:
    """Column key with `_ratio` -> joules divided by the dense run's, where both are of their whole run."""
    whole = {MEASURED + key.removeprefix(COVERAGE) for key, share in energy_coverage(record).items() if share > WHOLE}
    whole &= {MEASURED + key.removeprefix(COVERAGE) for key, share in energy_coverage(dense).items() if share > WHOLE}
    mine, theirs = energy_row(record), energy_row(dense)
    return {f"{key}_ratio": mine[key] / theirs[key] for key in (*whole, ESTIMATED) if key in mine and theirs.get(key)}


def energy_reason(record: Mapping[str, Any]) -> str | None:
    """Why nothing was measured while the run ran; None where something was, or where the record does not say."""
    reason: str | None = (record.get("energy") or {}).get("reason")
    return reason


def estimate_reason(record: Mapping[str, Any]) -> str | None:
    """Why there is no estimate; None where there is one, or where the record does not say."""
    reason: str | None = (record.get("energy") or {}).get("estimate_reason")
    return reason


def estimate_source(record: Mapping[str, Any]) -> str | None:
    """The published table behind the estimate."""
    estimated = (record.get("energy") or {}).get("estimated") or {}
    return estimated.get("source")


def measured_methods(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Methods that measured any of the rows, in the order they are met."""
    keys = (key for row in rows for key in row if key.startswith(MEASURED) and not key.endswith("_ratio"))
    return list(dict.fromkeys(key.removeprefix(MEASURED) for key in keys))


def energy_keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Column keys of all joules, measured and estimated, that any of the rows has."""
    rows = list(rows)
    measured = [MEASURED + method for method in measured_methods(rows)]
    return measured + ([ESTIMATED] if any(ESTIMATED in row for row in rows) else [])
