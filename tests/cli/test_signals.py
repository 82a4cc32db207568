"""SIGTERM and SIGINT at any moment of a command: one line, 128 + number, nothing lost (`reliability.md` fault 5)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file

from earlybird.cli.main import main

TOO_EARLY = 77


@pytest.mark.parametrize("trials", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_signal_at_any_moment_is_one_line_and_the_same_command_goes_on(
    child: Callable[..., BaseProcess], tiny: Path, tmp_path: Path, trials: int
):
    out, begun, said = tmp_path / "run", tmp_path / "begun", tmp_path / "child.err"
    command = [
        "train", "--model", f"{tiny}:network", "--data", f"{tiny}:data", "--epochs", "4", "--batch-size", "30",
        "--precision", "fp32", "--round-to", "1", "--quiet", "--method.draw_at", "1", "--out",
    ]  # fmt: skip
    began = time.monotonic()
    whole = child(_program, [*command, str(tmp_path / "whole")], begun)
    whole.join()
    seconds, chance = time.monotonic() - began, random.Random(0)
    assert whole.exitcode == 0
    for trial in range(trials):
        begun.unlink(missing_ok=True)
        said.write_text("")
        process = child(_program, [*command, str(out)], begun)
        while not begun.exists():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, seconds))
        number = (signal.SIGTERM, signal.SIGINT)[trial % 2]
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join()
        lines = said.read_text().splitlines()
        if process.exitcode in (0, TOO_EARLY):
            assert lines == []
        else:
            assert process.exitcode == 128 + number
            assert len(lines) == 1 and lines[0].startswith(f"earlybird: stopped by {number.name}; ")
    last = child(_program, [*command, str(out)], begun)
    last.join()
    assert last.exitcode == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("moments", [(0.1,), pytest.param((0.0, 0.3, 0.6, 1.0, 1.5, 2.5), marks=pytest.mark.slow)])
def test_ctrl_c_on_a_comparison_whose_workers_import_is_one_line(
    child: Callable[..., BaseProcess], tiny: Path, tmp_path: Path, moments: tuple[float, ...]
):
    begun, said = tmp_path / "begun", tmp_path / "child.err"
    flags = ["--model", f"{tiny}:network", "--data", f"{tiny}:data", "--epochs", "4", "--batch-size", "30"]
    command = ["compare", "--methods", "dense,early_bird", "--precision", "fp32", *flags, "--workers", "2", "--quiet"]
    command += ["--out", str(tmp_path / "out")]
    for number in (signal.SIGINT, signal.SIGTERM):
        for moment in moments:
            said.write_text("")
            process = child(_leader, command, begun)
            assert process.pid is not None
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while process.is_alive() and len(children.read_text().split()) < 2:
                time.sleep(0.002)
            workers = children.read_text().split()
            time.sleep(moment)
            os.killpg(process.pid, number)
            process.join()
            if process.exitcode:  # Else it was done.
                assert process.exitcode == 128 + number
                lines = said.read_text().splitlines()
                assert len(lines) == 1 and lines[0].startswith(f"earlybird: stopped by {number.name}; ")
            assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    if len(moments) > 1:
        assert main(command) == 0


def _leader(arguments: list[str], begun: Path) -> int:
    os.setpgid(0, 0)
    return _program(arguments, begun)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "retrain", "evaluate", "export", "cost", "compare", "dry run", "workers"])
def test_a_signal_to_any_command_is_one_line_and_the_same_command_goes_on(
    child: Callable[..., BaseProcess], tiny: Path, tmp_path: Path, name: str
):
    begun, said, run, out = tmp_path / "begun", tmp_path / "child.err", tmp_path / "run", tmp_path / "out"
    code = ["--model", f"{tiny}:network", "--data", f"{tiny}:data"]
    flags = [*code, "--epochs", "4", "--batch-size", "30", "--precision", "fp32", "--quiet"]
    draws = ["--method.round_to", "1", "--method.draw_at", "1"]
    assert main(["train", *flags, *draws, "--out", str(run)]) == 0
    command = {
        "search": ["search", "--ratios", "[0.3,0.5]", *flags, *draws, "--out", str(out)],
        "retrain": ["retrain", "--ticket", str(run / "ticket.safetensors"), *flags, *draws, "--out", str(out)],
        "evaluate": ["evaluate", str(run), *code],
        "export": ["export", str(run), "--model", code[1], "--pt2", "--out", str(out)],
        "cost": ["cost", "--widths", str(run), *code, "--calibrate", "--calibration-steps", "10"],
        "compare": ["compare", "--methods", "dense,early_bird", *flags, *draws, "--out", str(out)],
        "dry run": ["compare", "--methods", "dense,early_bird", *flags, *draws, "--out", str(out), "--dry-run"],
        "workers": ["train", *flags, *draws, "--out", str(out), "--data.workers", "2"],
    }[name]
    began = time.monotonic()
    whole = child(_leader, [word.replace(str(out), str(tmp_path / "whole")) for word in command], begun)
    whole.join()
    assert whole.exitcode == 0, said.read_text()
    seconds, chance = time.monotonic() - began, random.Random(1)
    for trial in range(10):
        begun.unlink(missing_ok=True)
        said.write_text("")
        process = child(_leader, command, begun)
        while not begun.exists():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, seconds))
        number = (signal.SIGTERM, signal.SIGINT)[trial % 2]
        assert process.pid is not None
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            continue
        process.join()
        notices = ("earlybird: warning: ", "measuring training steps here")
        lines = [line for line in said.read_text().splitlines() if not line.startswith(notices)]
        if process.exitcode not in (0, TOO_EARLY):
            assert process.exitcode == 128 + number, lines
            assert len(lines) == 1 and lines[0].startswith(f"earlybird: stopped by {number.name}; ")
        assert not [path for path in out.rglob(".*") if ".tmp" in path.name and path.parent.name != "checkpoints"]
    last = child(_leader, command, begun)
    last.join()
    assert last.exitcode == 0, said.read_text()
    for path in (tmp_path / "whole").rglob("*.safetensors"):  # A ticket also notes seconds.
        ours, theirs = load_file(out / path.relative_to(tmp_path / "whole")), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_imports_shows_no_traceback(tmp_path: Path, number: signal.Signals):
    for moment in (0.03, 0.06, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6):
        command = [sys.executable, "-m", "earlybird", "train", "--data", "digits", "--out", str(tmp_path / "run")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        time.sleep(moment)
        process.send_signal(number)
        said = process.communicate()[1].splitlines()
        # Until `earlybird/__main__.py` runs, the interpreter starts and finds the package: the signal is its own.
        if any("Traceback" in line or "Fatal Python error" in line for line in said):
            assert not any(place in line for line in said for place in ("earlybird/__main__.py", "earlybird/cli")), said
            continue
        assert process.returncode in (128 + number, -number), said
        assert len(said) == (process.returncode > 0)


def _program(arguments: list[str], begun: Path) -> int:
    """What the console script does."""
    signal.signal(signal.SIGTERM, _too_early)
    signal.signal(signal.SIGINT, _too_early)
    sys.argv = ["earlybird", *arguments]
    begun.touch()
    return main()


def _too_early(*_: object) -> NoReturn:
    os._exit(TOO_EARLY)
