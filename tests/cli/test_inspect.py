from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from earlybird.cli.main import main
from earlybird.cost import layer_timing
from earlybird.cost.layer_timing import LayerSeconds


def test_the_table_says_what_can_go_and_what_not(capsys):
    assert main(["inspect", "--model", "preresnet20", "--width", "0.25", "--batch-size", "0"]) == 0
    said = capsys.readouterr().out
    assert "preresnet20 on 3x32x32, policy select:" in said
    assert "layer1.0.bn1" in said
    assert "MACs per image" in said
    assert "seconds" not in said


def test_json_holds_the_groups_and_the_cost_before_and_after(capsys):
    flags = ["--width", "0.1", "--ratio", "0.3", "--round-to", "2", "--batch-size", "2", "--json"]
    assert main(["inspect", "--model", "vgg11", *flags]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["units"] == sum(row["units"] for row in facts["groups"])
    assert facts["after"]["macs"] < facts["before"]["macs"]
    assert abs(facts["realised_ratio"] - 0.3) < 0.1
    assert set(facts["step_seconds"]) == {"before", "after"}
    layers = facts["layer_seconds"]
    assert [layer["name"] for layer in layers[:2]] == ["features.0", "features.4"]
    assert layers[-1]["name"] == "classifier"
    assert all(layer["dense"] > 0 and layer["slim"] > 0 for layer in layers)
    assert layers[0]["dense_widths"] == [3, 6]


def test_the_seconds_of_each_layer_are_shown_and_slow_widths_named(capsys, monkeypatch):
    def measured(model, mask, groups, images):
        assert images.shape == (4, 3, 32, 32)
        assert images.is_contiguous(memory_format=torch.channels_last)
        return [
            LayerSeconds("features.0", (3, 6), (3, 5), 0.004, 0.005, 0.0045),
            LayerSeconds("classifier", (51, 10), (25, 10), 0.001, 0.0005, 0.0006),
        ]

    monkeypatch.setattr(layer_timing, "layer_seconds", measured)
    assert main(["inspect", "--model", "vgg11", "--width", "0.1", "--ratio", "0.3", "--batch-size", "4"]) == 0
    said = capsys.readouterr().out
    (first,) = (line for line in said.splitlines() if "features.0 " in line and "->" in line)
    assert first.replace("│", " ").split() == ["features.0", "3->6", "3->5", "4.00", "5.00", "1.25", "4.50", "slow!"]
    (last,) = (line for line in said.splitlines() if "classifier" in line)
    assert last.replace("│", " ").split() == ["classifier", "51->10", "25->10", "1.00", "0.50", "0.50", "0.60"]
    assert "the cut's widths cost more than the next multiples of 8" in said
    assert "CPU time of each layer with its norm and activation: 1.10 of dense" in said


def test_a_network_that_nothing_can_be_cut_from_is_shown_with_its_reasons(capsys, tmp_path: Path):
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))\n"
    )
    assert main(["inspect", "--model", f"{source}:net", "--batch-size", "0"]) == 0
    said = capsys.readouterr().out
    assert "4: it is a network output" in said
    assert "Nothing can be cut" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect vgg11", "'vgg11' belongs to no flag"),
        ("inspect --image-size 64", "unknown setting --image-size; did you mean --data.image_size"),
        ("inspect --data cifar11", "unknown data 'cifar11'"),
        ("inspect --model vgg99", "unknown model 'vgg99'"),
        ("inspect --model vgg11 --ratio 1", r"--ratio is 1.0; give a number in [0, 1)"),
        ("inspect --model vgg11 --policy both", "residual policy is 'both'; give auto, inner, tie or select"),
        ("inspect --model vgg11 --criterion taylor", "--criterion is 'taylor'; give bn_scale or filter_l1"),
        ("inspect --model vgg11 --batch-size 1", "--batch-size is 1; give 2 or more, or 0 for no timing"),
        ("inspect --model vgg11 --keep [nothing*]", "keep pattern 'nothing*' matches no norm, conv or linear"),
        (
            "inspect --model torchvision:vgg11",
            "criterion 'bn_scale' found no BatchNorm with a scale; use criterion=filter_l1",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_ratio_is_of_the_units_that_the_criterion_scores(capsys, tmp_path: Path):
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))\n"
    )
    assert main(["inspect", "--model", f"{source}:net", "--batch-size", "0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["units"], facts["scored_units"], facts["realised_ratio"]) == (14, 8, 0.5)
    assert main(["inspect", "--model", f"{source}:net", "--batch-size", "0", "--keep", "['1']"]) == 0
    assert "bn_scale scores none of the 6 units that can go" in capsys.readouterr().out.replace("\n", " ")
