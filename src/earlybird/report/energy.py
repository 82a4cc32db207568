"""A record's energy as columns of a comparison: one for each counter, one for the estimate, never mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from earlybird.report.quantities import percent, si_text
from earlybird.report.spread import Row, RunGroup
from earlybird.report.table import MISSING

_JOULES = "joules "
ESTIMATED = f"{_JOULES}estimated"
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
        key = f"{_JOULES}measured by {method}"
        facts |= {key: found["joules"], COVERAGE + key: found["coverage"]}
    return facts | ({ESTIMATED: estimated["joules"]} if estimated else {})


def energy_ratios(facts: Row, dense: Row) -> dict[str, float]:
    """Column key with `_ratio` -> joules divided by the dense run's, where both are of their whole run."""
    both = [key for key in energy_keys([facts]) if dense.get(key)]
    whole = [key for key in both if min(run.get(COVERAGE + key, 1.0) for run in (facts, dense)) > WHOLE]
    return {f"{key}_ratio": facts[key] / dense[key] for key in whole}


def energy_keys(rows: Iterable[Row]) -> list[str]:
    """Column keys of all joules that any of the rows has: measured, in the order they are met, then estimated."""
    keys = (key for row in rows for key in row if key.startswith(_JOULES) and not key.endswith("_ratio"))
    return sorted(dict.fromkeys(keys), key=ESTIMATED.__eq__)


def measured_keys(rows: Iterable[Row]) -> list[str]:
    """Those of `energy_keys` that a counter measured."""
    return [key for key in energy_keys(rows) if key != ESTIMATED]


def energy_columns(rows: Sequence[Row]) -> dict[str, Callable[[RunGroup], str]]:
    """Column for each counter that measured any of the rows, and one for estimates."""
    return {f"energy, {key.removeprefix(_JOULES)}": partial(_cell, key) for key in energy_keys(rows)}


def _cell(key: str, group: RunGroup) -> str:
    """Joules, with their coverage where that is not all of the run."""
    shown, coverage = si_text(group, key, "J"), group.spread(COVERAGE + key)
    if coverage is not None and coverage.mean <= WHOLE:
        return f"{shown} [{percent(coverage.mean)} of the run]"
    return f"~{shown}" if key == ESTIMATED and shown != MISSING else shown


def energy_notes(rows: Sequence[Row]) -> list[str]:
    """Reasons why energy was not measured or not estimated, and the source of an estimate."""
    # A power meter's log may have been imported all the same: the reason is the run's own.
    own = "energy, by the run's own counter" if measured_keys(rows) else "energy"
    notes = {
        "energy_reason": f"{own}: {{}}.",
        "estimate_reason": "energy, not estimated: {}.",
        "estimate_source": "~ marks an estimate: counted products and memory traffic at the unit energies of {}. It "
        "compares runs; it is no measurement.",
    }
    return [note.format(text) for key, note in notes.items() for text in sorted({row[key] for row in rows} - {None})]
