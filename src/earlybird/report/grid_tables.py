"""Tables of a grid of runs, at equal ratio, at equal cost and under budgets: in full, in brief, as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from earlybird.report import quantities
from earlybird.report.grid import DENSE, EQUAL_COST, GridEntry, GridLine, RatioResults, grid_rows
from earlybird.report.quantities import Cells, RunGroup, Spread, rows_of
from earlybird.report.table import MISSING, Cell, Table, named_columns
from earlybird.report.verdict import Lead, leads, signed

# A line of the table at equal cost that is further off is named below it.
OFF_COST = 0.05
_CPU_SECONDS = "CPU seconds"
_BRACKETS = "In brackets: "
_OF_TRAINING = "seconds, training"


def full_tables(results: Sequence[RatioResults], reference: str, topic: str) -> list[Table]:
    """Tables with every quantity: for each ratio one at equal ratio, and one at equal total cost if there is any.

    The titles begin with `topic`: network, data, schedule and recipe.
    """
    sections = _sections(results, reference, topic)
    return [quantities.table_of(cells, lines, title, notes) for title, cells, lines, notes in sections]


def brief_tables(results: Sequence[RatioResults], reference: str, topic: str) -> list[Table]:
    """Tables of `full_tables` with the main quantities, narrow enough for a terminal of 80 letters."""
    brief: Cells = {
        "method": lambda line: line.name,
        "test accuracy %": quantities.accuracy_cell,
        "points": _points,
        "training MACs / dense": lambda line: _share(line, "train_macs"),
        "seconds / dense": lambda line: _share(line, "wall_seconds"),
        "cost ratio": _cost,
        "n": _runs,
    }
    tables, said = [], set[str]()
    for title, cells, lines, notes in _sections(results, reference, topic):
        said.update(quantities.energy_notes(rows_of(lines)))  # of columns that are not shown here
        if _STEP not in cells:
            tables.append(quantities.table_of(brief, lines, title, [note for note in notes if note not in said]))
            continue
        # Further budgets would repeat what is below the first; no cell here has brackets.
        notes = [note for note in notes if note not in said and not note.startswith(_BRACKETS)]
        said.update(notes)
        tables.append(quantities.table_of(_brief_budget_cells(cells), lines, title, notes))
    return tables


def _brief_budget_cells(cells: Cells) -> Cells:
    spent = [_STEP, _COST, *(name for name in cells if name.endswith(_OF_TRAINING))]
    return {
        "method": lambda line: line.name + ("†" if line.flags() else ""),
        "test accuracy %": quantities.accuracy_cell,
        "points": _points,
        # Broken here, or a terminal of 80 letters breaks within a word.
        **{
            name.replace("/ ", "/\n").replace(" seconds", "\nseconds").replace(", ", ",\n"): cells[name]
            for name in spent
        },
        "n": _runs,
    }


def means_table(results: Sequence[RatioResults]) -> Table:
    """Means and deviations as plain numbers, a row for each method, ratio and kind of comparison."""
    found = [
        ("equal budget" if result.budget and kind == "equal ratio" else kind, result, line)
        for result in results
        for kind, lines in (("equal ratio", result.equal_ratio), ("equal cost", result.equal_cost))
        for line in lines
    ]
    joules = quantities.energy_keys(rows_of(line for *_, line in found))
    spent = ("step_ratio", "budget_share") if any(result.budget for result in results) else ()
    means = ("train_macs", "train_paper_flops", "wall_seconds", "cpu_seconds", "params", "macs", *joules)
    names = (
        "comparison", "prune_ratio", "method", "n", "failed", "accuracy", "accuracy_std", "points", "points_half_width",
        "points_n", "cost_ratio", *means, *(("budget", *spent) if spent else ()),
    )  # fmt: skip
    rows = [
        [
            kind, result.prune_ratio, line.name, len(line.rows), line.failed,
            *_parts(line.spread("accuracy"), "mean", "std"), *_parts(line.difference, "mean", "half_width", "n"),
            line.cost_ratio, *(mean for key in means for mean in _parts(line.spread(key), "mean")),
            *([result.budget, *(mean for key in spent for mean in _parts(line.spread(key), "mean"))] if spent else ()),
        ]
        for kind, result, line in found
    ]  # fmt: skip
    return Table(named_columns(*names), rows)


def runs_table(entries: Sequence[GridEntry]) -> Table:
    """Plain numbers of each run, a row for failed ones too."""
    found = grid_rows(entries)
    spent = ("budget", "step_ratio", "budget_share") if any(entry.budget for entry in entries) else ()
    names = (
        "folder", "method", "prune_ratio", "seed", "equal_cost", "status", "error", "accuracy", "top5_accuracy",
        "uncut_accuracy", "realised_ratio", "emergence_epoch", "epochs", "trained_epochs", "params", "macs",
        "train_macs", "training_macs", "train_paper_flops", "wall_seconds", "cpu_seconds",
        *quantities.energy_keys(found.values()), *spent,
    )  # fmt: skip
    rows = []
    for entry in entries:
        status = "finished" if entry.folder in found else "failed" if entry.error else "open"
        own = (entry.folder, entry.label, entry.prune_ratio, entry.seed, entry.is_equal_cost, status, entry.error)
        facts = found.get(entry.folder, {}) | {"budget": entry.budget}
        rows.append([*own, *(facts.get(name) for name in names[len(own) :])])
    return Table(named_columns(*names), rows)


def _parts(value: object, *names: str) -> list[Cell]:
    """Attributes of a value; None for each if there is no value."""
    return [getattr(value, name, None) for name in names]


def _sections(
    results: Sequence[RatioResults], reference: str, topic: str
) -> Iterator[tuple[str, Cells, Sequence[GridLine], list[str]]]:
    """Title, columns, lines and notes of each table."""
    is_whole_told = any(result.whole for result in results)
    for result in results:
        where = f"{topic}, p = {result.prune_ratio:g}" if result.prune_ratio else topic
        lines = result.equal_ratio
        if result.budget:
            where = f"{topic}, prune ratio {result.prune_ratio:g}" if result.prune_ratio else topic
            found = [*([result.whole] if result.whole else []), *lines]
            yield f"{where}: budget {result.budget}", _budget_cells(result, reference), found, _notes(result, reference)
            continue
        if is_whole_told and {line.name for line in lines} == {DENSE}:
            continue  # It stands above the methods of each budget.
        yield f"{where}: at equal ratio", _ratio_cells(lines, reference), lines, _notes(result, reference)
        if lines := result.equal_cost:
            title = f"{where}: at the total cost of {reference}"
            yield title, _cost_cells(lines, reference), lines, _equal_notes(result, reference)


def _ratio_cells(lines: Sequence[GridLine], reference: str) -> Cells:
    """Columns at equal ratio: CPU seconds if all was computed on CPUs, and the known energies, after the seconds."""
    rows = rows_of(lines)
    is_cpu = bool(rows) and all(row["device"].startswith("cpu") for row in rows)
    cpu_seconds: Cells = {_CPU_SECONDS: lambda line: quantities.seconds_text(line, "cpu_seconds")}
    return {
        "method": lambda line: line.name,
        "p asked / realised": quantities.prune_ratio_cell,
        "test accuracy %": quantities.accuracy_cell,
        f"points from {reference}": _points,
        "ticket at epoch": quantities.emergence_cell,
        **quantities.COST_CELLS,
        **(cpu_seconds if is_cpu else {}),
        **quantities.energy_columns(rows),
        f"cost / {reference}": _cost,
        "n": _runs,
    }


def _cost_cells(lines: Sequence[GridLine], reference: str) -> Cells:
    """Columns at equal cost: the schedule instead of what is the same at equal ratio."""
    alike = ("p asked / realised", "ticket at epoch", "training FLOPs, paper's count")
    cells = {name: cell for name, cell in _ratio_cells(lines, reference).items() if name not in alike}
    return {
        "method": cells.pop("method"),
        "schedule, epochs": lambda line: _range(line, "epochs"),
        "trained to epoch": lambda line: _range(line, "trained_epochs") + ("†" if line.flags() else ""),
        **cells,
    }


# Under a budget: a step of the final network, and the whole run, in what the budget counts.
_STEP, _COST = "step / dense", "cost / dense"
_SPENT: Mapping[str, Callable[[GridLine], str]] = {
    _STEP: lambda line: quantities.mean_text(line, "step_ratio", ".2f"),
    _COST: lambda line: quantities.mean_text(line, "budget_share", ".3f"),
}


def _budget_cells(result: RatioResults, reference: str) -> Cells:
    """Columns under a budget: points from each rival, what a step takes, what was spent, how long it was trained."""
    found = leads(result, reference)
    cells = dict(_cost_cells(result.equal_ratio, reference))
    for name in ("schedule, epochs", f"points from {reference}", f"cost / {reference}"):
        del cells[name]
    points: dict[str, Callable[[GridLine], str]] = {
        f"points from {rival}": partial(_lead, found, rival) for rival in dict.fromkeys((reference, DENSE))
        if any(pair[1] == rival for pair in found)
    }  # fmt: skip
    key, unit = ("cpu_seconds", "CPU ") if _CPU_SECONDS in cells else ("wall_seconds", "")
    spent = {f"{unit}{_OF_TRAINING}": lambda line: quantities.seconds_text(line, f"training_{key}")}
    first = {name: cells.pop(name) for name in ("method", "test accuracy %")}
    return first | points | dict(_SPENT) | spent | cells


def _lead(found: Mapping[tuple[str, str], Lead], rival: str, line: GridLine) -> str:
    """`+0.31 ± 0.52 (p-value 0.4)`: as `_points`, with the p-value after Holm's correction."""
    lead = found.get((line.name, rival))
    if lead is None:
        return MISSING
    p = "" if lead.p is None else f" (p-value {lead.p:.2g})"
    return _interval(lead.points) + p


def _points(line: GridLine) -> str:
    """`+0.31 ± 0.52`: points, and half of the 95 % confidence interval where there are several seeds."""
    return MISSING if line.difference is None else _interval(line.difference)


def _interval(points: Spread) -> str:
    return signed(points.mean) + ("" if points.half_width is None else f" ± {points.half_width:.2f}")


def _runs(line: GridLine) -> str:
    return f"{len(line.rows)}" + (f" ({line.failed} failed)" if line.failed else "")


def _cost(line: GridLine) -> str:
    return MISSING if line.cost_ratio is None else f"{line.cost_ratio:.2f}"


def _share(line: GridLine, key: str) -> str:
    spread = line.spread(f"{key}_ratio")
    return MISSING if spread is None else f"{spread.mean:.2f}"


def _range(line: GridLine, key: str) -> str:
    found = sorted(row[key] for row in line.rows)
    return "–".join(dict.fromkeys(f"{value:.4g}" for value in (found[:1] + found[-1:]))) or MISSING


def _notes(result: RatioResults, reference: str) -> list[str]:
    notes = _budget_notes(result, reference) if result.budget else [
        "Mean ± sample standard deviation over n seeds. In brackets: divided by the dense run of the same seed. "
        "Training cost counts search, training and evaluation; what runs share is charged to each in full. Points: "
        f"mean difference from {reference} within seeds, ± half of its 95 % confidence interval (Student).",
    ]  # fmt: skip
    notes += [
        f"One run's accuracy has a standard error of {result.accuracy_error:.2f} points by the size of the test set "
        "alone: differences of one seed below about three times that say little.",
        *quantities.energy_notes(rows_of(result.equal_ratio)),
        *_timing_notes(result.equal_ratio),
    ]
    for line in result.equal_ratio:
        before = line.spread("uncut_accuracy")
        if before is not None:
            notes.append(f"{line.name}: {100 * before.mean:.2f} % before its channels went.")
        notes += quantities.flag_notes(line)
    return notes


def _budget_notes(result: RatioResults, reference: str) -> list[str]:
    is_macs = result.budget.startswith("macs")
    what = "MACs" if is_macs else "measured step time"
    schedule = "" if result.whole else ", whose schedule is shortened to the budget: the full one is not in the grid"
    notes = [
        f"step / dense: {what} of a training step of the final network, divided by the dense network's. cost / dense: "
        f"{what} of all training steps of the run, search included, divided by that of the dense network's full "
        "schedule; the same in all rows = equal cost.",
        f"Mean ± sample standard deviation over n seeds. Points: mean difference from {reference}, paired by seed, ± "
        "half of its 95 % confidence interval (Student's t).",
        "Seconds, training: those really spent on search and training, without the cut, the measuring of step "
        "times and the evaluation.",
        f"{_BRACKETS}divided by the dense run of the same seed{schedule}. Training MACs and seconds are of the whole "
        "run; what runs share is charged to each in full.",
    ]
    # Of all runs: under seconds=N each buys as many dense steps as it measured.
    asked = RunGroup("", tuple(rows_of(result.equal_ratio))).spread("budget_asked")
    shares = {line.name: share.mean for line in result.equal_ratio if (share := line.spread("budget_share"))}
    if asked and (off := [f"{n} ({s:.3f})" for n, s in shares.items() if abs(s / asked.mean - 1) > EQUAL_COST]):
        much = quantities.percent(EQUAL_COST)
        notes.append(f"Not at equal cost, more than {much} off the budget ({asked.mean:.3f}): {', '.join(off)}.")
    return notes


def _equal_notes(result: RatioResults, reference: str) -> list[str]:
    notes = [
        f"Every method at the training MACs of {reference} with the same seed: as it is, or with a last training as "
        "long as what its search leaves of them buys. A search as long as the schedule is shortened with it first.",
        *(note for line in result.equal_cost for note in quantities.flag_notes(line)),
        *_timing_notes(result.equal_cost),
    ]
    costs = {line.name: line.cost_ratio for line in result.equal_cost if line.cost_ratio is not None}
    if off := {name: ratio for name, ratio in costs.items() if abs(ratio - 1) > OFF_COST}:
        notes.append(f"Not at that cost after all, and not to be compared with the others: {_listed(off)}.")
    if result.not_equal:
        notes.append(f"Cost another share of {reference}'s and were not run at its cost: {_listed(result.not_equal)}.")
    return notes


def _listed(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({ratio:.2f})" for name, ratio in ratios.items())


def _timing_notes(lines: Sequence[GridLine]) -> list[str]:
    unlike = [line.name for line in lines if any(row["is_timed_alike"] is False for row in line.rows)]
    return [
        "Timed on another device or with another number of threads than the dense run of their seed, so that their "
        f"seconds are not to be compared with its: {', '.join(unlike)}."
    ] if unlike else []  # fmt: skip
