"""A run belongs to itself: its folder to one process at a time, its checkpoints to no other run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earlybird.cli.main import main
from earlybird.errors import CheckpointError, ConfigError, RunFolderError
from earlybird.runs.energy import MeterReading, import_power_log
from earlybird.runs.folder import RunFolder
from earlybird.runs.run import run, run_evaluation
from earlybird.settings.run import RunConfig


def config(seed: int = 0, method: str = "dense", epochs: int = 2) -> RunConfig:
    training = {"epochs": epochs, "seed": seed, "batch_size": 64, "checkpoint_every": 2, "precision": "fp32"}
    return RunConfig.from_dict(
        {
            "model": {"name": "vgg16", "width": 0.02},
            "data": {"name": "digits", "train_images": 256},
            "method": {"name": method},
            "training": training,
        }
    )


class _Killed(Exception):
    pass


def begin(folder: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train to the first checkpoint in mid-epoch and stop there as a kill would."""
    from earlybird.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def save_and_die(self: Checkpoints, state: dict) -> bool:
        save(self, state)
        if state["step"]:
            raise _Killed
        return True

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(Checkpoints, "save", save_and_die)
        run(config, folder, quiet=True)


@pytest.mark.parametrize("method", ["dense", "early_bird"])
def test_checkpoints_of_another_run_are_refused(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for seed in (0, 1):
        begin(tmp_path / f"s{seed}", config(seed, method), monkeypatch)
    shutil.rmtree(tmp_path / "s0" / "checkpoints")
    shutil.copytree(tmp_path / "s1" / "checkpoints", tmp_path / "s0" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"is of another run \(run_id, config_sha256, seed\); restore"):
        run(config(0, method), tmp_path / "s0", quiet=True)


def test_checkpoints_of_the_same_settings_in_another_folder_are_another_runs(tmp_path: Path, monkeypatch):
    for name in ("a", "b"):
        begin(tmp_path / name, config(), monkeypatch)
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"is of another run \(run_id\)"):
        run(config(), tmp_path / "b", quiet=True)


def test_a_run_that_was_moved_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begin(tmp_path / "a", config(), monkeypatch)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert run(config(), tmp_path / "b", quiet=True)["status"] == "finished"


def test_checkpoints_of_an_older_version_and_of_forced_settings_are_its_own(tmp_path: Path, monkeypatch):
    begin(tmp_path / "a", config(), monkeypatch)
    for manifest in (tmp_path / "a" / "checkpoints").glob("*.json"):
        said = json.loads(manifest.read_text())
        del said["run"]
        manifest.write_text(json.dumps(said))
    begin(tmp_path / "a", config(), monkeypatch)
    assert run(config(epochs=1), tmp_path / "a", force=True, quiet=True)["config"]["training"]["epochs"] == 1


def test_a_second_process_is_told_who_holds_the_folder_and_can_wait(tmp_path: Path):
    first = RunFolder(tmp_path / "run")
    with first.held():
        with pytest.raises(
            RunFolderError, match=rf"run is in use by process {os.getpid()} on .*; wait for it \(--wait\)"
        ):
            run(config(), tmp_path / "run", quiet=True)
        waiting = subprocess.Popen(
            [sys.executable, "-c", "import sys; from pathlib import Path; from earlybird.runs.folder import RunFolder\n"
             "with RunFolder(Path(sys.argv[1])).held(wait=True): print('held')", str(tmp_path / "run")],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(0.5)
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60)[0] == b"held\n"
    assert not (tmp_path / "run").exists()  # it was made to be held, and nothing came into it


def test_an_energy_log_is_not_written_into_a_folder_that_another_process_holds(tmp_path: Path):
    record = run(config(epochs=1), tmp_path / "run", quiet=True)
    began = record["cost"]["total"]["spans"][0][0]
    log = tmp_path / "log.csv"
    log.write_text("time,power\n" + "".join(f"{began - 2 + second},10\n" for second in range(60)))
    reading = MeterReading(log, time_column="time", power_column="power")
    with RunFolder(tmp_path / "run").held(), pytest.raises(RunFolderError, match="run is in use by process"):
        import_power_log(tmp_path / "run", reading)
    assert import_power_log(tmp_path / "run", reading)["joules"] > 0


def test_a_folder_that_is_removed_or_replaced_ends_its_run_with_a_line(tmp_path: Path, monkeypatch):
    from earlybird.training.checkpoint import Checkpoints

    save, out = Checkpoints.save, tmp_path / "run"

    def save_and_remove(self: Checkpoints, state: dict) -> bool:
        saved = save(self, state)
        if state["step"]:
            shutil.rmtree(out)
        return saved

    with monkeypatch.context() as patch, pytest.raises(RunFolderError, match="was removed or replaced while its run"):
        patch.setattr(Checkpoints, "save", save_and_remove)
        run(config(), out, quiet=True)
    assert not out.exists()
    assert run(config(), out, quiet=True)["status"] == "finished"


def test_processes_of_a_launcher_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"a launcher has started 2 processes \(WORLD_SIZE\)"):
        run(config(), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "RUN"],
        ["export", "RUN", "--pt2"],
        ["energy", "import", "log.csv", "--run", "RUN"],
        ["train", "--data", "digits", "--model", "vgg11", "--width", "0.02", "--out", "RUN"],
        ["search", "--data", "digits", "--model", "vgg11", "--width", "0.02", "--out", "RUN"],
        ["compare", "--methods", "dense", "--data", "digits", "--model", "vgg11", "--width", "0.02", "--out", "RUN"],
    ],
)
def test_every_command_refuses_a_launcher_in_one_line(command: list[str], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([word.replace("RUN", str(tmp_path / "run")) for word in command]) == 2
    said = capsys.readouterr().err
    assert "a launcher has started 2 processes (WORLD_SIZE)" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_network_of_another_run_is_not_evaluated(tmp_path: Path):
    for seed in (0, 1):
        run(config(seed, epochs=1), tmp_path / f"s{seed}", quiet=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(tmp_path / "s1" / name, tmp_path / "s0" / name)
    with pytest.raises(RunFolderError, match=r"s0/config\.json is not the file that this run left \(its sha256 is not"):
        run_evaluation(tmp_path / "s0")


def test_the_ticket_of_another_run_is_not_retrained(tmp_path: Path):
    for seed in (0, 1):
        early = RunConfig.from_dict(config(seed, epochs=1).to_dict() | {"method": {"name": "early_bird", "draw_at": 1}})
        run(early, tmp_path / f"s{seed}", quiet=True)
    shutil.copy(tmp_path / "s1" / "ticket.safetensors", tmp_path / "s0" / "ticket.safetensors")
    with pytest.raises(RunFolderError, match=r"ticket\.safetensors is not the file that this run left"):
        run(early, tmp_path / "again", ticket=tmp_path / "s0" / "ticket.safetensors", quiet=True)
    assert not (tmp_path / "again").exists()


def start(out: Path, seed: int) -> subprocess.Popen[str]:
    flags = "--model vgg16 --width 0.02 --data digits --data.train_images 128 --method dense --epochs 1 --quiet"
    command = [sys.executable, "-m", "earlybird", "train", *flags.split(), "--seed", str(seed), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("pairs", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_of_two_commands_at_once_one_finishes_and_the_other_is_told(pairs: int, seeds: tuple[int, int], tmp_path: Path):
    for number in range(pairs):
        out = tmp_path / f"run{number}"
        both = [start(out, seed) for seed in seeds]
        said = [process.communicate(timeout=300)[1] for process in both]
        codes = [process.returncode for process in both]
        finished, told = codes.count(0), [text for text, code in zip(said, codes, strict=True) if code == 2]
        assert finished + len(told) == 2 and finished >= 1, said
        for text in told:  # or the other had finished already, with another seed
            assert "is in use by process" in text or "finished run with another configuration" in text
        record = json.loads((out / "record.json").read_text())
        assert record["seeds"]["run"] in [seed for seed, code in zip(seeds, codes, strict=True) if code == 0]
        assert not (out / ".lock").exists() and not (out / "checkpoints").exists()
