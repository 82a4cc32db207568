"""Files that parse and are not what they should be: one line each, never a traceback (`reliability.md` fault 26)."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earlybird.atomic import SEAL, sealed_json
from earlybird.cli.options import parse_run
from earlybird.data import DataBundle, MemoryImages
from earlybird.data.decode import cached
from earlybird.energy.power_log import MeterReading
from earlybird.errors import EarlyBirdError
from earlybird.forecast.run import drawn_by, settings_of_run, sizes_of_run
from earlybird.grids.grid import Block, Grid
from earlybird.grids.sweep import Sweep, open_sweep, read_grid
from earlybird.report.comparison import comparison_tables
from earlybird.report.plots import plot_run
from earlybird.report.table import to_markdown
from earlybird.runs.energy import import_power_log
from earlybird.runs.folder import RunFolder, load_dense_run, load_network, read_search
from earlybird.runs.record import recorded_schedule
from earlybird.runs.record_file import load_records, read_record
from earlybird.runs.run import run, run_evaluation, run_search
from earlybird.settings.method import TicketRequest
from earlybird.settings.run import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore")
WRONG = (None, 1, -1, 2.5, 1e308, 10**30, "x", "", "../x", True, [], [1], [[]], {}, {"a": 1})
TRIES = pytest.mark.parametrize("tries", [20, pytest.param(500, marks=pytest.mark.slow)])


def tried(tries: int) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Run a function on so many drawn mutants; the same ones each time."""
    how = settings(max_examples=tries, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    return lambda function: how(given(draw=st.data())(function))


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all entries, of lists the first three."""
    for key in value if isinstance(value, dict) else range(min(3, len(value))) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(value[key], (*place, key))


def mutant(base: Any, draw: st.DataObject) -> Any:
    """The same with one entry gone, replaced by something else, or with an entry that a newer version may have."""
    changed = at = copy.deepcopy(base)
    *above, last = draw.draw(st.sampled_from(list(places(base))))
    for key in above:
        at = at[key]
    kind = draw.draw(st.sampled_from(["remove", "replace", "replace", "replace", "add"]))
    if kind == "remove":
        del at[last]
    elif kind == "add" and isinstance(at, dict):
        at["newer"] = draw.draw(st.sampled_from(WRONG))
    else:
        at[last] = draw.draw(st.sampled_from(WRONG))
    return changed


def read(reader: Callable[[], Any]) -> Any:
    """What a reader makes of a file; None where it refuses it in one line."""
    try:
        return reader()
    except EarlyBirdError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of three kinds, and a search."""
    root = tmp_path_factory.mktemp("finished")
    for name, method in {
        "early_bird": {"name": "early_bird", "draw_at": 2, "min_draw_steps": 1},
        "dense": {"name": "dense"},
        "lottery_ticket": {"name": "lottery_ticket"},
    }.items():
        run(config(method), root / name, quiet=True)
    run_search(
        config({"name": "early_bird", "min_draw_steps": 1}), [TicketRequest(0.5, 2)], root / "search", quiet=True
    )
    return {path.name: path for path in root.iterdir()}


def config(method: dict[str, Any]) -> RunConfig:
    training = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    data = {"name": "digits", "train_images": 128}
    return RunConfig.from_dict(
        {"model": {"name": "vgg16", "width": 0.02}, "data": data, "method": method, "training": training}
    )


def copied_with_a_mutant(finished: Path, folder: Path, draw: st.DataObject) -> dict[str, Any]:
    """Copy a run without its figures, its record changed in one place; the record as it was."""
    for path in finished.iterdir():
        if path.is_file() and path.suffix != ".svg":
            shutil.copy(path, folder)
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(mutant(record, draw)))
    return record


@TRIES
@pytest.mark.parametrize("name", ["early_bird", "dense", "lottery_ticket"])
def test_a_record_that_is_not_what_it_should_be(finished, tmp_path_factory, name: str, tries: int):
    @tried(tries)
    def try_one(draw: st.DataObject) -> None:
        folder = tmp_path_factory.mktemp("run")
        record = copied_with_a_mutant(finished[name], folder, draw)
        log = folder / "log.csv"
        began = record["cost"]["total"]["spans"][0][0]
        log.write_text("time,power\n" + "".join(f"{began + second},10\n" for second in range(9)))
        tables = read(lambda: [*comparison_tables(load_records([folder]))])
        if tables is not None:
            accuracy = read_record(folder / "record.json")["test"]["accuracy"]
            assert 0 <= accuracy <= 1 and f"{100 * accuracy:.2f}" in to_markdown(*tables)
        read(lambda: recorded_schedule(read_record(folder / "record.json")))
        read(lambda: (settings_of_run(read_record(folder / "record.json")), drawn_by(str(folder))))
        read(lambda: sizes_of_run(read_record(folder / "record.json")))
        read(lambda: load_dense_run(folder, config({"name": "dense"}), "fp32"))
        read(lambda: import_power_log(folder, MeterReading(log, time_column="time", power_column="power")))
        shutil.rmtree(folder)

    try_one()


@TRIES
@pytest.mark.parametrize("name", ["early_bird", "dense"])
def test_a_record_that_is_drawn_or_evaluated(finished, tmp_path_factory, name: str, tries: int):
    @tried(tries // 5)
    def try_one(draw: st.DataObject) -> None:
        folder = tmp_path_factory.mktemp("run")
        copied_with_a_mutant(finished[name], folder, draw)
        read(lambda: plot_run(read_record(folder / "record.json"), folder / "figures"))
        evaluated = read(lambda: run_evaluation(folder))
        assert evaluated is None or evaluated.samples > 0
        shutil.rmtree(folder)

    try_one()


@TRIES
def test_a_configuration_a_grid_a_search_and_a_network_that_are_not_what_they_should_be(
    finished, tmp_path_factory, tries: int
):
    @tried(tries)
    def try_one(draw: st.DataObject) -> None:
        folder = tmp_path_factory.mktemp("run")
        stored = mutant(yaml.safe_load((finished["early_bird"] / "config.yaml").read_text()), draw)
        (folder / "config.yaml").write_text(yaml.safe_dump(stored))
        read(lambda: RunFolder(folder).open(config({"name": "early_bird", "draw_at": 2, "min_draw_steps": 1})))
        read(lambda: RunConfig.from_dict({key: value for key, value in stored.items() if key != "resolved"}))

        grid = Grid({"training": {"epochs": 1}}, (Block(("dense", "early_bird:draw_at=3"), (0.3,), (0, 1)),))
        plain = json.loads((open_sweep(folder / "grid", grid, "a").root / "grid.json").read_text())
        (folder / "grid" / "grid.json").write_text(json.dumps(mutant(plain, draw)))
        read(lambda: Sweep(folder / "grid", read_grid(folder / "grid"), "b").nodes)

        summary = json.loads((finished["search"] / "search.json").read_text())
        (folder / "search.json").write_text(json.dumps(mutant(summary, draw)))
        read(lambda: read_search(folder)["tickets"])

        for name in ("model.safetensors", "config.json"):
            shutil.copy(finished["early_bird"] / name, folder / name)
        description = mutant(whole := json.loads((folder / "config.json").read_text()), draw)
        (folder / "config.json").write_text(json.dumps(description))
        assert description == whole or read(lambda: load_network(folder)) is None  # the seal
        description.pop(SEAL, None)
        (folder / "config.json").write_bytes(sealed_json(description))
        read(lambda: load_network(folder))
        shutil.rmtree(folder)

    try_one()


@TRIES
def test_a_cache_of_pictures_that_is_not_what_it_should_be(tmp_path_factory, tries: int):
    images = MemoryImages(torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([1, 0]))
    good = DataBundle("toy", 2, 3, 2, (0.5,) * 3, (0.25,) * 3, images, None, images, ("cat", "dog"))

    @tried(tries)
    def try_one(draw: st.DataObject) -> None:
        folder = tmp_path_factory.mktemp("cache")
        cached(folder, "toy", {"files": []}, lambda: good)
        (meta,) = folder.glob("*/meta.json")
        content = {key: value for key, value in json.loads(meta.read_text()).items() if key != SEAL}
        meta.write_bytes(sealed_json(mutant(content, draw)))
        found = cached(folder, "toy", {"files": []}, lambda: good)
        assert found is not None and torch.equal(found.train.images, images.images)
        assert len(found.mean) == len(found.std) == 3 and min(found.std) > 0 and sum(found.mean) >= -3
        assert all(isinstance(name, str) for name in found.class_names) and len(found.class_names) == 2
        shutil.rmtree(folder)

    try_one()


@TRIES
def test_a_configuration_that_is_given_by_a_flag(finished, tmp_path_factory, tries: int):
    plain = yaml.safe_load((finished["early_bird"] / "config.yaml").read_text())
    path = tmp_path_factory.mktemp("config") / "mine.yaml"

    @tried(tries)
    def try_one(draw: st.DataObject) -> None:
        path.write_text(yaml.safe_dump(mutant(plain, draw)))
        found = read(lambda: parse_run("train", "", ["--config", str(path)])[0])
        assert found is None or RunConfig.from_dict(found.to_dict()) == found

    try_one()


@TRIES
def test_a_network_whose_header_or_tensors_are_not_what_they_should_be(finished, tmp_path_factory, tries: int):
    folder = tmp_path_factory.mktemp("network")
    description = json.loads((finished["early_bird"] / "config.json").read_text())
    data = (finished["early_bird"] / "model.safetensors").read_bytes()
    good = load_network(finished["early_bird"])[0].state_dict()
    end = 8 + int.from_bytes(data[:8], "little")
    kinds = (torch.float64, torch.float16, torch.int64, torch.bool, torch.uint8)

    def other_header(draw: st.DataObject) -> bytes:
        header = json.dumps(mutant(json.loads(data[8:end]), draw)).encode()
        return len(header).to_bytes(8, "little") + header + data[end:]

    def other_tensors(draw: st.DataObject) -> bytes:
        tensors = safetensors.torch.load(data)
        name = draw.draw(st.sampled_from(sorted(tensors)))
        tensor, kind = tensors.pop(name), draw.draw(st.sampled_from(["gone", "longer", "flat", "deep", "kind", "name"]))
        changed = {
            "gone": {}, "longer": {name: torch.cat([tensor.view(-1), tensor.view(-1)])},
            "flat": {name: tensor.reshape(-1).clone()}, "deep": {name: tensor[None].clone()},
            "kind": {name: tensor.to(draw.draw(st.sampled_from(kinds)))}, "name": {f"{name}.x": tensor},
        }[kind]  # fmt: skip
        return safetensors.torch.save(tensors | changed)

    @tried(tries)
    def try_one(draw: st.DataObject) -> None:
        changed = draw.draw(st.sampled_from([other_header, other_tensors]))(draw)
        (folder / "model.safetensors").write_bytes(changed)
        stored = description | {"sha256": hashlib.sha256(changed).hexdigest()}
        stored.pop(SEAL)
        (folder / "config.json").write_bytes(sealed_json(stored))
        found = read(lambda: load_network(folder))
        kept = found[0].state_dict() if found else good
        assert {name: (x.shape, x.dtype) for name, x in kept.items()} == {
            n: (x.shape, x.dtype) for n, x in good.items()
        }

    try_one()
