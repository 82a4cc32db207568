"""SIGTERM and SIGINT at any moment of a command: one line, 128 + number, nothing lost (`reliability.md` fault 5)."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import pytest

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


def _program(arguments: list[str], begun: Path) -> int:
    """What the console script does."""
    signal.signal(signal.SIGTERM, _too_early)
    signal.signal(signal.SIGINT, _too_early)
    sys.argv = ["earlybird", *arguments]
    begun.touch()
    return main()


def _too_early(*_: object) -> NoReturn:
    os._exit(TOO_EARLY)
