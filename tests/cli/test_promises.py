"""Files of a run that promise a huge network: compared before anything of it is made (`reliability.md` fault 27)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybird.atomic import sealed_json, unsealed_json
from earlybird.cli.main import main
from earlybird.models import build_model
from earlybird.models.catalog import unmade
from earlybird.runs.record_file import file_digests

WIDTH = 4.0


def in_record(folder: Path) -> None:
    path = folder / "record.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["width"] = WIDTH
    path.write_text(json.dumps(record))


def in_record_alone(folder: Path) -> None:
    in_record(folder)
    (folder / "config.json").unlink()


def in_description(folder: Path) -> None:
    path = folder / "config.json"
    description = unsealed_json(path.read_bytes())
    description["factory"] = "torchvision:vgg16"  # 550 MB
    description["kwargs"] |= {"width": 1.0, "in_channels": 3}
    path.write_bytes(sealed_json(description))
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"files": file_digests(folder)}))


def beside_the_ticket(folder: Path) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["width"] = WIDTH
    path.write_text(yaml.safe_dump(config))


PROMISES: list[tuple[Callable[[Path], None], list[str], str]] = [
    (in_description, ["evaluate", "RUN"], "is a ReLU here and 'norm' in the file"),
    (in_description, ["export", "RUN", "--pt2"], "is a ReLU here and 'norm' in the file"),
    (in_description, ["cost", "--widths", "RUN"], "is a ReLU here and 'norm' in the file"),
    (in_record, ["cost", "--widths", "RUN"], "is of another network (width 0.1, not 4.0)"),
    (in_record_alone, ["cost", "--widths", "RUN"], "is of another network (params "),
    (beside_the_ticket, ["retrain", "--ticket", "RUN/ticket.safetensors", "--out", "NEW"], "belongs to another net"),
]


@pytest.mark.slow  # The same of `load` alone: tests/models/test_model_file.py.
def test_a_promise_is_compared_before_it_is_made(allocated: Any, run_once: Any, tmp_path: Path, capsys):
    settings = {
        "model": {"name": "vgg11", "width": 0.1},
        "data": {"name": "digits", "train_images": 64},
        "method": {"name": "early_bird", "draw_at": 1},
        "training": {"epochs": 1, "batch_size": 32, "precision": "fp32"},
    }
    dense = unmade(lambda: build_model("vgg11", num_classes=10, width=WIDTH))
    assert dense is not None
    promised = sum(4 * parameter.numel() for parameter in dense.parameters())
    for number, (promise, command, message) in enumerate(PROMISES):
        folder, new = tmp_path / f"run{number}", tmp_path / "new"
        run_once(settings, folder)
        promise(folder)
        capsys.readouterr()
        before = allocated.bytes
        with allocated:
            assert main([word.replace("RUN", str(folder)).replace("NEW", str(new)) for word in command]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and message in said, said
        assert allocated.bytes - before < promised / 20
        assert not new.exists()
