"""Results of a grid of runs: at equal ratio, and at equal total cost, with paired differences over seeds.

Differences of accuracy are formed within a seed, against the reference method (`early_bird`) at the same ratio. The
cost of a run is what it executed in MACs, its search included, its final evaluation left out: every run pays its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earlybird.report.comparison import row_of
from earlybird.report.spread import PairedDifference, Row, RunGroup, paired_difference, sampling_error
from earlybird.runs.record_file import recorded_training_macs

# A run whose cost is this near to the reference's stands in the table of equal cost without another schedule.
EQUAL_COST = 0.03
DENSE = "dense"


@dataclass(frozen=True)
class GridEntry:
    """Run of a grid: its record, or the reason why there is none.

    Attributes:
        label: the method as it was asked for.
        prune_ratio: p, or None for a method without one.
        seed: of the run.
        is_equal_cost: its schedule was set so that its cost is Early-Bird's.
        folder: name of its folder.
        record: of the finished run, or None.
        error: why it failed, or "".
    """

    label: str
    prune_ratio: float | None
    seed: int
    is_equal_cost: bool
    folder: str
    record: Mapping[str, Any] | None
    error: str = ""


@dataclass(frozen=True)
class GridLine(RunGroup):
    """One method of a grid: a row for each seed that finished, beside the reference.

    Attributes:
        difference: of accuracy, in points of a percent, from the reference; None for the reference and without pairs.
        cost_ratio: mean of its cost divided by the reference's, within seeds; None without pairs.
        failed: runs that failed.
    """

    difference: PairedDifference | None
    cost_ratio: float | None
    failed: int


@dataclass(frozen=True)
class RatioResults:
    """All methods of a grid at one ratio.

    Attributes:
        prune_ratio: p.
        equal_ratio: lines of full schedules, dense first.
        equal_cost: lines whose cost is the reference's, the reference first.
        not_equal: label -> cost ratio of methods that cost something else and were not run at equal cost.
        accuracy_error: standard error of one run's accuracy by the size of the test set, in points of a percent.
    """

    prune_ratio: float
    equal_ratio: tuple[GridLine, ...]
    equal_cost: tuple[GridLine, ...]
    not_equal: dict[str, float]
    accuracy_error: float


def grid_rows(entries: Sequence[GridEntry]) -> list[tuple[GridEntry, Row]]:
    """Finished runs with their rows; ratios are to the dense run of the same seed and the grid's full schedule."""
    dense = {e.seed: e.record for e in entries if e.label == DENSE and e.record and not e.is_equal_cost}
    found = []
    for entry in entries:
        if entry.record is not None:
            own = {"training_macs": recorded_training_macs(entry.record), "seed": entry.seed}
            found.append((entry, row_of(entry.record, dense.get(entry.seed)) | own))
    return found


def results_by_ratio(entries: Sequence[GridEntry], reference: str) -> list[RatioResults]:
    """Results for each ratio, in rising order; one with ratio 0 where no method has a ratio.

    Args:
        entries: the runs of a grid.
        reference: label of the method that differences are formed against.
    """
    rows = grid_rows(entries)
    ratios = sorted({e.prune_ratio for e in entries if e.prune_ratio is not None}) or [0.0]
    return [_results(entries, rows, ratio, reference) for ratio in ratios]


def _results(
    entries: Sequence[GridEntry], rows: Sequence[tuple[GridEntry, Row]], ratio: float, reference: str
) -> RatioResults:
    entries = [e for e in entries if e.prune_ratio in (None, ratio)]
    rows = [(e, row) for e, row in rows if e.prune_ratio in (None, ratio)]
    base = {e.seed: row for e, row in rows if e.label == reference and not e.is_equal_cost}
    full: list[GridLine] = []
    matched: list[GridLine] = []
    for label, is_equal in dict.fromkeys((e.label, e.is_equal_cost) for e in entries):
        own = [row for e, row in rows if (e.label, e.is_equal_cost) == (label, is_equal)]
        failed = sum(bool(e.error) for e in entries if (e.label, e.is_equal_cost) == (label, is_equal))
        (matched if is_equal else full).append(_line(label, own, base, reference, failed))
    full.sort(key=lambda line: line.name != DENSE)
    near = [line for line in full if line.cost_ratio is not None and abs(line.cost_ratio - 1) <= EQUAL_COST]
    equal = sorted([*near, *matched], key=lambda line: line.name != reference)
    names = {line.name for line in equal}
    others = {line.name: line.cost_ratio for line in full if line.cost_ratio is not None and line.name not in names}
    accuracies = sorted(row["accuracy"] for _, row in rows)
    images = next((int(e.record["test"]["samples"]) for e, _ in rows if e.record), 0)
    typical = accuracies[len(accuracies) // 2] if accuracies else 0.0
    return RatioResults(ratio, tuple(full), tuple(equal), others, 100 * sampling_error(typical, images))


def _line(label: str, rows: Sequence[Row], base: Mapping[int, Row], reference: str, failed: int) -> GridLine:
    pairs = [(row, base[row["seed"]]) for row in rows if row["seed"] in base]
    points = [100 * (row["accuracy"] - partner["accuracy"]) for row, partner in pairs]
    costs = [row["training_macs"] / partner["training_macs"] for row, partner in pairs]
    difference = None if label == reference else paired_difference(points)
    return GridLine(label, tuple(rows), difference, sum(costs) / len(costs) if costs else None, failed)
