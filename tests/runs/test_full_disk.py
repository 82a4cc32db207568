"""A disk that is full, a real one: every writer names its file, and leaves the older one (`reliability.md` fault 7)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import earlybird
from earlybird.atomic import file_lock, write_atomically
from earlybird.cli.main import main
from earlybird.core import ChannelMask, Ticket
from earlybird.core.weight_mask import WeightMask
from earlybird.data import DataBundle, MemoryImages
from earlybird.data.decode import cached
from earlybird.errors import EarlyBirdError
from earlybird.grids.grid import Block, Grid
from earlybird.grids.run_node import fail
from earlybird.grids.sweep import open_sweep
from earlybird.integrations.export import export_onnx, export_pt2
from earlybird.report.plots import figure_file
from earlybird.runs.folder import RunFolder
from earlybird.runs.record_file import write_record
from earlybird.settings.run import RunConfig
from earlybird.training.checkpoint import Checkpoints

_KILOBYTES = 2048


@dataclass(frozen=True)
class Disk:
    """A file system of 2 MB."""

    path: Path

    def fill(self, leave_kilobytes: int = 0) -> None:
        """Fill it up to what is left."""
        used = sum(path.stat().st_blocks for path in self.path.rglob("*")) // 2
        (self.path / "filler").write_bytes(bytes(1024 * (_KILOBYTES - used - leave_kilobytes)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_KILOBYTES}k", "none", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a tmpfs may not be mounted here")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def _ticket(path: Path) -> None:
    keep = {"bn": torch.ones(9000, dtype=torch.bool)}
    Ticket(ChannelMask(keep), {"w": torch.zeros(9000)}, 0.5, 0.5, 1).save(path / "ticket.safetensors")


def _figure(path: Path) -> None:
    with figure_file(path / "figure.svg", "heading", "caption"):
        pass


def _failure(path: Path) -> None:
    grid = Grid({"training": {"epochs": 1}}, (Block(("dense",), (0.3,), (0,)),))
    sweep = open_sweep(path / "grid", grid, "a")
    fail(sweep.root, sweep.nodes[0], "a", ValueError("x" * 9000))


def _grid(path: Path) -> None:
    root, settings = path / "grid", {"training": {"epochs": 1}, "data": {"root": "x" * 9000}}
    methods = ("early_bird", "dense") if (root / "grid.json").is_file() else ("early_bird",)
    open_sweep(root, Grid(settings, (Block(methods, (0.3,), (0,)),)), "a")


WRITERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: write_atomically(path / "file", bytes(9000)),
    "ticket.safetensors": _ticket,
    "mask.safetensors": lambda path: WeightMask({"w": torch.ones(90000) > 0}).save(path / "mask.safetensors"),
    "record.json": lambda path: write_record(path, {"x": "x" * 9000}),
    "model.safetensors": lambda path: earlybird.save(nn.Linear(90, 90), path),
    "config.yaml": lambda path: RunFolder(path).write_config(RunConfig.from_dict({}), {"x": "x" * 9000}),
    "figure.svg": _figure,
    "failed.json": _failure,
    "grid.json": _grid,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_names_its_file_and_leaves_the_older_one(disk: Disk, name: str):
    write = WRITERS[name]
    write(disk.path)
    before = {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
    disk.fill()
    with pytest.raises((OSError, EarlyBirdError)) as refused:
        write(disk.path)
    said = str(refused.value)
    assert name in said and str(disk.path) in said and "\n" not in said
    (disk.path / "filler").unlink()
    after = {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert all(after[path] == before[path] for path in before if path.name != "events.jsonl")


@pytest.mark.parametrize("name", ["model.pt2", pytest.param("model.onnx", marks=pytest.mark.slow)])
def test_an_export_names_its_file_and_leaves_the_older_one(
    disk: Disk, child: Callable[..., BaseProcess], tmp_path: Path, name: str
):
    (disk.path / name).write_bytes(b"older")
    disk.fill()
    process = child(_export, disk.path / name)  # After an export in this process none of its forks could train.
    process.join()
    assert process.exitcode == 2
    assert f"No space left on device: '{disk.path / name}'" in (tmp_path / "child.err").read_text()
    assert (disk.path / name).read_bytes() == b"older"
    assert sorted(path.name for path in disk.path.iterdir()) == ["filler", name]


def _export(path: Path) -> int:
    try:
        (export_pt2 if path.suffix == ".pt2" else export_onnx)(nn.Linear(30, 30), torch.ones(2, 30), path)
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def test_a_checkpoint_or_metrics_that_could_not_be_written_are_a_warning_which_says_what_there_is(disk: Disk):
    checkpoints, state = Checkpoints(disk.path / "checkpoints"), {"x": torch.zeros(9000)}
    disk.fill()
    with pytest.warns(UserWarning, match=r"checkpoints \(No space left on device\); there is no earlier one"):
        assert not checkpoints.save(state)
    (disk.path / "filler").unlink()
    assert checkpoints.save(state)
    disk.fill()
    with pytest.warns(UserWarning, match=r"checkpoints \(No space left on device\); the previous one is intact"):
        assert not checkpoints.save(state)
    assert checkpoints.latest() is not None
    with pytest.warns(UserWarning, match=r"metrics.jsonl not written \(No space left on device\)"):
        RunFolder(disk.path).write_rows([{"loss": 1.0}] * 999)


def test_a_cache_that_could_not_be_written_is_a_warning_and_the_images_are_used(disk: Disk):
    images = MemoryImages(torch.zeros(9, 3, 64, 64, dtype=torch.uint8), torch.arange(9) % 2)
    bundle = DataBundle("x", 2, 3, 64, (0.5,) * 3, (0.5,) * 3, images, None, images, ("a", "b"))
    disk.fill()
    with pytest.warns(UserWarning, match=f"'x' were not cached in {disk.path}"):
        assert cached(disk.path, "x", {}, lambda: bundle) is bundle
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_a_lock_is_held_without_a_word_on_who_holds_it(disk: Disk):
    disk.fill()
    with file_lock(disk.path / "lock") as holder, file_lock(disk.path / "lock", wait=False) as other:
        assert (holder, other) == ("", "a process that has just begun")


@pytest.mark.parametrize("kilobytes", [16, pytest.param(50, marks=pytest.mark.slow), 70])
def test_a_run_ends_in_one_line_that_names_the_file_and_the_same_command_goes_on(
    disk: Disk, child: Callable[..., BaseProcess], tiny: Path, tmp_path: Path, kilobytes: int
):
    def command(out: Path) -> list[str]:
        return [
            "train", "--model", f"{tiny}:network", "--data", f"{tiny}:data", "--epochs", "4", "--batch-size", "30",
            "--precision", "fp32", "--round-to", "1", "--quiet", "--method.draw_at", "1", "--out", str(out),
        ]  # fmt: skip

    out = disk.path / "run"
    disk.fill(kilobytes)
    process = child(main, command(out))
    process.join()
    said = (tmp_path / "child.err").read_text().splitlines()
    assert process.exitcode == 2
    assert f"earlybird: {out}/" in said[-1] or f"earlybird: ticket {out}/" in said[-1]
    assert "No space left on device" in said[-1]
    assert all(line.startswith("earlybird: warning: ") for line in said[:-1])
    assert not list(out.rglob("*.tmp-*"))
    (disk.path / "filler").unlink()
    assert main(command(out)) == 0
    assert main(command(tmp_path / "whole")) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [12, 40, 90, 160])
@pytest.mark.parametrize("name", ["search", "compare"])
def test_searches_and_comparisons_end_in_one_line_and_go_on(
    disk: Disk, child: Callable[..., BaseProcess], tiny: Path, tmp_path: Path, name: str, kilobytes: int
):
    def command(out: Path) -> list[str]:
        flags = ["--model", f"{tiny}:network", "--data", f"{tiny}:data", "--epochs", "4", "--batch-size", "30"]
        flags += [
            "--precision",
            "fp32",
            "--method.round_to",
            "1",
            "--method.draw_at",
            "1",
            "--quiet",
            "--out",
            str(out),
        ]
        own = {"search": ["--ratios", "[0.3,0.5]"], "compare": ["--methods", "dense,early_bird"]}
        return [name, *own[name], *flags]

    out = disk.path / "run"
    disk.fill(kilobytes)
    process = child(main, command(out))
    process.join()
    said = [line for line in (tmp_path / "child.err").read_text().splitlines() if "warning: " not in line]
    if process.exitcode == 2:
        assert len(said) == 1 and str(out) in said[0] and "No space left on device" in said[0]
    else:  # There was room for what had to be; a node of the comparison failed.
        assert process.exitcode in (0, 1) and all("failed" in line for line in said)
    assert not list(out.rglob("*.tmp-*"))
    (disk.path / "filler").unlink()
    assert main(command(out)) == 0
    assert main(command(tmp_path / "whole")) == 0
    for path in (tmp_path / "whole").rglob("*.safetensors"):  # A ticket also notes seconds.
        ours, theirs = load_file(out / path.relative_to(tmp_path / "whole")), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_one_line(
    child: Callable[..., BaseProcess], tmp_path: Path, arguments: list[str]
):
    process = child(_into_a_full_disk, arguments)
    process.join()
    said = (tmp_path / "child.err").read_text()
    assert said == (
        "earlybird: the disk or standard output: No space left on device; mend it and give the same command again\n"
    )
    assert process.exitcode == 2


def _into_a_full_disk(arguments: list[str]) -> Any:
    import sys

    sys.stdout = open("/dev/full", "w")  # noqa: SIM115
    return main(arguments)
