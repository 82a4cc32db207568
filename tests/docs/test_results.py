"""The measured tables in `docs/results` are what the records beside them come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from earlybird.cli.compare_command import grid_entries, topic_of
from earlybird.grids.sweep import Sweep, read_grid
from earlybird.report.grid import results_by_ratio
from earlybird.report.grid_tables import full_tables, means_table, runs_table
from earlybird.report.table import to_csv, to_markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"
COMPARISONS = sorted(path.parent for path in RESULTS.glob("*/grid.json"))


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_the_page_of_a_comparison_has_the_tables_of_its_records(folder: Path):
    sweep = Sweep(folder, read_grid(folder), "a")
    entries = grid_entries(sweep)
    assert all(entry.record is not None for entry in entries)
    results = results_by_ratio(entries, "early_bird")
    markdown = to_markdown(*full_tables(results, "early_bird", topic_of(sweep)))
    assert (folder / "table.md").read_text() == markdown
    assert markdown in (RESULTS / f"{folder.name}.md").read_text()
    assert (folder / "table.csv").read_text() == to_csv(means_table(results))
    assert (folder / "runs.csv").read_text() == to_csv(runs_table(entries))


def test_there_is_a_comparison_and_its_records_are_of_finished_runs():
    assert [folder.name for folder in COMPARISONS] == ["compare-cifar10"]
    statuses = {json.loads(path.read_text())["status"] for path in COMPARISONS[0].glob("*/record.json")}
    assert statuses == {"finished"}
