"""SNIP's saliency against finite differences, its masks against a ranking by hand, its structured form against sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from earlybird.core import WeightMask
from earlybird.errors import ConfigError, MethodError, OutOfMemoryError
from earlybird.methods import snip
from earlybird.methods.snip import channel_sums, sensitivities
from earlybird.runs.run import run
from earlybird.settings.catalog import Snip
from earlybird.settings.run import RunConfig


def network() -> nn.Sequential:
    """Double precision, so that finite differences are of use; in train mode, with a BatchNorm that has seen data."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4)
    ).double()  # fmt: skip
    net[1].running_mean.uniform_(-0.2, 0.2)
    net[1].running_var.uniform_(0.5, 2.0)
    return net


def batch(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(images, 2, 4, 4, generator=draw).double(), torch.randint(0, 4, (images,), generator=draw)


def loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float(functional.cross_entropy(net(x), y))


def test_the_saliency_is_what_the_loss_loses_by_a_small_change_of_each_weight():
    net, (x, y) = network(), batch(7, 0)
    scores = sensitivities(net, [(x, y)])
    net.eval()
    expected: dict[str, torch.Tensor] = {}
    step = 1e-5
    for name in ("0.weight", "4.weight"):
        weight = net.get_parameter(name)
        slopes = torch.zeros_like(weight)
        with torch.no_grad():
            for place in range(weight.numel()):
                kept = float(weight.view(-1)[place])
                values = []
                for change in (step, -step):
                    weight.view(-1)[place] = kept * (1 + change)
                    values.append(loss(net, x, y))
                weight.view(-1)[place] = kept
                slopes.view(-1)[place] = (values[0] - values[1]) / (2 * step)
        expected[name] = slopes.abs()
    total = sum(float(slope.sum()) for slope in expected.values())
    assert set(scores) == set(expected)
    for name, slope in expected.items():
        torch.testing.assert_close(scores[name], (slope / total).float(), rtol=1e-4, atol=1e-7)
    assert sum(float(score.sum()) for score in scores.values()) == pytest.approx(1.0)


def test_several_batches_are_one_large_batch():
    net, (x, y) = network(), batch(9, 1)
    whole = sensitivities(net, [(x, y)])
    parts = sensitivities(net, [(x[:2], y[:2]), (x[2:], y[2:])])
    for name, score in whole.items():
        torch.testing.assert_close(parts[name], score, rtol=1e-6, atol=0)


def test_the_network_is_left_as_found():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sensitivities(net, [batch(5, 2)])
    assert net.training and all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_no_batch_and_a_loss_that_depends_on_nothing_are_refused():
    with pytest.raises(MethodError, match="SNIP was given no batch"):
        sensitivities(network(), [])
    dead = network()
    nn.init.zeros_(dead[4].weight)
    nn.init.zeros_(dead[0].weight)
    with pytest.raises(MethodError, match="the loss depends on no weight of this network as it is initialised"):
        sensitivities(dead, [batch(5, 2)])


def test_a_channel_scores_the_sum_over_its_weights():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    scores = {"0.weight": torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), "2.weight": torch.tensor([[1.0, 2.0], [3, 4]])}
    assert {name: sums.tolist() for name, sums in channel_sums(net, scores).items()} == {"0": [1, 2], "2": [3, 7]}


def go(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True)


def test_a_run_trains_the_most_sensitive_weights_alone_and_charges_the_batch(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("snip", prune_ratio=0.4), tmp_path / "run")
    mask, _ = WeightMask.load(tmp_path / "run" / "weight-mask.safetensors")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    # 3*12*9 + 12*16*9 + 12*16 + 16*3 weights of three convs and the linear.
    assert mask.total == 324 + 1728 + 192 + 48
    assert mask.total - mask.kept == round(0.4 * mask.total)
    for name in mask:
        assert not weights[name][~mask[name]].any()
        assert bool((weights[name][mask[name]] != 0).all())
    assert record["weight_mask"]["kept"] == mask.kept and record["weight_mask"]["epoch"] == 0
    assert record["weight_mask"]["realised_ratio"] == pytest.approx(0.4, abs=1e-3)
    phases = record["cost"]["phases"]
    assert phases["search"]["images"] == 20
    assert phases["search"]["macs"] == 20 * record["dense"]["train_macs"]
    assert phases["retrain"]["images"] == 12 * 90
    assert record["final"]["params"] == record["dense"]["params"]


def test_by_channels_the_network_is_cut_before_any_training(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("snip", form="channels", round_to=1), tmp_path / "run")
    assert record["ticket"]["rule"] == "snip" and record["ticket"]["step"] == 0
    assert record["ticket"]["realised_ratio"] == 0.5
    assert record["final"]["params"] < record["dense"]["params"]
    assert record["cost"]["phases"]["retrain"]["macs"] == 12 * 90 * record["final"]["train_macs"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prune_ratio": 1.0}, r"method\.prune_ratio is 1.0; give a number in \[0, 1\)"),
        ({"batches": 0}, r"method\.batches is 0; give an integer >= 1"),
        ({"form": "filters"}, r"method\.form is 'filters'; give weights, channels"),
    ],
)
def test_a_setting_out_of_range_names_itself(values, message):
    with pytest.raises(ConfigError, match=message):
        Snip(**values)


def test_parts_of_a_batch_change_nothing():
    net, (x, y) = network(), batch(9, 1)
    whole = sensitivities(net, [(x, y)])
    for name, score in sensitivities(net, [(x, y)], micro_batches=4).items():
        torch.testing.assert_close(score, whole[name], rtol=1e-6, atol=0)


def test_more_batches_than_an_epoch_has_are_refused(tiny_settings, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"method\.batches is 6; give an integer in \[1, 5\]: an epoch has 5"):
        go(tiny_settings("snip", batches=6), tmp_path / "run")


def test_memory_that_runs_out_while_scoring_is_one_line_with_the_cure(tiny_settings, tmp_path: Path, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(snip.functional, "cross_entropy", full)
    with pytest.raises(OutOfMemoryError, match="out of memory in SNIP's scoring; lower --batch-size or raise --train"):
        go(tiny_settings("snip"), tmp_path / "run")


class WithAuxiliary(nn.Module):
    """A second head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 6, 1)
        self.auxiliary = nn.Sequential(nn.Flatten(), nn.Linear(96, 4))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(96, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head(x) + self.auxiliary(x) if self.training else self.head(x)


def test_weights_that_an_evaluation_does_not_reach_are_not_scored():
    x, y = batch(5, 0)
    assert set(sensitivities(WithAuxiliary().double(), [(x, y)])) == {"body.weight", "head.1.weight"}
