"""Quantities of runs over seeds: their mean and deviation, the ratio to dense, and the cells and notes of a table.

Energy is one column for each counter and one for the estimate, never mixed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from earlybird.report.table import MISSING, Table, named_columns

Row = dict[str, Any]

# Letters of a method's name in a terminal before it is folded.
_NAME_WIDTH = 18
PREFIXES = ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))

# Quantiles 0.975 of Student's t for 1, 2, ... 30 degrees of freedom, as tables print them.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

_JOULES = "joules "
ESTIMATED = f"{_JOULES}estimated"
COVERAGE = "coverage of "
WHOLE = 0.995  # what rounds to all of a run's seconds


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divisor n - 1) of one quantity over n seeds; `std` is None for n = 1."""

    mean: float
    std: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the mean's 95 % confidence interval; None for n = 1.

        The interval is Student's: it takes the values as normal, and says nothing of other data sets or networks.
        """
        return None if self.std is None else t_quantile(self.n - 1) * self.std / math.sqrt(self.n)


def spread_of(values: Sequence[float]) -> Spread | None:
    """Spread of values, such as differences within pairs; None without any.

    Example:
        >>> spread_of([1.0, 2.0, 3.0])
        Spread(mean=2.0, std=1.0, n=3)
    """
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def t_quantile(degrees: int) -> float:
    """Quantile 0.975 of Student's t, for >= 1 degrees of freedom; past 30 by its expansion around the normal's."""
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    # Cornish and Fisher 1938, to the second order: right to the third decimal from 30 on.
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def sampling_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy in [0, 1] that was counted on so many independent images.

    At (k + 1) / (n + 2), Laplace's estimate: all right out of 30 is no proof of a network without errors.
    """
    share = (accuracy * images + 1) / (images + 2)
    return math.sqrt(share * (1 - share) / images) if images else 0.0


@dataclass(frozen=True)
class RunGroup:
    """Rows that differ in nothing but the seed, and their name in the comparison."""

    name: str
    rows: tuple[Row, ...]

    def spread(self, key: str) -> Spread | None:
        """Spread of a quantity over the runs that have it; None where none has."""
        return spread_of([row[key] for row in self.rows if row.get(key) is not None])

    def flags(self) -> list[str]:
        """Flags of its runs, once each."""
        return sorted({flag for row in self.rows for flag in row["flags"]})


def rows_of(groups: Iterable[RunGroup]) -> list[Row]:
    """Rows of all groups."""
    return [row for group in groups for row in group.rows]


Cells = Mapping[str, Callable[[Any], str]]  # name of a column -> cell of a group


def table_of(cells: Cells, groups: Sequence[RunGroup], title: str, notes: Sequence[str]) -> Table:
    """Table with a column for each of `cells` and a row for each group, its name first."""
    rows = [[cell(group) for cell in cells.values()] for group in groups]
    return Table(named_columns(*cells, fold_after=_NAME_WIDTH), rows, title, notes)


def percent(share: float) -> str:
    """Fraction in [0, 1] as percent, a zero decimal left out: `59 %`, `10.6 %`, `2.1 %`."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value - round(value)) < 0.05 else f"{value:.1f} %"


def si(value: float, unit: str = "") -> str:
    """Three digits, a decimal prefix and a unit: `11.8 M`, `1.20 kJ`."""
    form, scale, suffix = _si_form(value, unit)
    return f"{scale * value:{form}}{suffix}"


def _si_form(value: float, unit: str) -> tuple[str, float, str]:
    """Format, factor and ending that show a value in three digits."""
    size, prefix = next(((s, p) for s, p in PREFIXES if value >= s), (1.0, ""))
    digits = max(0, 2 - int(math.log10(max(value / size, 1.0))))
    return f".{digits}f", 1 / size, (prefix or " ") + unit if unit else prefix


def mean_text(group: RunGroup, key: str, form: str, *, scale: float = 1.0, suffix: str = "") -> str:
    """`mean ± std`; the mean alone if all runs agree; with its own n if not all runs have the quantity."""
    spread = group.spread(key)
    if spread is None:
        return MISSING
    deviation = f" ± {scale * spread.std:{form}}" if spread.std else ""
    own_n = f" [n={spread.n}]" if spread.n != len(group.rows) else ""
    return f"{scale * spread.mean:{form}}{deviation}{suffix}{own_n}"


def _ratio_text(group: RunGroup, key: str) -> str:
    """Ratio of a quantity to dense, in brackets after a space; empty where there is none."""
    ratio = mean_text(group, f"{key}_ratio", ".2f")
    return "" if ratio == MISSING else f" ({ratio})"


def si_text(group: RunGroup, key: str, unit: str = "") -> str:
    """Quantity with its deviation in three digits and one decimal prefix, beside its ratio to dense."""
    spread = group.spread(key)
    if spread is None:
        return MISSING
    form, scale, suffix = _si_form(spread.mean, unit)
    return mean_text(group, key, form, scale=scale, suffix=suffix) + _ratio_text(group, key)


def seconds_text(group: RunGroup, key: str) -> str:
    """Seconds, beside their ratio to dense: `320 (0.80)`."""
    spread = group.spread(key)
    return mean_text(group, key, ",.0f" if spread and spread.mean >= 100 else ".1f") + _ratio_text(group, key)


def accuracy_cell(group: RunGroup) -> str:
    """Test accuracy in percent, with top-5 where there is one."""
    top1, top5 = (mean_text(group, key, ".2f", scale=100) for key in ("accuracy", "top5_accuracy"))
    return top1 if top5 == MISSING else f"{top1}, top-5 {top5}"


def prune_ratio_cell(group: RunGroup) -> str:
    """Requested and realised prune ratio; a dash for what was not requested, or for both."""
    asked, realised = group.spread("prune_ratio"), mean_text(group, "realised_ratio", ".3f")
    if asked is None:
        return MISSING if realised == MISSING else f"{MISSING} / {realised}"
    return f"{asked.mean:g} / {realised}"


def emergence_cell(group: RunGroup) -> str:
    """Epoch at which the ticket was drawn, and its share of the schedule."""
    epoch, share = group.spread("emergence_epoch"), group.spread("emergence_share")
    vain = sum(row["searched_in_vain"] for row in group.rows)
    none = f"none in {vain} of {len(group.rows)}" if vain else ""
    mark = "†" if group.flags() else ""
    if epoch is None or share is None:
        return f"{none or MISSING}{mark}"
    found = f"{mean_text(group, 'emergence_epoch', '.2f' if epoch.std else '.4g')} ({percent(share.mean)}){mark}"
    return f"{found}; {none}" if none else found


def flag_notes(group: RunGroup) -> list[str]:
    """Note below a table that explains a †, if the group has one."""
    flags = group.flags()
    return [f"† {group.name}: {'; '.join(flags)}."] if flags else []


COST_CELLS: Cells = {
    "parameters": lambda group: si_text(group, "params"),
    "MACs per image": lambda group: si_text(group, "macs"),
    "training MACs": lambda group: si_text(group, "train_macs"),
    "training FLOPs, paper's count": lambda group: si_text(group, "train_paper_flops"),
    "seconds": lambda group: seconds_text(group, "wall_seconds"),
}
"""Columns of what a network and its training cost, beside their ratio to dense."""


def energy_facts(record: Mapping[str, Any]) -> Row:
    """Joules, the share of the run's seconds that each counter covered, and the reasons for what is missing.

    Joules of a shared card are None: they are of others too, and no mean may have them. Only what the record has: one
    of an older version has no joules, and None for every reason.
    """
    energy = record.get("energy") or {}
    estimated = energy.get("estimated") or {}
    facts: Row = {
        "energy_reason": energy.get("reason"),
        "estimate_reason": energy.get("estimate_reason"),
        "estimate_source": estimated.get("source"),
    }
    measured = energy.get("measured") or {}
    shared = [method for method, found in measured.items() if found.get("shared_with")]
    facts["energy_shared"] = ", ".join(shared) or None
    for method, found in measured.items():
        key = f"{_JOULES}measured by {method}"
        facts |= {key: None} if method in shared else {key: found["joules"], COVERAGE + key: found["coverage"]}
    return facts | ({ESTIMATED: estimated["joules"]} if estimated else {})


def energy_pairs(facts: Row, dense: Row) -> dict[str, tuple[float | None, float | None]]:
    """Joules by column key, beside the dense run's where both are of their whole run."""
    covered = {key: [run.get(COVERAGE + key, 1.0) for run in (facts, dense)] for key in energy_keys([facts])}
    return {key: (facts[key], dense.get(key) if min(shares) > WHOLE else None) for key, shares in covered.items()}


def energy_keys(rows: Iterable[Row]) -> list[str]:
    """Column keys of all joules that any of the rows has: measured, in the order they are met, then estimated."""
    keys = (key for row in rows for key in row if key.startswith(_JOULES) and not key.endswith("_ratio"))
    return sorted(dict.fromkeys(keys), key=ESTIMATED.__eq__)


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
    own = "energy, by the run's own counter" if {*energy_keys(rows)} - {ESTIMATED} else "energy"
    notes = {
        "energy_reason": f"{own}: {{}}.",
        "energy_shared": "energy, measured by {}: left out where the card was shared with other processes (†): their "
        "joules are in it.",
        "estimate_reason": "energy, not estimated: {}.",
        "estimate_source": "~ marks an estimate: counted products and memory traffic at the unit energies of {}. It "
        "compares runs; it is no measurement.",
    }
    return [note.format(text) for key, note in notes.items() for text in sorted({row[key] for row in rows} - {None})]
