"""The measured tables in `docs/results` are what the packed records beside them come to."""

from __future__ import annotations

import json
import runpy
import tarfile
from pathlib import Path

import pytest

from earlybird.cli.comparison import grid_entries, topic_of
from earlybird.grids.sweep import Sweep, read_grid
from earlybird.report.grid import full_tables, means_table, results_by_ratio, runs_table
from earlybird.report.table import to_csv, to_markdown

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "docs" / "results"
COMPARISON = "compare-cifar10"
PACKING = runpy.run_path(str(REPOSITORY / "benchmarks" / "pack_results.py"))
pack, unpack = PACKING["pack"], PACKING["unpack"]


def test_the_page_of_a_comparison_has_the_tables_of_its_records(tmp_path: Path):
    sweep = Sweep(unpack(COMPARISON, tmp_path), read_grid(tmp_path / COMPARISON), "a")
    entries = grid_entries(sweep)
    assert all(entry.record is not None for entry in entries)
    results = results_by_ratio(entries, "early_bird")
    markdown = to_markdown(*full_tables(results, "early_bird", topic_of(sweep)))
    assert markdown in (RESULTS / f"{COMPARISON}.md").read_text()
    assert (RESULTS / COMPARISON / "table.csv").read_text() == to_csv(means_table(results))
    assert (RESULTS / COMPARISON / "runs.csv").read_text() == to_csv(runs_table(entries))


def test_the_page_of_a_comparison_has_the_differences_of_its_runs_and_what_holm_leaves():
    compared = runpy.run_path(str(REPOSITORY / "benchmarks" / "compare_seeds.py"))
    table, page = compared["table"](), (RESULTS / f"{COMPARISON}.md").read_text()
    assert table in page
    # Student's t of 4.303 is the 5 % point at two degrees of freedom; by hand, three differences with that t.
    assert compared["probability"]([4.303 - 3**0.5, 4.303, 4.303 + 3**0.5]) == pytest.approx(0.05, abs=1e-4)
    assert compared["holm"]([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    lowest = min(float(row.split("|")[6]) for row in table.splitlines()[2:])
    assert lowest >= 0.05 and "No difference stands at 5 %" in page


def test_there_is_a_comparison_and_its_records_are_of_finished_runs(tmp_path: Path):
    paths = list(unpack(COMPARISON, tmp_path).glob("*/record.json"))
    assert len(paths) == 78
    assert {json.loads(path.read_text())["status"] for path in paths} == {"finished"}


def test_the_page_of_the_policies_is_the_table_of_its_records(tmp_path: Path):
    table = runpy.run_path(str(REPOSITORY / "benchmarks" / "compare_policies.py"))["table"]
    assert table(unpack("policies", tmp_path)) == (RESULTS / "policies.md").read_text()


def test_the_records_of_a_study_are_one_file():
    studies = sorted(path.name for path in RESULTS.iterdir() if path.is_dir())
    assert studies == sorted(path.parent.name for path in RESULTS.glob("*/records.tar.xz"))
    assert [*RESULTS.rglob("*.json"), *RESULTS.rglob("*.yaml")] == []


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder of two runs, one of which left more than its record, and of what a comparison keeps for itself."""
    for name in ["a/record.json", "a/config.yaml", "a/scales.npz", "a/model.safetensors", "grid.json", "b/record.json"]:
        path = tmp_path / "study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "study"


def test_packing_keeps_records_and_settings_and_unpacking_gives_them_back(study: Path, tmp_path: Path):
    pack(study, ["a/scales.npz"], tmp_path / "results")
    folder = unpack("study", tmp_path / "again", tmp_path / "results")
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    kept = ["a/config.yaml", "a/record.json", "a/scales.npz", "b/record.json", "grid.json"]
    assert found == {name: name for name in kept}


def test_the_same_records_give_the_same_bytes(study: Path, tmp_path: Path):
    first = pack(study, results=tmp_path / "first").read_bytes()
    folder = unpack("study", tmp_path / "again", tmp_path / "first")
    (folder / "b" / "record.json").chmod(0o600)
    archive = pack(folder, results=tmp_path / "second")
    assert archive.read_bytes() == first
    with tarfile.open(archive) as tar:
        assert {(entry.mtime, entry.uid, entry.mode) for entry in tar} == {(0, 0, 0o644)}


def test_a_folder_without_records_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="no records below"):
        pack(tmp_path)
