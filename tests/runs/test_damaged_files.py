"""Every kind of damage to every kind of file that is read: one line with the file and why, and nothing else is lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from earlybird.atomic import SEAL, json_object, sealed_json
from earlybird.cli.main import main
from earlybird.core import ChannelMask, Ticket, WeightMask
from earlybird.energy.power_log import MeterReading, read_power_log
from earlybird.errors import EarlyBirdError, TicketError
from earlybird.grids.run_node import events_since
from earlybird.grids.sweep import read_grid
from earlybird.runs.folder import RunFolder, load_network, read_search
from earlybird.runs.record_file import finished_record, load_records
from earlybird.runs.schema import parse
from earlybird.settings.run import RunConfig, read_yaml
from earlybird.training.checkpoint import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ["--model", "vgg16", "--width", "0.02", "--data", "digits", "--data.train_images", "128", "--epochs", "1"]
TINY += ["--batch-size", "32", "--precision", "fp32", "--quiet"]
RUN = [*TINY, "--method.min_draw_steps", "1", "--method.draw_at", "2"]
COMPARE = ["compare", *TINY, "--methods", "dense,uniform", "--ratios", "0.5", "--method.round_to", "1"]

DAMAGE = {
    "empty": b"", "no UTF-8": b"\xff\xfe\xe9{}", "deep list": b"[" * 1000, "deeper object": b'{"a":' * 100_000,
    "list": b"[1]", "number": b"3", "null": b"null", "text": b'"x"', "NaN": b'{"a": NaN}', "inf": b'{"a": 1e999}',
    "huge": b'{"a": 1' + b"0" * 400 + b"}", "endless": b'{"a": ' + b"9" * 5000 + b"}", "twice": b'{"a": 1, "a": 2}',
    "zeros": bytes(100), "empty object": b"{}",
}  # fmt: skip


def run_config() -> RunConfig:
    return RunConfig.from_dict({"model": {"name": "vgg16"}})


def power_log(folder: Path) -> Any:
    return read_power_log(MeterReading(folder / "log.csv"))


READERS: dict[str, Callable[[Path], Any]] = {
    "record.json": finished_record,
    "search.json": read_search,
    "grid.json": read_grid,
    "config.json": load_network,
    "config.yaml": lambda folder: RunFolder(folder).open(run_config()),
    "ticket.safetensors": lambda folder: Ticket.load(folder / "ticket.safetensors"),
    "weight-mask.safetensors": lambda folder: WeightMask.load(folder / "weight-mask.safetensors"),
    "log.csv": power_log,
    "00000001.json": lambda folder: Checkpoints(folder).latest(),
}


def refusal(reader: Callable[[], Any]) -> str:
    with pytest.raises(EarlyBirdError) as refused:
        reader()
    said = str(refused.value)
    assert "\n" not in said and "()" not in said and len(said) < 600
    return said


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line_with_its_path(tmp_path: Path, name: str, damage: str):
    (tmp_path / name).write_bytes(DAMAGE[damage])
    (tmp_path / "00000001.pt").write_bytes(b"")
    assert str(tmp_path) in refusal(lambda: READERS[name](tmp_path))


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, name: str, kind: str):
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nothing")
    if name == "00000001.json":
        assert Checkpoints(tmp_path).latest() is None  # It was never finished: the run begins anew.
        return
    assert str(tmp_path) in refusal(lambda: READERS[name](tmp_path))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("[]", "it holds a list, not an object"),
        ("3", "it holds a number, not an object"),
        ('{"a": {"b": 1, "b": 1}}', "it has the key 'b' twice"),
        ('{"a": -Infinity}', "it holds -Infinity, which is no number"),
        ('{"a": 1e999}', "it holds 1e999, which is no number"),
        ('{"a": 1' + "0" * 400 + "}", "it holds 10000000000000000000..., which is no number"),
        ("[" * 10_000, "it is nested too deeply"),
    ],
)
def test_json_that_is_not_strict_says_why(text: str, why: str):
    with pytest.raises(ValueError) as refused:
        json_object(text)
    assert str(refused.value) == why
    assert json_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_events_that_are_none_are_left_out(tmp_path: Path):
    good = b'{"node": "a", "event": "started"}\n'
    (tmp_path / "events.jsonl").write_bytes(good + b"\n".join(DAMAGE.values()) + b"\n" + good)
    assert [event["node"] for event in events_since(tmp_path, 0)[0]] == ["a", "a"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("training: {epochs: 3, epochs: 5}", "line 1, cannot be read (key 'epochs' stands twice)"),
        ("model: {name: vgg16}\nmodel: {width: 0.5}", "line 2, cannot be read (key 'model' stands twice)"),
        ("&a [*a]", "cannot be read (ValueError: Circular reference detected)"),
    ],
)
def test_yaml_in_which_something_would_be_lost_is_refused(tmp_path: Path, text: str, why: str):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert why in refusal(lambda: read_yaml(path))


def test_a_phase_that_cost_more_than_its_run_is_no_record(finished: Path):
    record = json.loads((finished / "record.json").read_text())
    record["cost"]["phases"]["search"]["macs"] = record["cost"]["total"]["macs"] + 1
    with pytest.raises(ValueError, match=r"cost\.phases\.search\.macs: \d+ is more than cost\.total\.macs"):
        parse(json.dumps(record), "record", 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *RUN, "--out", str(folder)]) == 0
    return folder


def sealed_ticket(path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    text = json.dumps({"sha256": "0" * 64} | {key: value for key, value in header.items() if key != "sha256"})
    data = safetensors.torch.save(tensors, metadata={"earlybird_ticket": text})
    path.write_bytes(data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1))


@pytest.mark.parametrize(
    "change",
    [
        {"distances": ["x"]}, {"distances": [2.5]}, {"flags": [1]}, {"prune_ratio": -1}, {"realised_ratio": 10**30},
        {"drawn_after": True}, {"layers": ["a", "other"]}, {"window": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_ticket_sealed_again_with_other_values_is_refused(tmp_path: Path, change: dict[str, Any]):
    path = tmp_path / "t.safetensors"
    Ticket(ChannelMask({"a": torch.tensor([True, False])}), {"w": torch.ones(2)}, 0.5, 0.5, 1).save(path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["earlybird_ticket"]
    sealed_ticket(path, json.loads(header) | change, safetensors.torch.load(data))
    assert str(path) in refusal(lambda: Ticket.load(path))


@pytest.mark.parametrize("flags", [torch.tensor([1.0, 0.0]), torch.tensor([7, 0], dtype=torch.uint8), torch.ones(1, 2)])
def test_a_mask_that_is_not_of_zeros_and_ones_is_refused(tmp_path: Path, flags: torch.Tensor):
    path = tmp_path / "t.safetensors"
    Ticket(ChannelMask({"a": torch.tensor([True, False])}), {}, 0.5, 0.5, 1).save(path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["earlybird_ticket"]
    sealed_ticket(path, json.loads(header), {"mask.a": flags})
    with pytest.raises(TicketError, match="is not as it was written"):
        Ticket.load(path)


@pytest.mark.parametrize(
    "notes",
    [
        {"step": "x"}, {"step": 10**6}, {"steps_per_epoch": 0}, {"draw_steps": 3}, {"draw_steps": [None]},
        {"draw_seconds": [1.0]}, {"journal": []}, {"journal": {}}, {"journal": {"rows": [2.5], "ledger": []}},
        {"journal": {"rows": [{"phase": "search", "epoch": "x"}], "ledger": []}},
        {"journal": {"rows": [], "ledger": [-1]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_ticket_with_changed_notes_is_refused(finished: Path, tmp_path: Path, capfd, notes: dict[str, Any]):
    shutil.copy(finished / "config.yaml", tmp_path)
    path = tmp_path / "ticket.safetensors"
    data = (finished / path.name).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["earlybird_ticket"]
    changed = json.loads(header)
    sealed_ticket(path, changed | {"notes": changed["notes"] | notes}, safetensors.torch.load(data))
    assert main(["retrain", "--ticket", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "changed" in (said := capfd.readouterr().err) or "cost entry 0" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["longer", "two dimensions", "whole numbers", "float64", "missing"])
@pytest.mark.parametrize("which", ["running_var", "bias"])
def test_a_network_sealed_again_with_other_tensors_is_refused(finished: Path, tmp_path: Path, which: str, change: str):
    tensors = safetensors.torch.load((finished / "model.safetensors").read_bytes())
    name = next(name for name in tensors if name.endswith(which))
    tensor = tensors.pop(name)
    changed = {
        "longer": torch.cat([tensor, tensor]), "two dimensions": tensor[None].clone(), "whole numbers": tensor.long(),
        "float64": tensor.double(), "missing": None,
    }[change]  # fmt: skip
    data = safetensors.torch.save(tensors if changed is None else tensors | {name: changed})
    (tmp_path / "model.safetensors").write_bytes(data)
    description = json.loads((finished / "config.json").read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    description.pop(SEAL)
    (tmp_path / "config.json").write_bytes(sealed_json(description))
    assert str(tmp_path) in refusal(lambda: load_network(tmp_path))


def said_of(argv: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {epochs: 0}", "training.epochs: is 0; give an integer >= 1"),
        ("training: {lr: 1e400}", "training.lr"),
        ("training: {epochs: 1" + "0" * 400 + "}", "training.epochs"),
        ("model: {name: vgg61}", "model.name: "),
        ("method: {name: erly_bird}", "method.name: "),
        ("method: {prune_ratio: 1.5}", "method.prune_ratio: is 1.5"),
        ("data: {name: 3}", "data.name"),
    ],
)
@pytest.mark.parametrize("command", ["train", "search"])
def test_a_wrong_value_in_a_config_file_names_the_file(tmp_path: Path, capfd, command: str, text: str, said: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    out = str(tmp_path / "out")
    err = (
        said_of([command, "--data", "digits", "--config", str(path), "--out", out], capfd)
        if "data:" not in text
        else said_of([command, "--config", str(path), "--out", out], capfd)
    )
    assert f"{path}" in err and said in err
    assert not (tmp_path / "out").exists()


def test_a_wrong_value_in_a_flag_does_not_blame_the_file(tmp_path: Path, capfd):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epochs: 3}")
    assert str(path) not in said_of(["train", "--config", str(path), "--epochs", "0"], capfd)


@pytest.mark.parametrize(
    "block",
    ["{methods: erly_bird}", "{methods: dense, ratios: 2}", "{methods: dense, seeds: x}", "{methods: []}",
     "{methods: dense, sedes: 1}", "{methods: 'early_bird:epsilon=x'}"],
)  # fmt: skip
def test_a_wrong_block_of_a_grid_file_names_the_file(tmp_path: Path, capfd, block: str):
    path = tmp_path / "grid.yaml"
    path.write_text(f"- {{methods: dense}}\n- {block}")
    err = said_of(["compare", *TINY, "--grid", str(path), "--out", str(tmp_path / "out")], capfd)
    assert f"{path}, block 2: " in err


def test_a_reference_that_is_not_compared_is_refused_before_anything_is_written(tmp_path: Path, capfd):
    for more in (["--dry-run"], []):
        err = said_of([*COMPARE, "--out", str(tmp_path / "c"), "--reference", "unifrm", *more], capfd)
        assert "did you mean 'uniform'" in err
    assert not (tmp_path / "c").exists()


def test_a_record_that_cannot_be_read_costs_its_own_line_in_a_comparison(tmp_path: Path, capfd):
    out, argv = tmp_path / "c", ["compare", *TINY, "--methods", "dense", "--seeds", "0,1"]
    assert main([*argv, "--out", str(out)]) == 0
    (out / "dense-s0" / "record.json").write_text('{"schema_version": 1, "final": {}}')
    capfd.readouterr()
    assert main(["compare", "--out", str(out)]) == 1
    shown = capfd.readouterr()
    assert "not in the tables: dense-s0: cannot read record" in shown.err and "dense" in shown.out
    assert main([*argv, "--dry-run", "--out", str(out)]) == 0
    shown = capfd.readouterr()
    assert (
        "dense-s0: cannot read record" in shown.err
        and "nothing else is left" in shown.out
        and "1 of 2 runs" in shown.out
    )
    shutil.copy(out / "dense-s1" / "record.json", out / "dense-s0")  # which can be read, and is of another seed
    assert main(["compare", "--out", str(out)]) == 1
    err = capfd.readouterr().err
    assert "dense-s0/record.json is of another run (training.seed: 1 -> 0); restore its own" in err
    (out / "dense-s0" / "record.json").write_text('{"schema_version": 1, "final": {}}')
    assert main([*argv, "--seeds", "0,1,2", "--dry-run", "--out", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    with pytest.warns(UserWarning, match="left out: cannot read record"):
        assert len(load_records([out])) == 1


@pytest.mark.parametrize("method", ["densse", "early_bird:epsilon=x", "dense:sedes=1"])
def test_a_wrong_method_in_a_stored_grid_names_its_file(tmp_path: Path, capfd, method: str):
    grid = {"settings": {}, "blocks": [{"methods": [method], "ratios": [0.5], "seeds": [0]}], "method_settings": {}}
    (tmp_path / "grid.json").write_text(json.dumps(grid | {"equal_cost": []}))
    for argv in (["compare"], COMPARE):
        assert f"{tmp_path / 'grid.json'} is corrupt (" in said_of([*argv, "--out", str(tmp_path)], capfd)


def test_a_search_of_another_seed_in_a_grid_is_refused(tmp_path: Path, capfd):
    out, argv = tmp_path / "c", ["compare", *TINY, "--methods", "early_bird", "--method.draw_at", "1"]
    assert main([*argv, "--method.min_draw_steps", "1", "--seeds", "0,1", "--out", str(out)]) == 0
    for path in out.glob("search-*-s1/*"):
        if path.is_file():
            shutil.copy(path, str(path).replace("-s1/", "-s0/"))
    shutil.rmtree(out / "early_bird-p0.5-s0")
    capfd.readouterr()
    assert main([*argv, "--method.min_draw_steps", "1", "--seeds", "0,1", "--out", str(out)]) == 1
    assert "s0/config.yaml is of another run (training.seed: 1 -> 0)" in capfd.readouterr().err
