"""`benchmarks/device_check.py` in miniature, on a CPU: with a stand-in for CUDA graphs, and without."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch, costs_counted_once):
    """The scripts, importable by name; one thread, as they set it on a CPU."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    import device_check

    yield device_check
    torch.set_num_threads(threads)


class Counter:
    """8 J in each block, and nobody else on the card."""

    method, device, notes, idle_watts, pending, others = "fake", "x", (), None, False, 0

    def start(self) -> None:
        pass

    def take(self) -> float:
        return 8.0

    def stop(self) -> None:
        pass


def checked(scripts: Any, folder: Path, *flags: str) -> dict[str, Any]:
    out = folder / "found.json"
    assert scripts.main(["--small", "--device", "cpu", "--networks", "vgg11", "--out", str(out), *flags]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_the_check_measures_all_its_parts(scripts, fake, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(scripts, "find_counter", lambda device: Counter())
    found = checked(scripts, tmp_path, "--forms", "captured,eager")
    rows = {(row["widths"], row["form"]): row for row in found["steps"]}
    dense, slim = "dense", "slim, multiples of 2"
    assert list(rows) == [(w, f) for f in ("eager", "captured") for w in (dense, slim, "slim, exact widths")]
    assert fake.captures >= 4  # three networks, and one whose bits are compared
    for row in rows.values():
        assert row["error"] is None and len(row["blocks"]) == 2 and row["shared_blocks"] == 0.0
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"])
        assert row["joules_per_image"] == pytest.approx(1.0)  # a block is one step of 8 images
    assert rows[slim, "eager"]["macs"] < 0.5 * rows[dense, "eager"]["macs"]
    assert rows[slim, "eager"]["peak_bytes"] < rows[dense, "eager"]["peak_bytes"]
    (bits,) = found["bits"]
    assert bits["eager"]["same_bits"] and bits["captured"]["same_bits"] and bits["captured"]["largest_difference"] == 0
    resume = found["resume"]
    assert resume["resumed"]["same_bits"] and resume["two_runs"]["same_bits"]
    assert 4 <= resume["killed_after_epochs"] < 8
    loop = found["loop"]
    assert loop["form"] == "eager" and loop["loop_over_bare"] == loop["loop_step_seconds"] / loop["bare_step_seconds"]
    told = capsys.readouterr().out
    assert "| vgg11, 8 | dense | 1.00 |" in told and "| captured against eager, vgg11, 12 steps | same bits |" in told
    assert "1000.0 (" in told  # mJ an image

    from device_tables import text

    found["steps"][0] |= {"others": 2, "shared_blocks": 0.5}
    shared = text(found)
    assert shared.count("1000.0 (") == 5 and "Others were on the card in 8 % of the blocks, 2 at most" in shared


def test_a_form_that_cannot_run_keeps_its_row_and_its_reason(scripts, tmp_path: Path, capsys, monkeypatch):
    """On a CPU the step cannot be captured, and this compiler never ends."""

    def never_done(function: Any, **settings: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # which is over sooner than it was meant to be
        time.sleep(60)

    monkeypatch.setattr(torch, "compile", never_done)
    found = checked(scripts, tmp_path, "--parts", "steps", "--seconds", "300")
    errors = {form: {row["error"] for row in found["steps"] if row["form"] == form} for form in scripts.FORMS}
    no_graphs = "training.step is 'captured', but cpu has no CUDA graphs; give auto, eager or compiled"
    assert errors["eager"] == {None} and errors["captured"] == {no_graphs}
    assert all("cannot be compiled (not done within" in error for error in errors["compiled"])
    widths = "vgg11 dense; vgg11 slim, multiples of 2; vgg11 slim, exact widths"
    assert f"captured: {no_graphs} ({widths})." in capsys.readouterr().out


def test_without_time_nothing_is_compiled(scripts, tmp_path: Path, capsys):
    found = checked(scripts, tmp_path, "--parts", "steps", "--seconds", "0", "--forms", "compiled")
    assert [row["error"] for row in found["steps"]] == 3 * ["left out: no time was left to compile it"]
    assert "| vgg11, 8 | dense | 1.00 | – | – | – |" in capsys.readouterr().out


def test_a_part_that_fails_is_told_and_costs_no_other(scripts, tmp_path: Path, monkeypatch, capsys):
    def fails(*arguments: Any) -> None:
        raise RuntimeError("no device any more\nsecond line")

    monkeypatch.setattr(scripts, "check_loop", fails)
    monkeypatch.setattr(scripts, "check_bits", fails)
    found = checked(scripts, tmp_path, "--parts", "loop,bits")
    assert found["loop"] == found["bits"] == {"error": "no device any more"}
    assert "| bits | failed: no device any more |" in capsys.readouterr().out


def test_wrong_flags_are_one_line(scripts, capsys):
    assert scripts.main(["--small", "--networks", "vgg12"]) == 2
    assert capsys.readouterr().err == "device_check: --networks has vgg12; give some of vgg11, preresnet20, resnet18\n"
    with pytest.raises(SystemExit) as stopped:
        scripts.main(["--forms", "eagre"])
    assert stopped.value.code == 2 and "--forms has eagre; give some of eager, captured" in capsys.readouterr().err


def test_a_time_limit_raises_and_is_gone_afterwards(scripts):
    from trials import TooLong, raises_after

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TooLong, match="not done within 0 s"), raises_after(0.01):
        time.sleep(5)
    with raises_after(60):
        pass
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
