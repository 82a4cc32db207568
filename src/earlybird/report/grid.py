"""What a grid of runs came to: at equal ratio, and at equal total cost, with paired differences over seeds.

Differences of accuracy are formed within a seed, against the reference method (`early_bird`) at the same ratio. The
cost of a run is what it executed in MACs, its search included, its final evaluation left out: every run pays its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earlybird.report.comparison import Row, RunGroup, row_of
from earlybird.report.intervals import PairedDifference, paired_difference, sampling_error
from earlybird.runs.recorded import recorded_training_macs

# A run whose cost is this near to the reference's stands in the table of equal cost without another schedule.
EQUAL_COST = 0.03
DENSE = "dense"


@dataclass(frozen=True)
class GridEntry:
    """One run of a grid: its record, or why there is none.

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
class GridLine:
    """One method in a table.

    Attributes:
        group: its rows, one for each seed.
        difference: of accuracy, in points of a percent, from the reference; None for the reference and without pairs.
        cost_ratio: mean of its cost divided by the reference's, within seeds; None without pairs.
        failed: runs that failed.
    """

    group: RunGroup
    difference: PairedDifference | None
    cost_ratio: float | None
    failed: int


@dataclass(frozen=True)
class GridTable:
    """All methods at one ratio.

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
    """Every finished run with its row; ratios are to the dense run of the same seed and the grid's full schedule."""
    dense = {e.seed: e.record for e in entries if e.label == DENSE and e.record and not e.is_equal_cost}
    found = []
    for entry in entries:
        if entry.record is not None:
            own = {"training_macs": recorded_training_macs(entry.record), "seed": entry.seed}
            found.append((entry, row_of(entry.record, dense.get(entry.seed)) | own))
    return found


def grid_tables(entries: Sequence[GridEntry], reference: str) -> list[GridTable]:
    """A table for each ratio, in rising order; one table with ratio 0 where no method has a ratio.

    Args:
        entries: the runs of a grid.
        reference: label of the method that differences are formed against.
    """
    rows = grid_rows(entries)
    ratios = sorted({e.prune_ratio for e in entries if e.prune_ratio is not None}) or [0.0]
    return [_table(entries, rows, ratio, reference) for ratio in ratios]


def _table(
    entries: Sequence[GridEntry], rows: Sequence[tuple[GridEntry, Row]], ratio: float, reference: str
) -> GridTable:
    here = [(e, row) for e, row in rows if e.prune_ratio in (None, ratio)]
    base = {e.seed: row for e, row in here if e.label == reference and not e.is_equal_cost}
    failed = [e for e in entries if e.error and e.prune_ratio in (None, ratio)]
    full, matched = (
        [
            _line(label, [row for e, row in here if (e.label, e.is_equal_cost) == (label, is_equal)], base, reference,
                  sum((e.label, e.is_equal_cost) == (label, is_equal) for e in failed))
            for label in dict.fromkeys(
                e.label for e in entries if e.prune_ratio in (None, ratio) and e.is_equal_cost == is_equal
            )
        ]
        for is_equal in (False, True)
    )  # fmt: skip
    full.sort(key=lambda line: line.group.name != DENSE)
    near = [line for line in full if line.cost_ratio is not None and abs(line.cost_ratio - 1) <= EQUAL_COST]
    names = {line.group.name for line in (*near, *matched)}
    equal = sorted([*near, *matched], key=lambda line: line.group.name != reference)
    accuracies = [row["accuracy"] for _, row in here]
    images = next((int(e.record["test"]["samples"]) for e, _ in here if e.record), 0)
    typical = sorted(accuracies)[len(accuracies) // 2] if accuracies else 0.0
    return GridTable(
        prune_ratio=ratio,
        equal_ratio=tuple(full),
        equal_cost=tuple(equal),
        not_equal={
            line.group.name: line.cost_ratio
            for line in full
            if line.cost_ratio is not None and line.group.name not in names
        },
        accuracy_error=100 * sampling_error(typical, images),
    )


def _line(label: str, rows: Sequence[Row], base: Mapping[int, Row], reference: str, failed: int) -> GridLine:
    pairs = [(row, base[row["seed"]]) for row in rows if row["seed"] in base]
    points = [100 * (row["accuracy"] - partner["accuracy"]) for row, partner in pairs]
    costs = [row["training_macs"] / partner["training_macs"] for row, partner in pairs]
    return GridLine(
        group=RunGroup(label, tuple(rows)),
        difference=None if label == reference else paired_difference(points),
        cost_ratio=sum(costs) / len(costs) if costs else None,
        failed=failed,
    )
