"""Real processes, real signals: a run that is killed goes on with the same command and ends with the same bits."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from earlybird.cli.main import main

Child = Callable[..., BaseProcess]


def command(tiny: Path, out: Path, epochs: int) -> list[str]:
    return [
        "train", "--model", f"{tiny}:network", "--data", f"{tiny}:data",
        "--epochs", str(epochs), "--batch-size", "10", "--lr", "0.05", "--precision", "fp32", "--round-to", "1",
        "--clock", "epochs", "--method.penalty", "1e-3", "--training.checkpoint_every", "4", "--quiet",
        "--out", str(out),
    ]  # fmt: skip


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def rows(out: Path, phase: str) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count(f'"phase": "{phase}"') if path.is_file() else 0


def interrupt(child: Child, arguments: list[str], out: Path, phase: str, number: int, seconds: float = 0.0) -> int:
    """Start, wait until the phase has one more epoch behind it (and a bit), send the signal; the exit code."""
    before = rows(out, phase)
    process = child(main, arguments)
    deadline = time.monotonic() + 120
    while rows(out, phase) <= before:
        assert process.is_alive(), "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(timeout=60)
    assert process.exitcode is not None
    return process.exitcode


def test_killed_in_the_search_and_in_the_retrain_and_terminated_it_ends_with_the_same_bits(
    child: Child, tiny: Path, tmp_path: Path
):
    assert main(command(tiny, tmp_path / "whole", epochs=25)) == 0
    out = tmp_path / "interrupted"
    arguments = command(tiny, out, epochs=25)
    assert interrupt(child, arguments, out, "search", signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(child, arguments, out, "retrain", signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(child, arguments, out, "retrain", signal.SIGTERM, 0.02) == 128 + signal.SIGTERM
    assert list((out / "checkpoints").glob("*.pt"))
    assert not (out / "record.json").exists()
    assert main(arguments) == 0
    assert digest(out) == digest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(10))
def test_sigkill_at_random_moments_again_and_again(child: Child, tiny: Path, tmp_path: Path, trial: int):
    assert main(command(tiny, tmp_path / "whole", epochs=100)) == 0
    chance, out = random.Random(trial), tmp_path / "killed"
    arguments = command(tiny, out, epochs=100)
    for phase in ("search", "retrain", "retrain"):
        if (out / "record.json").exists():
            break
        interrupt(child, arguments, out, phase, signal.SIGKILL, chance.uniform(0.0, 0.4))
    assert main(arguments) == 0
    assert digest(out) == digest(tmp_path / "whole")
