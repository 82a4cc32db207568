"""Work of `earlybird compare` on its grid: open its folder, run what is not done yet, print and write the tables.

It loads torch; `compare_command` does not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from earlybird.atomic import write_atomically
from earlybird.cli.main import keep_freed_memory
from earlybird.errors import ConfigError, RunFolderError, require
from earlybird.forecast.grid import forecast_grid
from earlybird.grids import engines
from earlybird.grids import sweep as sweeps
from earlybird.grids.grid import Grid, RunNode, asked_place
from earlybird.grids.run_node import error_of, events_since, new_token, record_of_node
from earlybird.grids.sweep import Sweep
from earlybird.report.comparison import data_label, model_label, recipe_label, scheduled_epochs
from earlybird.report.forecast import grid_forecast_table
from earlybird.report.grid import GridEntry, results_by_ratio
from earlybird.report.grid_tables import brief_tables, full_tables, means_table, runs_table
from earlybird.report.table import print_lines, to_csv, to_latex, to_markdown, to_terminal
from earlybird.report.verdict import verdicts
from earlybird.runs.folder import RunFolder
from earlybird.runs.inputs import network_and_data
from earlybird.runs.record_file import RECORD_NAME


def compare(grid: Grid | None, parsed: Namespace) -> int:
    """Run what is not done yet, then print and write the tables; without a grid only the tables of what is there.

    Returns:
        0, or 1 where a run failed.
    """
    sweep = _opened(grid, parsed)
    if sweep is None:
        return 0
    if grid is not None:
        _run(sweep, parsed)
    reference = _reference(sweep, parsed.reference)
    entries = grid_entries(sweep)
    _write_tables(sweep, reference, entries)
    return _report_failures(sweep, entries)


def _reference(sweep: Sweep, asked: str | None) -> str:
    """Label of the reference method: the one asked for, else Early-Bird, else dense, else the first named."""
    labels = list(dict.fromkeys(node.label for node in sweep.nodes if node.is_asked))
    if asked is not None:
        require("--reference", asked, asked in labels, f"one of {', '.join(labels)}")
        return asked
    return next((label for label in ("early_bird", "dense") if label in labels), labels[0])


def _opened(grid: Grid | None, parsed: Namespace) -> Sweep | None:
    """Check and store the sweep; None if a dry run was printed instead."""
    root, token = Path(parsed.out), new_token()
    known = sweeps.read_grid(root) if (root / sweeps.GRID_NAME).is_file() else None
    if grid is None:  # The tables of what is there, and what is missing of it.
        if known is None:
            raise ConfigError("--methods is missing; give methods to compare, such as dense,early_bird,uniform")
        sweeps.refuse_methods_of_file(known)
        sweep = Sweep(root, known, token)
        _reference(sweep, parsed.reference)
        return sweep
    RunFolder(root)  # which refuses a path that no run may have
    spec, bundle, _ = network_and_data(sweeps.any_config(grid))  # which refuses unknown methods before data are read
    sweeps.check_methods(grid, spec)
    grid = sweeps.with_precision(grid, spec, known.settings.get("training", {}).get("precision") if known else None)
    sweep = Sweep(root, sweeps.grown(root, grid), token)
    _reference(sweep, parsed.reference)  # which refuses an unknown one before anything is written
    if parsed.dry_run:
        unreadable = _say_unreadable(sweep, grid_entries(sweep))
        if (forecast := forecast_grid(sweep, spec, bundle)) is None:
            if unreadable:
                done = f"{len(sweep.nodes) - unreadable} of {len(sweep.nodes)} runs and searches are done"
                print(f"nothing else is left to do in {root}: {done}; what was refused stands in the way of the rest")
            else:
                print(f"nothing is left to do in {root}: all {len(sweep.nodes)} runs and searches are done")
        else:
            to_terminal(grid_forecast_table(forecast, parsed.workers))
        return None
    return sweeps.open_sweep(root, grid, token)


def _run(sweep: Sweep, parsed: Namespace) -> None:
    printer = _EventPrinter(sweep, parsed.quiet)
    if not (left := sweep.left()):
        return
    printer.line(f"{len(left)} of {len(sweep.nodes)} runs and searches are left to do in {sweep.root}")
    if parsed.engine == "ray":
        settings = engines.RaySettings(parsed.ray_address, parsed.cpus_per_run, parsed.gpus_per_run, parsed.retries)
        engines.run_on_ray(sweep, settings, printer.event, keep_freed_memory)
    elif parsed.workers == 1:
        sweeps.work(sweep, printer.event, quiet=parsed.quiet or not sys.stderr.isatty())
    else:
        command = [sys.executable, "-m", "earlybird.cli.worker"]
        engines.run_workers(sweep, parsed.workers, command, printer.line, printer.follow)


class _EventPrinter:
    """Progress of a sweep on stderr, one line for each event."""

    def __init__(self, sweep: Sweep, quiet: bool) -> None:
        self._sweep, self._quiet = sweep, quiet
        self._nodes = {node.id: node for node in sweep.needed()}
        self._began, self._read = time.monotonic(), events_since(sweep.root, 0)[1]

    def line(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def event(self, node: RunNode, event: str) -> None:
        """Print an event of a run node."""
        done = sum(self._sweep.state(n) != "open" for n in self._nodes.values())
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        why = f": {error_of(self._sweep.root, node)}" if event == "failed" else ""
        self.line(f"{minutes:>4}:{seconds:02d}  {done}/{len(self._nodes)}  {event:<8} {node.id}{why}")

    def follow(self) -> None:
        """Print the events that other processes have logged since the last call."""
        events, self._read = events_since(self._sweep.root, self._read)
        for event in events:
            if event["node"] in self._nodes:
                self.event(self._nodes[event["node"]], event["event"])


def _write_tables(sweep: Sweep, reference: str, entries: Sequence[GridEntry]) -> None:
    """Print and write what was found: in words where there are budgets, as tables, as pictures."""
    record = next((entry.record for entry in entries if entry.record), None)
    if record is None:
        return
    results, topic = results_by_ratio(entries, reference), topic_of(sweep)
    said = verdicts(results, reference, record)
    print_lines([*said, ""] if said else [])
    for table in brief_tables(results, reference, topic):
        to_terminal(table)
        print()
    tables = full_tables(results, reference, topic)
    written = {
        "table.md": "".join(f"{sentence}  \n" for sentence in said) + ("\n" if said else "") + to_markdown(*tables),
        "table.tex": "".join(f"% {sentence}\n" for sentence in said) + to_latex(*tables),
        "table.csv": to_csv(means_table(results)),
        "runs.csv": to_csv(runs_table(entries)),
    }
    for name, text in written.items():
        write_atomically(sweep.root / name, text.encode())
    from earlybird.report.grid_plot import plot_grid  # after the tables: a picture that fails costs none of them
    from earlybird.report.pareto_plot import plot_pareto

    pictures = [
        plot_grid(results, reference, topic, sweep.root / "cost.svg"),
        *(plot_pareto(results, topic, sweep.root / name) for name in ("pareto.svg", "pareto.png")),
    ]
    print(f"{sweep.root}: {', '.join([*written, *(picture.name for picture in pictures if picture)])}")


def grid_entries(sweep: Sweep) -> list[GridEntry]:
    """Runs that were asked for, each with its record or its error."""
    entries = []
    asked = [node for node in sweep.nodes if node.is_asked]
    for node in sorted(asked, key=lambda node: asked_place(sweep.grid, node)):
        record = None
        try:
            record = record_of_node(sweep.root, node)
            error = "" if record else error_of(sweep.root, node)
        except RunFolderError as unreadable:
            error = str(unreadable)
        at_equal_cost = node.equal_to is not None
        entries.append(
            GridEntry(node.label, node.prune_ratio, node.seed, at_equal_cost, node.id, record, error, node.budget)
        )
    return entries


def topic_of(sweep: Sweep) -> str:
    """Network, data, schedule and recipe, in words."""
    record = {"config": sweep.nodes[0].config.to_dict()}
    schedule = f"{scheduled_epochs(record)} epochs, recipe {recipe_label(record)}"
    return f"{model_label(record)} on {data_label(record)}, {schedule}"


def _say_unreadable(sweep: Sweep, entries: Sequence[GridEntry]) -> int:
    """Say which finished runs are left out, and why; their number."""
    found = [e for e in entries if e.record is None and os.path.lexists(sweep.root / e.folder / RECORD_NAME)]
    for entry in found:
        print(f"not in the tables: {entry.folder}: {entry.error}", file=sys.stderr)
    return len(found)


def _report_failures(sweep: Sweep, entries: Sequence[GridEntry]) -> int:
    unreadable = _say_unreadable(sweep, entries)
    failed = sweeps.failures(sweep)
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    if failed:
        cure = "(NODE.failed.json has each traceback); the same command tries them again"
        print(f"{len(failed)} of {len(sweep.nodes)} failed {cure}", file=sys.stderr)
    if left := sweeps.unfinished(sweep):
        print(f"not done: {', '.join(left)}; give the same command again", file=sys.stderr)
    return 1 if failed or left or unreadable else 0
