"""What the command line runs, believes and lets pass: code only by name, flags only as written, signals, the disk."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybird.cli.main import main
from earlybird.cli.options import parse_run
from earlybird.runs.record_file import finished_record
from earlybird.training import loop


@pytest.fixture
def code(tiny: Path) -> list[str]:
    return ["--model", f"{tiny}:network", "--data", f"{tiny}:data"]


@pytest.fixture
def flags(code: list[str]) -> list[str]:
    settings = "--epochs 3 --batch-size 20 --lr 0.05 --precision fp32 --round-to 1 --method.epsilon 1.0 "
    return [*code, *settings.split(), "--method.min_draw_steps", "1", "--quiet"]


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("earlybird: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_folder_runs_no_code_that_its_user_has_not_named(capsys, tmp_path: Path, tiny: Path, code, flags):
    assert main(["search", *flags, "--out", str(tmp_path / "s")]) == 0
    ticket = str(tmp_path / "s" / "ticket.safetensors")
    assert main(["retrain", "--ticket", ticket, "--quiet", *code]) == 0
    run = tmp_path / "s" / "retrain-p0.5"
    trace = tmp_path / "executed"
    tiny.write_text(f"open({str(trace)!r}, 'w').close()\n" + tiny.read_text())
    for arguments in (["retrain", "--ticket", ticket, "--out", str(tmp_path / "r")], ["evaluate", str(run)]):
        said = complaint(arguments, capsys)
        assert "code that runs only when you name it; add --" in said
        assert f"{tiny}:" in said
        said = complaint([*arguments, *code[:2]], capsys)
        assert f"add --data {tiny}:data" in said
    assert not trace.exists()
    assert not (tmp_path / "r").exists()
    assert main(["evaluate", str(run), *code]) == 0
    assert trace.exists()
    assert (
        main(["retrain", "--ticket", ticket, "--out", str(tmp_path / "r"), "--config", str(tmp_path / "s/config.yaml")])
        == 0
    )


@pytest.mark.parametrize(
    "text",
    [
        "model.name: {code}\n",
        "config: {file}\n",
        "model:\n  name.x: {code}\n",
        "model: {code}\n",
        "- model\n",
        "model: [\n",
    ],
)
def test_a_file_beside_a_ticket_that_is_no_runs_config_is_read_no_further(
    capsys, tmp_path: Path, tiny: Path, flags, text: str
):
    assert main(["search", *flags, "--out", str(tmp_path / "s")]) == 0
    trace, evil = tmp_path / "executed", tmp_path / "evil.py"
    evil.write_text(f"open({str(trace)!r}, 'w').close()\ndef network(num_classes): ...\n")
    (tmp_path / "more.yaml").write_text(f"model:\n  name: {evil}:network\n")
    beside = tmp_path / "s" / "config.yaml"
    beside.write_text(text.format(code=f"{evil}:network", file=tmp_path / "more.yaml"))
    ticket = str(tmp_path / "s" / "ticket.safetensors")
    said = complaint(["retrain", "--ticket", ticket, "--data", f"{tiny}:data", "--out", str(tmp_path / "r")], capsys)
    assert str(beside) in said and re.search("give --config|give another file", said)
    assert not trace.exists() and not (tmp_path / "r").exists()


@pytest.mark.parametrize("slot", ["model.name", "data.name", "method.name", "method.criterion"])
def test_no_prefix_makes_code_of_a_file_run_in_a_slot_where_it_is_no_library(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags, slot: str
):
    """What the check takes for a library the loader must take for one, too, also where a file has such a name."""
    assert main(["search", *flags, "--out", str(tmp_path / "s")]) == 0
    trace = tmp_path / "executed"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    section, key = slot.split(".")
    beside, ticket = tmp_path / "s" / "config.yaml", str(tmp_path / "s" / "ticket.safetensors")
    content = yaml.safe_load(beside.read_text())
    named = {"model": flags[:2], "data": flags[2:4]}
    named.pop(section, None)  # which the user does not name then
    for prefix in ("timm", "torchvision", "hf", "imagefolder"):
        for name in (f"{prefix}:evil.py", f"{prefix}:evil"):
            Path(name).write_text(f"open({str(trace)!r}, 'w').close()\ndef network(*a, **k): ...\n")
        for name in (f"{prefix}:evil.py:network", f"{prefix}:evil:network", f"{prefix}:get_image_backend"):
            if (prefix, section) == ("hf", "data"):
                continue  # A name on the hub, which would be asked for it.
            content[section] = content[section] | {key: name}
            beside.write_text(yaml.safe_dump(content))
            arguments = [word for flag in named.values() for word in flag]
            complaint(["retrain", "--ticket", ticket, *arguments, "--quiet", "--out", str(tmp_path / "r")], capsys)
            assert not trace.exists() and not (tmp_path / "r").exists()


def test_a_control_of_a_ticket_takes_of_the_searchs_settings_what_it_can_take(tmp_path: Path, code, flags):
    assert main(["search", *flags, "--method.window", "1", "--out", str(tmp_path / "s")]) == 0
    ticket = str(tmp_path / "s" / "ticket.safetensors")
    for method in ("uniform", "early_bird", "random"):
        out = tmp_path / method
        assert main(["retrain", "--ticket", ticket, "--method", method, "--quiet", "--out", str(out), *code]) == 0
        stored = yaml.safe_load((out / "config.yaml").read_text())
        assert stored["training"]["epochs"] == 3 and stored["training"]["batch_size"] == 20
        expected = {"uniform": ("uniform", None), "early_bird": ("early_bird", 1), "random": ("early_bird", 1)}[method]
        assert (stored["method"]["name"], stored["method"].get("round_to")) == expected


def test_flags_and_yaml_keys_are_taken_only_as_they_are_written(capsys):
    said = complaint(["train", "--training.epoch", "3"], capsys)
    assert "unknown setting --training.epoch; did you mean --training.epochs" in said
    assert "unknown setting --forc" in complaint(["train", "--forc"], capsys)
    assert "'vgg16' belongs to no flag" in complaint(["train", "vgg16"], capsys)
    assert "--out stands without its value" in complaint(["train", "--out"], capsys)
    assert "--ratio" not in complaint(["evaluate", "x", "--rati"], capsys).split("did you mean")[-1]


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--data.train_images", "many", "data.train_images is 'many'; give an integer or null"),
        ("--data.download", "maybe", "data.download is 'maybe'; give true or false"),
        ("--training.milestones", "[half]", "training.milestones is 'half'; give a list of numbers such as [0.3,0.5]"),
        ("--lr", "1e999", "training.lr is inf; give a number > 0"),
    ],
)
def test_a_wrong_type_names_the_setting_the_value_and_what_is_legal(capsys, flag: str, value: str, said: str):
    assert complaint(["train", flag, value], capsys) == f"earlybird: {said}\n"


def test_flags_win_over_yaml_whatever_their_order(capsys, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("method:\n  name: dense\ntraining:\n  lr: 1e-5\n  epochs: 7\n")
    for arguments in (["--config", str(path), "--lr", "0.3"], [f"--config={path}", "--training.lr=0.3"]):
        with pytest.raises(SystemExit):
            main(["train", *arguments, "--print_config"])
        settings = yaml.safe_load(capsys.readouterr().out)
        assert (settings["training"]["lr"], settings["training"]["epochs"]) == (0.3, 7)
        assert settings["method"] == {"name": "dense"}


def test_a_name_given_last_is_the_method_that_counts(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method", "dense", "--method", "early_bird", "--ratio", "0.3", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["method"]["prune_ratio"] == 0.3


def test_retrain_help_needs_no_ticket(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["retrain", "--help"])
    assert stop.value.code == 0
    assert "--ticket" in capsys.readouterr().out


def test_sigterm_is_one_line_and_143(capsys, tmp_path: Path, monkeypatch, flags):
    original = loop._train_step

    def terminated(state: Any, x: Any, y: Any) -> None:
        original(state, x, y)
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "_train_step", terminated)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *flags, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 143
    assert (
        "earlybird: stopped by SIGTERM; the state is saved, the same command goes on from it\n"
        in capsys.readouterr().err
    )


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(capsys, tmp_path: Path, monkeypatch, flags):
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("earlybird.models.model_file.write_atomically", full)
        said = complaint(
            ["train", *[f for f in flags if "epsilon" not in f and f != "1.0"], "--out", str(tmp_path / "r")], capsys
        )
    assert "model.safetensors: No space left on device; mend it and give the same command again" in said
    assert main(["train", *[f for f in flags if "epsilon" not in f and f != "1.0"], "--out", str(tmp_path / "r")]) == 0
    assert finished_record(tmp_path / "r") is not None


def test_a_diverged_run_exits_with_1_and_names_the_step(capsys, tmp_path: Path, flags):
    for method in ("early_bird", "dense"):
        rest = [
            f
            for f in flags
            if method == "early_bird"
            or f not in ("--round-to", "1", "--method.epsilon", "1.0", "--method.min_draw_steps")
        ]
        code = main(["train", *rest, "--method", method, "--lr", "1e30", "--out", str(tmp_path / method)])
        said = capsys.readouterr().err.splitlines()[-1]
        assert code == 1
        assert re.search(r"NaN or infinite", said), said
        assert re.search(r"step \d+ of phase '(search|train)'.*the last checkpoint is intact", said), said


def test_how_warnings_are_shown_is_put_back(capsys):
    before = warnings.showwarning
    main(["list"])
    assert warnings.showwarning is before


def test_search_prints_a_line_per_ratio(capsys, tmp_path: Path, flags):
    assert main(["search", *flags, "--ratios", "[0.6,0.3]", "--out", str(tmp_path / "s")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["p = 0.3", "p = 0.6"]
    assert json.loads((tmp_path / "s" / "search.json").read_text())["ratios"] == [0.3, 0.6]


OWN_METHOD = """
from dataclasses import dataclass, field
from typing import ClassVar
from earlybird.settings.fields import setting

@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    dense_epochs: int = setting(2, "epochs before the cut", ">= 1")
    ratios: list[float] = field(default_factory=lambda: [0.5])
    def search(self, task, resume): ...
    def restore(self, task): ...
"""


def test_ranges_and_made_defaults_of_a_users_method_are_settings_like_any_other(capsys, tmp_path: Path, code):
    (tmp_path / "own.py").write_text(OWN_METHOD)
    method = ["--method", f"{tmp_path / 'own.py'}:Own"]
    said = complaint(["train", *code, *method, "--method.dense_epochs", "-3"], capsys)
    assert "method.dense_epochs is -3; give an integer >= 1" in said
    config, _ = parse_run("train", "", [*code, *method])
    assert vars(config.method) == {"dense_epochs": 2, "ratios": [0.5]}
