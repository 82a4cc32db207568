"""Numbers of a comparison as text: mean ± sample standard deviation over seeds, and in brackets the ratio to dense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from earlybird.report.spread import RunGroup
from earlybird.report.table import MISSING

Cells = Mapping[str, Callable[[RunGroup], str]]  # name of a column -> cell of a row

PREFIXES = ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))


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
    """Requested and realised prune ratio."""
    asked = group.spread("prune_ratio")
    return MISSING if asked is None else f"{asked.mean:g} / {mean_text(group, 'realised_ratio', '.3f')}"


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
