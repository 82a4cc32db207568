from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from earlybird.errors import RunFolderError
from earlybird.runs.record_file import load_records, read_record

PHASE = {"images": 1, "macs": 1, "paper_flops": None, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 1}
CONFIG = {
    "model": {"name": "vgg16"}, "data": {"name": "digits"}, "method": {"name": "dense"},
    "training": {"epochs": 1, "batch_size": 8, "seed": 0},
}  # fmt: skip
NETWORK = {"params": 1, "macs": 1, "train_macs": 3, "paper_gflops": 0.1}
TICKET = {"prune_ratio": 0.5, "realised_ratio": 0.5, "epoch": 1, "fraction_of_schedule": 0.5}


def made(seed: int = 0) -> dict[str, Any]:
    """A record with the least that one must have."""
    return {
        "schema_version": 1, "run_id": f"s{seed}", "seeds": {"seed": seed}, "config": CONFIG,
        "resolved": {"precision": "fp32"}, "dense": NETWORK, "final": NETWORK, "metrics": [],
        "test": {"accuracy": 0.5, "samples": 8},
        "cost": {"phases": {"train": PHASE}, "total": PHASE},
    }  # fmt: skip


def write(folder: Path, record: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    path = folder / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def test_records_are_found_below_a_folder_in_path_order(tmp_path):
    write(tmp_path / "b", made(seed=1))
    write(tmp_path / "a" / "deep", made(seed=0))
    assert [record["seeds"]["seed"] for record in load_records([tmp_path])] == [0, 1]


def test_a_record_named_twice_is_loaded_once(tmp_path):
    path = write(tmp_path / "a", made())
    assert load_records([path, tmp_path, tmp_path / "a"]) == [made()]


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="no such run folder: '.*absent'"):
        load_records([tmp_path / "absent"])


def test_a_folder_without_finished_runs_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=f"no record.json below '{tmp_path}'"):
        load_records([tmp_path])


@pytest.mark.parametrize("text", ['{"schema_version": 1, "run', "", "\x00\x00"])
def test_a_corrupt_record_is_named(tmp_path, text):
    write(tmp_path / "good", made())
    bad = write(tmp_path / "bad", {})
    bad.write_text(text)
    with pytest.warns(UserWarning, match=f"left out: cannot read record '{bad}'") as caught:
        assert load_records([tmp_path]) == [made()]
    assert "\n" not in str(caught[0].message)
    with pytest.raises(RunFolderError, match=f"cannot read record '{bad}'"):
        load_records([bad])


def test_bytes_that_are_no_text_are_a_corrupt_record(tmp_path):
    path = write(tmp_path / "bad", {})
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunFolderError, match="cannot read record"):
        read_record(path)


def test_a_list_is_no_record(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("[]")
    with pytest.raises(RunFolderError, match="holds a list, not an object"):
        read_record(path)


def test_another_schema_version_is_refused(tmp_path):
    path = write(tmp_path / "a", {**made(), "schema_version": 2})
    with pytest.raises(RunFolderError, match="schema_version 2; this version reads 1"):
        read_record(path)


def test_a_missing_key_is_named(tmp_path):
    record = made()
    del record["cost"]
    with pytest.raises(RunFolderError, match="the file: 'cost' is a required property"):
        read_record(write(tmp_path / "a", record))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 900 + "]" * 900, "holds a list|nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "it holds NaN, which is no number"),
    ],
)
def test_json_that_is_no_record_is_one_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=message) as refused:
        read_record(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("final", {}, "final: '[a-z_]+' is a required property"),
        ("ticket", 1, "ticket: 1 is not of type 'object', 'null'"),
        ("cost", {}, "cost: '[a-z]+' is a required property"),
        ("test", {"accuracy": 2.5, "samples": 8}, "test.accuracy: 2.5 is greater than the maximum of 1"),
        ("config", {**CONFIG, "method": {"name": 1}}, "config.method.name: 1 is not of type 'string'"),
        ("test", {"accuracy": 0.5, "samples": 8, "loss": -1.0}, "test.loss: -1.0 is less than the minimum of 0"),
        ("test", {"accuracy": 0.5, "correct": 9, "samples": 8}, "test.correct: 9 is more than test.samples, 8"),
        ("uncut_test", {"accuracy": 0.5, "correct": 9, "samples": 8}, "uncut_test.correct: 9 is more than"),
        ("weight_mask", {"realised_ratio": 0.5, "kept": 3, "weights": 2}, "weight_mask.kept: 3 is more than"),
        ("layers", [{"name": "a", "dense": 8, "kept": 9}], r"layers\[0\].kept: 9 is more than layers\[0\].dense, 8"),
        ("ticket", TICKET | {"realised_ratio": 1.5}, "ticket.realised_ratio: 1.5 is greater than the maximum of 1"),
        ("ticket", TICKET | {"fraction_of_schedule": 1.5}, "ticket.fraction_of_schedule: 1.5 is greater than"),
        ("ticket", TICKET | {"epoch": -1}, "ticket.epoch: -1 is less than the minimum of 0"),
        ("ticket", TICKET | {"epoch": 7, "total_epochs": 6}, "ticket.epoch: 7 is more than ticket.total_epochs, 6"),
        ("metrics", [{"phase": "train", "epoch": -1}], r"metrics\[0\].epoch: -1 is less than the minimum of 0"),
        ("metrics", [{"phase": "train", "epoch": 1, "val_accuracy": 2}], r"metrics\[0\].val_accuracy: 2 is greater"),
        ("metrics", [{}], r"metrics\[0\]: 'phase' is a required property"),
    ],
)
def test_a_record_that_is_not_as_its_schema_says_is_one_line(tmp_path: Path, key: str, value: object, message: str):
    with pytest.raises(RunFolderError, match=f"cannot read record .*{message}"):
        read_record(write(tmp_path / "a", made() | {key: value}))
