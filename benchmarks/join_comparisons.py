"""Tables of several comparisons as of one: `docs/results/compare-cifar10.md` is of a study and of its later seeds.

    python benchmarks/join_comparisons.py runs/compare-cifar10 runs/compare-cifar10-seeds --into runs/joined

The later seeds were trained with another path to the same data. `earlybird compare` rightly takes a record with another
path for one of another run, so that each folder keeps its grid and its records as they were written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from earlybird.cli.comparison import grid_entries, topic_of
from earlybird.grids.grid import Grid, merged
from earlybird.grids.sweep import Sweep, read_grid
from earlybird.report.grid import GridEntry, RatioResults, results_by_ratio
from earlybird.report.grid_plot import plot_grid
from earlybird.report.grid_tables import full_tables, means_table, runs_table
from earlybird.report.table import to_csv, to_markdown
from earlybird.settings.run import RunConfig, differences

REFERENCE = "early_bird"
PATH_OF_DATA = "data.name: "  # the one setting in which they may differ


def opened(folders: Sequence[Path]) -> list[Sweep]:
    """Comparisons in folders; refused where they differ in more than the path of their data."""
    sweeps = [Sweep(folder, read_grid(folder), "joined") for folder in folders]
    first, *others = (settings_of(sweep.grid) for sweep in sweeps)
    for folder, other in zip(folders[1:], others, strict=True):
        changes = differences(first, other)
        if wrong := [change for change in changes if not change.startswith(PATH_OF_DATA)]:
            raise SystemExit(f"{folders[0]} and {folder} have other settings ({'; '.join(wrong[:3])}); join others")
    return sweeps


def settings_of(grid: Grid) -> dict[str, Any]:
    """Settings that all runs of a grid share, with the defaults of those that are younger than it."""
    sections = RunConfig.from_dict({name: dict(section) for name, section in grid.settings.items()}).to_dict()
    return sections | {"method": dict(grid.method_settings)}


def joined(sweeps: Sequence[Sweep]) -> list[GridEntry]:
    """All their runs in the order of one comparison: full schedules first, then by method, ratio and seed."""
    found = [entry for sweep in sweeps for entry in grid_entries(sweep)]
    if unread := [f"{entry.folder}: {entry.error or 'not finished'}" for entry in found if entry.record is None]:
        raise SystemExit(f"no record of {'; '.join(unread)}")
    if twice := {entry.folder for entry in found if [other.folder for other in found].count(entry.folder) > 1}:
        raise SystemExit(f"more than one comparison holds {', '.join(sorted(twice))}; join others")
    methods = merged([sweep.grid for sweep in sweeps]).methods
    return sorted(found, key=lambda e: (e.is_equal_cost, methods.index(e.label), e.prune_ratio or 0.0, e.seed))


def texts(sweeps: Sequence[Sweep]) -> tuple[dict[str, str], list[RatioResults]]:
    """Text of each file by its name, and the results of which the tables are."""
    entries = joined(sweeps)
    results = results_by_ratio(entries, REFERENCE)
    tables = full_tables(results, REFERENCE, topic_of(sweeps[0]))
    files = {
        "table.md": to_markdown(*tables),
        "table.csv": to_csv(means_table(results)),
        "runs.csv": to_csv(runs_table(entries)),
    }
    return files, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    sweeps = opened(arguments.folders)
    files, results = texts(sweeps)
    arguments.into.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (arguments.into / name).write_text(text)
    plot_grid(results, REFERENCE, topic_of(sweeps[0]), arguments.into / "cost.svg")
    print(f"{arguments.into}: {', '.join(files)}, cost.svg")


if __name__ == "__main__":
    main()
