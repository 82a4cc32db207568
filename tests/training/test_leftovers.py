"""What a killed write leaves in a checkpoint folder, and what a meddled one holds."""

from __future__ import annotations

import hashlib
import io
import json
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
        store.save({"step": step})
    return store


def test_a_first_checkpoint_that_was_never_finished_is_none(tmp_path: Path):
    store = Checkpoints(tmp_path / "checkpoints")
    store.save({"step": 0})
    (store.folder / "00000001.json").unlink()
    with pytest.warns(UserWarning, match="it was the first, so the run starts from the beginning"):
        assert store.latest() is None
    store.save({"step": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.latest() == {"step": 0}


def test_one_that_was_never_finished_takes_no_place_among_the_two_that_are_kept(store: Checkpoints):
    (store.folder / "00000003.json").unlink()
    store.save({"step": 4})
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "00000002.json", "00000002.pt", "00000004.json", "00000004.pt"
    ]  # fmt: skip


def test_a_lost_weight_file_is_damage_said_aloud(store: Checkpoints):
    (store.folder / "00000003.pt").unlink()
    with pytest.warns(UserWarning, match=r"damaged checkpoint 00000003\.pt .*going on from the one before"):
        assert store.latest() == {"step": 2}


def test_a_single_checkpoint_that_lost_its_weights_is_an_error(tmp_path: Path):
    store = Checkpoints(tmp_path / "checkpoints")
    store.save({"step": 0})
    (store.folder / "00000001.pt").unlink()
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        store.latest()


def test_the_next_save_removes_what_a_killed_write_left(store: Checkpoints):
    leftover = store.folder / ".00000004.pt.tmp-12345"
    leftover.write_bytes(b"half")
    store.save({"step": 4})
    assert not leftover.exists()


@pytest.mark.parametrize("manifest", ["[]", "null", "{}", '"x"'])
def test_a_manifest_that_is_no_manifest_is_damage(store: Checkpoints, manifest: str):
    (store.folder / "00000003.json").write_text(manifest)
    with pytest.warns(UserWarning, match=r"damaged checkpoint 00000003\.pt"):
        assert store.latest() == {"step": 2}


def test_a_checkpoint_that_holds_no_state_is_damage(store: Checkpoints):
    buffer = io.BytesIO()
    torch.save(torch.zeros(3), buffer)
    (store.folder / "00000003.pt").write_bytes(buffer.getvalue())
    manifest = {"format_version": 1, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    (store.folder / "00000003.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="it holds no state"):
        assert store.latest() == {"step": 2}


def test_a_disk_that_refuses_without_a_reason_is_still_named(store: Checkpoints, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError("the cable is out")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.warns(UserWarning, match="the cable is out"):
        assert store.save({"step": 4}) is False
