"""The measured tables in `docs/results` are what the packed records beside them come to."""

from __future__ import annotations

import json
import runpy
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "docs" / "results"
COMPARISON, LATER_SEEDS = "compare-cifar10", "compare-cifar10-seeds"
PACKING = runpy.run_path(str(REPOSITORY / "benchmarks" / "pack_results.py"))
pack, unpack = PACKING["pack"], PACKING["unpack"]


JOINING = runpy.run_path(str(REPOSITORY / "benchmarks" / "join_comparisons.py"))


def unpacked(into: Path) -> list[Path]:
    """Folders of the comparison and of its later seeds."""
    return [unpack(study, into) for study in (COMPARISON, LATER_SEEDS)]


def test_the_page_of_a_comparison_has_the_tables_of_its_records(tmp_path: Path):
    files, _ = JOINING["texts"](JOINING["opened"](unpacked(tmp_path)))
    assert files["table.md"] in (RESULTS / f"{COMPARISON}.md").read_text()
    assert (RESULTS / COMPARISON / "table.csv").read_text() == files["table.csv"]
    assert (RESULTS / COMPARISON / "runs.csv").read_text() == files["runs.csv"]


def test_comparisons_of_other_settings_or_of_the_same_runs_are_not_joined(tmp_path: Path):
    first, later = unpacked(tmp_path)
    with pytest.raises(SystemExit, match="more than one comparison holds dense-s3"):
        JOINING["joined"](JOINING["opened"]([later, later]))
    grid = json.loads((later / "grid.json").read_text())
    grid["settings"]["training"]["lr"] = 0.2
    (later / "grid.json").write_text(json.dumps(grid))
    with pytest.raises(SystemExit, match=r"other settings \(training.lr: 0.1 -> 0.2\)"):
        JOINING["opened"]([first, later])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_later_seeds_are_of_the_same_data_though_its_path_is_another(seed: int, tmp_path: Path):
    first, later = unpacked(tmp_path)
    names = (first / f"early_bird-p0.5-s{seed}", later / f"early_bird_as_released-p0.5-s{seed}")
    early, released = (json.loads((name / "record.json").read_text())["ticket"]["distances"] for name in names)
    # One dense search under two stop rules: up to the earlier draw every mask distance is the same to the bit.
    assert len(early) < len(released) and released[: len(early)] == early


COMPARED = runpy.run_path(str(REPOSITORY / "benchmarks" / "compare_seeds.py"))


def test_the_page_of_a_comparison_has_the_differences_of_its_runs_and_what_holm_leaves():
    page = (RESULTS / f"{COMPARISON}.md").read_text()
    assert COMPARED["table"]() in page
    rows = [line.strip("| ").split(" | ") for line in COMPARED["table"]().splitlines()[2:]]
    without, whole = ({row[0] for row in rows if float(row[column]) < 0.05} for column in (3, 5))
    lead, dense = "early_bird_restart = - early_bird", "dense - early_bird"
    assert len(rows) == 14 and "Fourteen comparisons" in page and "corrected for the fourteen" in page
    assert without == {lead, dense} and "Two differences stand at 5 %" in page
    assert whole == {lead, dense, "uniform - early_bird"}


def test_a_difference_without_the_seed_that_promoted_a_variant_has_the_seeds_that_both_have():
    found = COMPARED["differences"](("early_bird_restart", True), ("early_bird", False))
    assert list(found) == [0, 1, 2, 3, 4] and COMPARED["later"](found) == [found[seed] for seed in (1, 2, 3, 4)]
    assert list(COMPARED["differences"](("reinit", True), ("early_bird_restart", True))) == [0, 1, 2]


def test_there_is_a_comparison_and_its_records_are_of_finished_runs(tmp_path: Path):
    paths = [list(folder.glob("*/record.json")) for folder in unpacked(tmp_path)]
    assert [len(found) for found in paths] == [78, 13]
    assert {json.loads(path.read_text())["status"] for found in paths for path in found} == {"finished"}


def test_the_page_of_the_policies_is_the_table_of_its_records(tmp_path: Path):
    table = runpy.run_path(str(REPOSITORY / "benchmarks" / "compare_policies.py"))["table"]
    assert table(unpack("policies", tmp_path)) == (RESULTS / "policies.md").read_text()


def test_the_page_of_the_gpu_has_the_tables_of_its_records(tmp_path: Path):
    tables = runpy.run_path(str(REPOSITORY / "benchmarks" / "h100_tables.py"))["tables"]
    assert tables(unpack("h100", tmp_path)) in (RESULTS / "h100.md").read_text()


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
