"""Real processes, real signals: a run that is killed goes on with the same command and ends with the same bits."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def command(tiny: Path, out: Path, epochs: int = 30) -> list[str]:
    return [
        sys.executable, "-m", "earlybird", "train", "--model", f"{tiny}:network", "--data", f"{tiny}:data",
        "--epochs", str(epochs), "--batch-size", "10", "--lr", "0.05", "--precision", "fp32", "--round-to", "1",
        "--clock", "epochs", "--method.penalty", "1e-3", "--training.checkpoint_every", "4", "--quiet",
        "--out", str(out),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    # One thread: the machine that runs the tests may be busy, and bits depend on the number of threads.
    return os.environ | {"OMP_NUM_THREADS": "1"}


def finish(arguments: list[str]) -> None:
    subprocess.run(arguments, env=environment(), check=True, capture_output=True)


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def rows(out: Path, phase: str) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count(f'"phase": "{phase}"') if path.is_file() else 0


def interrupt(arguments: list[str], out: Path, phase: str, number: int, seconds: float = 0.0) -> int:
    """Start, wait until the phase has one more epoch behind it (and a bit), send the signal; the exit code."""
    before = rows(out, phase)
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while rows(out, phase) <= before:
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(number)
    return process.wait(timeout=60)


def test_killed_in_the_search_and_in_the_retrain_and_terminated_it_ends_with_the_same_bits(tiny: Path, tmp_path: Path):
    finish(command(tiny, tmp_path / "whole"))
    out = tmp_path / "interrupted"
    assert interrupt(command(tiny, out), out, "search", signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(command(tiny, out), out, "retrain", signal.SIGKILL) == -signal.SIGKILL
    assert interrupt(command(tiny, out), out, "retrain", signal.SIGTERM, 0.02) == 128 + signal.SIGTERM
    assert list((out / "checkpoints").glob("*.pt"))
    assert not (out / "record.json").exists()
    finish(command(tiny, out))
    assert digest(out) == digest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(10))
def test_sigkill_at_random_moments_again_and_again(tiny: Path, tmp_path: Path, trial: int):
    finish(command(tiny, tmp_path / "whole", epochs=100))
    chance, out = random.Random(trial), tmp_path / "killed"
    for phase in ("search", "retrain", "retrain"):
        if (out / "record.json").exists():
            break
        interrupt(command(tiny, out, epochs=100), out, phase, signal.SIGKILL, chance.uniform(0.0, 0.4))
    finish(command(tiny, out, epochs=100))
    assert digest(out) == digest(tmp_path / "whole")
