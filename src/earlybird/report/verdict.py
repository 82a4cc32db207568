"""Result of a comparison under budgets in words: the most accurate method of each budget, and its lead over rivals.

The rivals are the reference and the dense network with a shorter schedule. Differences are paired by seed; their p is
corrected (Holm) for all differences from a rival under that budget and prune ratio, since the method named is chosen
by its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from earlybird.report.comparison import NOT_A_SETTING, data_label, model_label, recipe_label, scheduled_epochs
from earlybird.report.grid import DENSE, GridLine, RatioResults
from earlybird.report.paired_test import holm, probability
from earlybird.report.quantities import Spread, percent, rows_of, spread_of
from earlybird.settings.budget import parse_budget
from earlybird.settings.recipes import PAPER, RECIPES
from earlybird.settings.run import RunConfig

# Two methods are level if the interval of their difference lies within so many points.
LEVEL = 1.0
SIGNIFICANT = 0.05
# Settings of a training that the conditions name themselves, or that change no result in kind.
_TOLD = NOT_A_SETTING | RECIPES[PAPER].keys() | {"epochs", "batch_size", "precision", "device", "budget", "budget_macs"}
_JUDGED = (
    " Differences: paired by seed, ± half of the 95 % interval (Student's t); p-value: paired t-test with "
    "Holm's correction for the {} of a budget and prune ratio; level: the interval lies within 1 point."
)


@dataclass(frozen=True)
class Lead:
    """Difference of accuracy from a rival, in points of a percent, and its p after Holm's correction.

    `p` is None where there is no test (`paired_test.probability`); `family` counts the differences of the correction.
    """

    points: Spread
    p: float | None
    family: int


def leads(result: RatioResults, reference: str) -> dict[tuple[str, str], Lead]:
    """(method, rival) -> lead of the method over the rival, for all methods and rivals with a seed in common."""
    accuracies = {line.name: {row["seed"]: 100 * row["accuracy"] for row in line.rows} for line in result.equal_ratio}
    found: dict[tuple[str, str], Spread] = {}
    for name, rival in product(accuracies, dict.fromkeys((reference, DENSE))):
        own, others = accuracies[name], accuracies.get(rival, {})
        points = spread_of([own[seed] - others[seed] for seed in own if seed in others])
        if name != rival and points is not None:
            found[name, rival] = points
    # The two rivals' difference is in it twice, once from each side: one test.
    tests = {frozenset(pair): p for pair, points in found.items() if (p := probability(points)) is not None}
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    return {pair: Lead(points, corrected.get(frozenset(pair)), len(tests)) for pair, points in found.items()}


def verdicts(results: Sequence[RatioResults], reference: str, record: Mapping[str, Any] | None) -> list[str]:
    """A sentence for each budget with finished runs, then one on the conditions; none without budgets.

    Args:
        record: any finished run, for the conditions.
    """
    under = [result for result in results if result.budget and any(line.rows for line in result.equal_ratio)]
    if not under or record is None:
        return []
    ratios = {result.prune_ratio for result in under} - {0.0}  # that of methods without one
    said = [_verdict(result, reference, is_one_ratio=len(ratios) <= 1) for result in under]
    return [*said, _conditions(under, record, reference)]


def _verdict(result: RatioResults, reference: str, *, is_one_ratio: bool) -> str:
    seeds_of = {line.name: {row["seed"] for row in line.rows} for line in result.equal_ratio}
    seeds = max(seeds_of.values(), key=len)
    # A mean over other seeds is not beside the others: an easy seed would make it the best.
    lines = [line for line in result.equal_ratio if seeds_of[line.name] == seeds]
    left_out = [name for name in seeds_of if seeds_of[name] != seeds]
    best, *others = sorted(lines, key=_accuracy, reverse=True)
    where = f"{_amount(result.budget)} ({result.budget})" + (
        "" if is_one_ratio or not result.prune_ratio else f", prune ratio {result.prune_ratio:g}"
    )
    among = " of the methods with all seeds" if left_out else ""
    said = f"At {where}, {_called(best.name)} has the highest test accuracy{among}, {_accuracy(best):.2f} %"
    said += f" (n = {len(seeds)})"
    rivals = [name for name in dict.fromkeys((reference, DENSE)) if name != best.name]
    if len(rivals) < 2 and others and others[0].name not in rivals:  # A rival won: the next may be as good.
        rivals.insert(0, others[0].name)
    found = leads(result, reference)
    told = [_told(rival, lead, len(seeds)) for rival in rivals if (lead := _lead(found, best.name, rival)) is not None]
    if rivals and not told:
        told = [f"no finished run of {' or '.join(map(_called, rivals))} to compare it with"]
    fewer = f" Not ranked (other finished seeds): {', '.join(left_out)}." if left_out else ""
    return f"{said}{': ' if told else ''}{'; '.join(told)}.{fewer}"


def _amount(text: str) -> str:
    """`50 % of the dense training time`; text of a budget in words."""
    budget = parse_budget(text)
    if budget is None or budget.kind == "seconds":
        return f"{budget.amount:g} s of training" if budget else "no budget"
    return f"{percent(budget.amount)} of the dense training {'time' if budget.kind == 'time' else 'MACs'}"


def _accuracy(line: GridLine) -> float:
    spread = line.spread("accuracy")
    return 100 * spread.mean if spread else 0.0


def _lead(found: Mapping[tuple[str, str], Lead], name: str, rival: str) -> Lead | None:
    """Lead over a rival; a rival's own lead over another method is found from the other side."""
    if (name, rival) in found:
        return found[name, rival]
    back = found.get((rival, name))
    return back and Lead(Spread(-back.points.mean, back.points.std, back.points.n), back.p, back.family)


def _told(rival: str, lead: Lead, seeds: int) -> str:
    points, half, name = lead.points, lead.points.half_width, _called(rival)
    if half is None:
        return f"{signed(points.mean)} points from {name} (one seed: no finding)"
    if lead.p is None:
        return f"{signed(points.mean)} points from {name} in each of {points.n} seeds (no spread to test)"
    fewer = f", n = {points.n}" if points.n < seeds else ""
    told = f"{signed(points.mean)} ± {half:.2f} points{fewer}, p-value {lead.p:.2g}"
    side = "ahead of" if points.mean > 0 else "behind"
    if lead.p < SIGNIFICANT:
        return f"{side} {name} ({told})"
    if abs(points.mean) > half:
        return f"{side} {name} by more than the interval, but not after Holm's correction ({told})"
    if abs(points.mean) + half <= LEVEL:
        return f"level with {name} ({told})"
    return f"not significantly different from {name} ({told})"


def signed(points: float) -> str:
    """`+0.31`, and `+0.00` for what rounds to nothing."""
    return f"{round(points, 2) + 0.0:+.2f}"


def _called(name: str) -> str:
    return "dense with a shorter schedule" if name == DENSE else name


def _conditions(results: Sequence[RatioResults], record: Mapping[str, Any], reference: str) -> str:
    """Network, data, schedule, recipe, precision and machine of the runs, and how the differences were judged."""
    rows = [row for result in results for row in rows_of(result.equal_ratio)]
    ratios = {result.prune_ratio for result in results} - {0.0}
    training, resolved = record["config"]["training"], record.get("resolved") or {}
    threads = (record.get("device") or {}).get("threads")
    seeds = sorted({row["seed"] for row in rows})
    usual = RunConfig().to_dict()["training"]
    parts = [
        f"{model_label(record)} on {data_label(record)}",
        f"{scheduled_epochs(record)} epochs in the full schedule, recipe {recipe_label(record)}",
        f"batch size {training['batch_size']}",
        *(f"{name} {value}" for name, value in training.items() if name not in _TOLD and value != usual.get(name)),
        *([f"prune ratio {next(iter(ratios)):g}"] if len(ratios) == 1 else []),
        str(resolved.get("precision") or training.get("precision")),
        " and ".join(sorted({row["device"] for row in rows}))
        + (f" ({threads} thread{'s' if threads > 1 else ''})" if threads else ""),
        f"{record['test'].get('samples') or 0:,} test images",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
    ]
    families = {lead.family for result in results for lead in leads(result, reference).values() if lead.family}
    counted = (
        f"{'up to ' if len(families) > 1 else ''}{max(families, default=0)} difference{'s' if families != {1} else ''}"
    )
    return f"Conditions: {', '.join(parts)}." + (_JUDGED.format(counted) if families else "")
