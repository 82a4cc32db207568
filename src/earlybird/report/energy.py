"""A record's energy as columns of a comparison: one for each counter, one for the estimate, never mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from earlybird.report.quantities import percent, si_text
from earlybird.report.spread import Row, RunGroup
from earlybird.report.table import MISSING

MEASURED = "joules measured by "
ESTIMATED = "joules estimated"
COVERAGE = "coverage of "
WHOLE = 0.995  # what rounds to all of a run's seconds


def energy_facts(record: Mapping[str, Any]) -> Row:
    """Joules, the share of the run's seconds that each counter covered, and the reasons for what is missing.

    Only what the record has: one of an older version has no joules, and None for every reason.
    """
    energy = record.get("energy") or {}
    estimated = energy.get("estimated") or {}
    facts: Row = {
        "energy_reason": energy.get("reason"),
        "estimate_reason": energy.get("estimate_reason"),
        "estimate_source": estimated.get("source"),
    }
    for method, found in (energy.get("measured") or {}).items():
        facts |= {MEASURED + method: found["joules"], COVERAGE + method: found["coverage"]}
    return facts | ({ESTIMATED: estimated["joules"]} if estimated else {})


def energy_ratios(facts: Row, dense: Row) -> dict[str, float]:
    """Column key with `_ratio` -> joules divided by the dense run's, where both are of their whole run."""
    ratios = {}
    for key in energy_keys([facts]):
        coverage = COVERAGE + key.removeprefix(MEASURED)
        is_whole = key == ESTIMATED or min(facts[coverage], dense.get(coverage, 0.0)) > WHOLE
        if is_whole and dense.get(key):
            ratios[f"{key}_ratio"] = facts[key] / dense[key]
    return ratios


def measured_methods(rows: Iterable[Row]) -> list[str]:
    """Methods that measured any of the rows, in the order they are met."""
    keys = (key for row in rows for key in row if key.startswith(MEASURED) and not key.endswith("_ratio"))
    return list(dict.fromkeys(key.removeprefix(MEASURED) for key in keys))


def energy_keys(rows: Iterable[Row]) -> list[str]:
    """Column keys of all joules, measured and estimated, that any of the rows has."""
    rows = list(rows)
    measured = [MEASURED + method for method in measured_methods(rows)]
    return measured + ([ESTIMATED] if any(ESTIMATED in row for row in rows) else [])


def energy_columns(rows: Sequence[Row]) -> dict[str, Callable[[RunGroup], str]]:
    """Column for each counter that measured any of the rows, and one for estimates."""
    columns = {f"energy, measured by {method}": _measured_cell(method) for method in measured_methods(rows)}
    return columns | ({"energy, estimated": _estimated_cell} if any(ESTIMATED in row for row in rows) else {})


def _measured_cell(method: str) -> Callable[[RunGroup], str]:
    """Column of one counter's joules, with the coverage where that is not all of the run."""

    def cell(group: RunGroup) -> str:
        shown, coverage = si_text(group, MEASURED + method, "J"), group.spread(COVERAGE + method)
        return shown if coverage is None or coverage.mean > WHOLE else f"{shown} [{percent(coverage.mean)} of the run]"

    return cell


def _estimated_cell(group: RunGroup) -> str:
    shown = si_text(group, ESTIMATED, "J")
    return shown if shown == MISSING else f"~{shown}"


def energy_notes(rows: Sequence[Row]) -> list[str]:
    """Reasons why energy was not measured or not estimated, and the source of an estimate."""
    reasons, missing, tables = (
        sorted({row[key] for row in rows} - {None}) for key in ("energy_reason", "estimate_reason", "estimate_source")
    )
    # A power meter's log may have been imported all the same: the reason is the run's own.
    own = "energy, by the run's own counter" if measured_methods(rows) else "energy"
    notes = [f"{own}: {reason}." for reason in reasons]
    notes += [f"energy, not estimated: {why}." for why in missing]
    notes += [
        f"~ marks an estimate: counted products and memory traffic at the unit energies of {table}. It compares runs; "
        "it is no measurement."
        for table in tables
    ]
    return notes
