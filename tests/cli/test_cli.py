"""The command line: what it says when something is wrong, and that it does what the library does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from earlybird import __version__
from earlybird.cli.main import main
from earlybird.settings.catalog import method_names


@pytest.fixture
def flags(tiny: Path) -> list[str]:
    return (
        f"--model {tiny}:network --data {tiny}:data --epochs 4 --batch-size 20 --lr 0.05 --precision fp32 "
        "--round-to 1 --method.min_draw_steps 1 --quiet"
    ).split()


def fails(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err
    assert captured.err.startswith("earlybird: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --model vgg61", r"unknown model 'vgg61'.*vgg16.*torchvision:NAME"),
        ("train --data cifar11", r"unknown data 'cifar11'; did you mean 'cifar10'\? expected digits, cifar10"),
        ("train --learning-rate 0.1", r"unknown setting --learning-rate;.*`earlybird train --help` lists all"),
        ("train --modle vgg16", r"unknown setting --modle; did you mean --model"),
        ("train --epochs three", r"training\.epochs is 'three'; give an integer"),
        ("train --ratio x", r"method\.prune_ratio is 'x'; give a number"),
        ("train --clock hourly", r"method\.clock is 'hourly'; give scaled, epochs"),
        ("train --ratio 1.5", r"method\.prune_ratio is 1\.5; give a number in \[0, 1\)"),
        ("train --ratio -0.1", r"method\.prune_ratio is -0\.1; give a number in \[0, 1\)"),
        ("train --epochs 0", r"training\.epochs is 0; give an integer >= 1"),
        ("train --method magic", r"method\.name is 'magic'; give one of early_bird, dense"),
        ("train --method dense --ratio 0.5", r"unknown setting --method\.prune_ratio"),
        ("train --config absent.yaml", r"absent\.yaml"),
        ("train --data imagefolder:absent", r"absent"),
        ("train --data hf:./absent", r"absent"),
        ("search --method dense", "searches nothing; give early_bird"),
        ("retrain", "--ticket is missing"),
        ("retrain --ticket absent.safetensors", r"absent\.safetensors does not exist"),
        ("evaluate absent", "no finished run in 'absent'.*give the folder of one"),
        ("report absent", "absent"),
        ("list models", r"topic is 'models'; give methods, or nothing for all names"),
        ("dance", r"unknown command 'dance'; give one of train, search"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: str, message: str, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(arguments.split(), message, capsys)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_in_yaml_is_one_line(capsys, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("training:\n  epochz: 3\n")
    fails(["train", "--config", str(path)], r"unknown key 'training\.epochz'; did you mean 'training\.epochs'", capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]


def test_an_empty_class_folder_is_named(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
    fails(["train", "--data", "imagefolder:set", "--out", "out"], r"set.*(cat|dog)", capsys)
    assert not (tmp_path / "out").exists()


def test_another_configuration_and_a_corrupt_ticket_are_refused_and_nothing_is_lost(capsys, tmp_path: Path, flags):
    out = tmp_path / "run"
    assert main(["train", *flags, "--out", str(out)]) == 0
    capsys.readouterr()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    fails(["train", *flags, "--lr", "0.01", "--out", str(out)], r"training\.lr: 0\.05 -> 0\.01", capsys)
    ticket = out / "ticket.safetensors"
    ticket.write_bytes(ticket.read_bytes()[:-7])
    fails(["retrain", "--ticket", str(ticket), "--out", str(tmp_path / "x")], r"ticket .* is corrupt", capsys)
    assert not (tmp_path / "x").exists()
    ticket.write_bytes(before["ticket.safetensors"])
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_train_draws_its_pictures_prints_the_table_and_report_reads_it(capsys, tmp_path: Path, flags):
    assert main(["train", *flags, "--method.penalty", "1e-5", "--out", str(tmp_path / "eb")]) == 0
    printed = capsys.readouterr().out
    lines = printed.strip().splitlines()
    assert ", p 0.5 / " in lines[0] and sum(line.startswith(" early_bird ") for line in lines) == 1
    end = max(place for place, line in enumerate(lines) if not line.strip())  # of the row
    assert 1 <= len(lines) - 1 - end <= 3 and all(len(line) <= 80 for line in lines[:-1]), printed
    assert str(tmp_path / "eb") in printed
    dense = [f for f in flags if f not in ("--round-to", "1", "--method.min_draw_steps")]
    assert main(["train", *dense, "--method", "dense", "--out", str(tmp_path / "dense")]) == 0
    for name in ("accuracy.svg", "mask_distance.svg", "kept_channels.svg"):
        assert (tmp_path / "eb" / name).read_text().lstrip().startswith("<?xml")
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--markdown"]) == 0
    table = capsys.readouterr().out
    assert "dense" in table
    assert "early_bird" in table


def test_search_then_retrain_then_evaluate(capsys, tmp_path: Path, flags):
    code = flags[:4]  # The network and the data are this test's own code: it runs only where they are named.
    search = tmp_path / "s"
    assert main(["search", *flags, "--ratios", "[0.3,0.5]", "--out", str(search)]) == 0
    assert "ticket-p0.5.safetensors" in capsys.readouterr().out
    ticket = search / "ticket-p0.5.safetensors"
    assert main(["retrain", "--ticket", str(ticket), "--out", str(tmp_path / "r"), "--quiet", *code]) == 0
    record = json.loads((tmp_path / "r" / "record.json").read_text())
    assert record["ticket"]["prune_ratio"] == 0.5
    assert record["config"]["training"]["lr"] == 0.05
    other = ["--ratio", "0.3", "--out", str(tmp_path / "other")]
    assert main(["retrain", "--ticket", str(ticket), *other, "--quiet", *code]) == 2
    assert "the ticket is of ratio 0.5, --ratio is 0.3; give the ticket's" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert main(["evaluate", str(tmp_path / "r"), "--json", *code]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == record["test"]["correct"]


def test_what_print_config_prints_is_a_config(capsys, tmp_path: Path, flags):
    with pytest.raises(SystemExit) as stop:
        main(["train", *flags, "--print_config"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "resolved" not in text
    settings = yaml.safe_load(text)
    assert settings["training"]["epochs"] == 4
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert main(["train", "--config", str(path), "--epochs", "3", "--out", str(tmp_path / "run")]) == 0
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (stored["training"]["epochs"], stored["training"]["lr"]) == (3, 0.05)
    again = ["train", "--config", str(tmp_path / "run" / "config.yaml"), "--quiet", "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()


def test_list_names_models_data_and_methods(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "preresnet101" in printed
    assert "cifar100" in printed
    assert "early_bird, dense" in printed
    assert printed.count("file.py:callable") == 2 and printed.count("file.py:Class") == 1


def test_list_methods_says_in_a_line_each_what_methods_and_presets_do(capsys):
    assert main(["list", "methods"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(rows) == method_names()
    assert rows["dense"].startswith("Train the unpruned network")
    assert rows["snip_channels"] == "snip with form=channels"
    assert len(set(rows.values())) == len(rows)
    assert not [name for name, summary in rows.items() if summary.startswith(("Hyperparameters", "Settings"))]


def test_the_package_runs_as_a_module_and_tells_its_version():
    done = subprocess.run([sys.executable, "-m", "earlybird", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"earlybird {__version__}\n"


def test_help_needs_no_torch_and_no_second():
    code = (
        "import sys, time; start = time.process_time()\n"
        "from earlybird.cli.main import main\n"
        "main(['--help'])\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
        "print('CPU', time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--training.lr" in done.stdout
    assert "SUPPRESS" not in done.stdout
    assert float(done.stdout.rsplit("CPU", 1)[1]) < 0.5


def test_debug_shows_the_traceback():
    from earlybird.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["train", "--epochs", "0", "--debug"])
