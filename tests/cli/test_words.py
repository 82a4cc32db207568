"""What the command line says to a wrong name: the right one where it is near, nothing where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from earlybird.cli.main import main
from earlybird.errors import ConfigError, EarlyBirdError, did_you_mean


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a wrong command prints."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("earlybird: ") and captured.err.count("\n") == 1
    return captured.err


def suggested(said: str) -> list[str]:
    """Names that a line suggests."""
    return said.partition("did you mean ")[2].partition("?")[0].split(" or ") if "did you mean" in said else []


FAR = (
    "--optimizer --resume --resolvd --optim --gpu --wd --batch --out-dir --output --config-file --num-workers --cfg "
    "--verbose --debugg --resolv --width-mult --training.optimizer --eps --data.size --seeed-all --log --amp --name-it"
)
NEAR = {
    "--epoch": "--epochs", "--ratios": "--ratio", "--seeds": "--seed", "--methods": "--method", "--devic": "--device",
    "--modle": "--model", "--forse": "--force", "--quite": "--quiet", "--batchsize": "--batch-size",
    "--bacth-szie": "--batch-size", "--momentum": "--training.momentum", "--workers": "--data.workers",
    "--weight-decay": "--training.weight_decay", "--image_size": "--data.image_size", "--epsilon": "--method.epsilon",
    "--prune-ratio": "--method.prune_ratio", "--training.epochz": "--training.epochs", "--model.epochs": "--epochs",
    "--method.windo": "--method.window", "--PRECISION": "--precision",
}  # fmt: skip


@pytest.mark.parametrize("flag", FAR.split())
def test_a_flag_that_is_near_none_gets_no_suggestion(flag: str, capsys):
    assert suggested(complaint(["train", flag, "3"], capsys)) == []


@pytest.mark.parametrize(("flag", "meant"), NEAR.items())
def test_a_misspelt_flag_gets_the_one_that_was_meant(flag: str, meant: str, capsys):
    assert suggested(complaint(["train", flag, "3"], capsys)) == [meant]


YAML = {
    "epochs: 3": ["'training.epochs'"],
    "training:\n  epochz: 3": ["'training.epochs'"],
    "trainin:\n  epochs: 3": ["'training.epochs'"],
    "model:\n  epochs: 3": ["'training.epochs'"],
    "method:\n  windo: 3": ["'method.window'"],
    "prune_ratio: 0.3": ["'method.prune_ratio'"],
    "optimizer: adam": [],
    "resume: true": [],
    "resolvd: {}": [],
    "training:\n  optimizer: sgd": [],
}


@pytest.mark.parametrize(("text", "meant"), YAML.items())
def test_a_wrong_key_of_yaml_gets_a_key_and_no_flag(text: str, meant: list[str], capsys, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(text + "\n")
    said = complaint(["train", "--config", str(path)], capsys)
    assert said.startswith(f"earlybird: {path}: unknown key ")
    assert suggested(said) == meant


BROKEN = {
    "training:\n  epochs: [3\nmodel: x\n": ", line 3, cannot be read",
    "training:\n\t- x\n": ", line 2, cannot be read",
    "a: b: c\n": ", line 1, cannot be read",
    "{": ", line 1, cannot be read",
    b"\xff\xfe\x00": " cannot be read",
    "a: 2026-99-99": " cannot be read",
    "[" * 1000: " cannot be read",
    "word": " holds no settings",
    "": " holds no settings",
    "- 1": " holds no settings",
    "training: 3": ": section 'training' is 3",
    "method: early_bird": ": section 'method' is 'early_bird'",
    "model: [vgg16]": ": section 'model' is ['vgg16']",
}


@pytest.mark.parametrize(("text", "told"), BROKEN.items())
def test_a_broken_yaml_names_its_file_and_line(text, told: str, capsys, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert complaint(["train", "--config", str(path)], capsys).startswith(f"earlybird: {path}{told}")


def test_a_broken_grid_and_a_broken_config_of_compare_name_their_file_and_line(capsys, tmp_path: Path):
    path = tmp_path / "g.yaml"
    path.write_text("- methods: [dense\n")
    for flag in ("--grid", "--config"):
        assert complaint(["compare", flag, str(path)], capsys).startswith(f"earlybird: {path}, line 2, cannot be read")
    path.write_text("- methods: [dense]\n  seed: 1\n")
    assert "'seed'; did you mean 'seeds'?" in complaint(["compare", "--grid", str(path)], capsys)
    path.write_text("epochs: 3\n")
    said = complaint(["compare", "--methods", "dense", "--config", str(path)], capsys)
    assert suggested(said) == ["'training.epochs'"]


def test_a_key_without_values_is_a_section_of_defaults(capsys, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("training:\nmodel:\n  name: vgg11\nquiet: true\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(path), "--print_config"])
    assert "name: vgg11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("train --method early_brid", "early_bird"),
        ("train --method shufled", "shuffled"),
        ("train --method lotery_ticket", "lottery_ticket"),
        ("compare --data digits --methods early_brid", "early_bird"),
        ("compare --data digits --methods dense --equal-cost dens", "dense"),
        ("compare --data digits --methods early_bird --method.windo 3", "window"),
        ("cost --data digits --methods uniformm", "uniform"),
        ("train --method.criterion bn_scal", "bn_scale"),
        ("train --method.rule papr", "paper"),
        ("train --model resnet81 --data digits", "resnet18"),
        ("train --model VGG-16 --data digits", "vgg16"),
        ("train --model torchvison:resnet18 --data digits", "torchvision"),
        ("train --data digts", "digits"),
        ("train --data imagefoler:x", "imagefolder"),
        ("train --training.schedule cosin", "cosine"),
        ("train --precision fp23", "fp32"),
        ("cost --paper tabel3", "table3"),
        ("inspect --data digits --policy innr", "inner"),
        ("trian", "train"),
    ],
)
def test_a_misspelt_name_gets_the_one_that_was_meant(arguments: str, meant: str, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert suggested(complaint(arguments.split(), capsys)) == [repr(meant)]


@pytest.mark.parametrize(
    "arguments",
    ["train --method early_bird_rewind", "train --model resnet152 --data digits", "train --method sgd",
     "train --model preresnet32 --data digits", "train --data mnist", "train --method.rule first", "stop"],
)  # fmt: skip
def test_a_name_that_is_near_none_gets_no_suggestion(arguments: str, capsys):
    assert suggested(complaint(arguments.split(), capsys)) == []


def test_python_says_what_was_meant():
    from earlybird import EarlyBird
    from earlybird.data import load_data
    from earlybird.models import build_model
    from earlybird.settings.run import RunConfig

    calls = {
        "early_bird": lambda: RunConfig.from_dict({"method": {"name": "early-brid"}}),
        "bn_scale": lambda: RunConfig.from_dict({"method": {"criterion": "bnscale"}}),
        "paper": lambda: EarlyBird(0.5, rule="papr"),
        "vgg16": lambda: build_model("vgg_16", num_classes=2, in_channels=1, image_size=32),
        "cifar10": lambda: load_data("cfar10"),
    }
    for meant, call in calls.items():
        with pytest.raises(EarlyBirdError, match=rf"did you mean '{meant}'\?"):
            call()
    with pytest.raises(ConfigError, match="auto, fp32, bf16") as refused:
        RunConfig.from_dict({"training": {"precision": "int8"}})
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "legal", "meant"),
    [
        ("epohc", ["epoch"], "epoch"),  # swapped
        ("epoc", ["epoch"], "epoch"),  # missing
        ("epooch", ["epoch"], "epoch"),  # too many
        ("epach", ["epoch"], "epoch"),  # wrong
        ("epahc", ["epoch"], None),  # two slips in a short name
        ("presicoin", ["precision"], None),  # three
        ("precsioin", ["precision"], "precision"),  # two in a long one
        ("lx", ["lr"], None),
        ("vgg16", ["vgg11", "vgg12", "vgg13", "vgg14", "vgg15"], None),  # near five is near none
    ],
)
def test_the_measure_is_strict(given: str, legal: list[str], meant: str | None):
    assert did_you_mean(given, legal) == (f"did you mean {meant!r}? " if meant else "")


@pytest.mark.parametrize(("flag", "key"), [("--ratio", "method.prune_ratio"), ("--lr", "training.lr")])
def test_an_empty_value_is_a_wrong_value(flag: str, key: str, capsys):
    for arguments in ([flag, ""], [f"{flag}="]):
        assert complaint(["train", *arguments], capsys).strip() == f"earlybird: {key} is ''; give a number"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train --training.lr.x 3", "unknown setting --training.lr.x; "),
        ("train --method.prune_ratio.x 1", "unknown setting --method.prune_ratio.x; "),
        ("train --config=", "--config is ''; give a YAML file"),
        ("train --data http://x", "data 'http://x' names no callable; "),
        ("search --draws x", "draws is 'x'; give a list such as [rule,0,5,last] or null"),
        ("search --ratios x", "ratios is 'x'; give a list of numbers such as [0.3,0.5] or null"),
        ("compare --methods dense --ratio 0.5", "--ratio is of one run; compare takes --ratios"),
        ("compare --methods dense --method.name dense", "--method is of one run; compare takes --methods"),
        ("compare --methods early_bird:draw_at", "'draw_at' stands without its value; write early_bird:draw_at=VALUE"),
        ("compare --methods early_bird:foo=1", "early_bird:foo=1: unknown key in 'method': 'foo'; "),
        ("train --method snip --method.window 3", "unknown setting --method.window; "),
        ("train --seeds 1,2", "unknown setting --seeds; did you mean --seed? "),
        ("cost --ticket-epoch 1000", "--ticket-epoch is 1000.0; give a number in [0, 160]"),
        ("cost --paper table9", "--paper is 'table9'; "),
        ("export nothing", "no format given; add --onnx, --pt2 or both"),
        ("list modles", "topic is 'modles'; give methods, or nothing for all names"),
    ],
)
def test_a_wrong_command_line_is_one_line_in_the_words_of_the_user(
    command: str, said: str, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert said in complaint(command.split(), capsys)
    assert not any(tmp_path.iterdir())
