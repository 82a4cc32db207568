from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch

from earlybird.errors import CheckpointError
from earlybird.training.checkpoint import Checkpoints


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    store = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        assert store.save({"step": step, "weights": torch.full((50,), float(step))})
    return store


def newest(store: Checkpoints) -> Path:
    return sorted(store.folder.glob("*.pt"))[-1]


def test_the_newest_is_read_and_two_are_kept(store: Checkpoints):
    state = store.latest()
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.full((50,), 3.0))
    assert len(list(store.folder.glob("*.pt"))) == len(list(store.folder.glob("*.json"))) == 2


def test_no_checkpoint_yet_is_none(tmp_path: Path):
    assert Checkpoints(tmp_path / "none").latest() is None


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_manifest(path: Path) -> None:
    path.with_suffix(".json").unlink()


def garble_manifest(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, drop_manifest, garble_manifest])
def test_a_damaged_newest_is_named_aloud_and_the_one_before_is_used(store: Checkpoints, damage):
    damage(newest(store))
    with pytest.warns(UserWarning, match=r"damaged checkpoint 00000003\.pt .* going on from the one before"):
        assert store.latest()["step"] == 2


def test_after_damage_a_new_checkpoint_still_gets_a_higher_number(store: Checkpoints):
    flip_a_bit(newest(store))
    store.save({"step": 4})
    assert store.latest()["step"] == 4


def test_none_intact_is_an_error_that_says_how_to_start_again(store: Checkpoints):
    for path in store.folder.glob("*.pt"):
        flip_a_bit(path)
    with pytest.raises(CheckpointError, match="no intact checkpoint .* remove the folder to start again"):
        store.latest()


def test_another_format_version_is_refused_by_name(store: Checkpoints):
    manifest = newest(store).with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 0}))
    with pytest.raises(CheckpointError, match="format version 0, this version reads 1"):
        store.latest()


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_that_wants_to_run_code_runs_nothing(store: Checkpoints, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = newest(store)
    path.write_bytes(pickle.dumps(Malicious()))
    manifest = path.with_suffix(".json")
    sha = __import__("hashlib").sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sha256": sha}))
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        assert store.latest()["step"] == 2
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_keeps_the_old_ones_removes_the_temporary_and_says_so(store: Checkpoints, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match=r"checkpoint not saved .*No space left on device.*the previous one is intact"):
        assert store.save({"step": 4}) is False
    assert not list(store.folder.glob(".*tmp*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.latest()["step"] == 3


def test_clear_removes_all_of_it(store: Checkpoints):
    store.clear()
    assert not store.folder.exists()
