"""ThiNet's samples against the layer's own output, its greedy choice against exhaustive search, its least squares
against numpy, and whole runs."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from earlybird.errors import ConfigError, MethodError, SlimError
from earlybird.methods import thinet
from earlybird.methods.contributions import contributions, least_squares_weights, removed_greedily
from earlybird.methods.thinet import kept_count, prunable_layers
from earlybird.models import build_model
from earlybird.runs.run import run
from earlybird.settings.catalog import ThiNet
from earlybird.settings.run import RunConfig
from earlybird.slimming import channel_groups
from earlybird.training import loop


def batches(*shape: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(2, *shape, generator=draw), torch.zeros(2)) for _ in range(3)]


READERS = {
    "plain": nn.Conv2d(4, 3, 3),
    "stride and padding": nn.Conv2d(4, 3, 3, stride=2, padding=1),
    "dilation": nn.Conv2d(4, 3, (3, 2), dilation=2, padding=(2, 1)),
    "same": nn.Conv2d(4, 3, 3, padding="same"),
    "reflect": nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    "one by one": nn.Conv2d(4, 3, 1, bias=False),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_parts_of_all_channels_add_up_to_the_sampled_outputs(reader: nn.Conv2d):
    net = nn.Sequential(nn.Identity(), reader)
    images, lot = batches(4, 9, 8), torch.Generator().manual_seed(1)
    parts = contributions(net, "1", torch.arange(4), images, 5, lot)
    # The same draws again, read off the layer's own output.
    lot, expected = torch.Generator().manual_seed(1), []
    bias = 0 if reader.bias is None else reader.bias.detach()
    for x, _ in images:
        out = reader(x).detach().permute(0, 2, 3, 1) - bias
        o, row, column = (torch.randint(0, most, (10,), generator=lot) for most in (3, out.shape[1], out.shape[2]))
        expected.append(out[torch.arange(2).repeat_interleave(5), row, column, o])
    assert parts.shape == (3 * 2 * 5, 4)
    torch.testing.assert_close(parts.sum(1).float(), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_a_channel_that_is_removed_takes_its_part_with_it():
    net = nn.Sequential(nn.Identity(), nn.Conv2d(4, 3, 3, padding=1))
    images = batches(4, 6, 6)
    whole = contributions(net, "1", torch.arange(4), images, 5, torch.Generator().manual_seed(1))
    net[1].weight.data[:, 2] = 0
    without = contributions(net, "1", torch.arange(4), images, 5, torch.Generator().manual_seed(1))
    assert not without[:, 2].any() and torch.equal(without[:, [0, 1, 3]], whole[:, [0, 1, 3]])


def test_a_linear_layer_behind_a_flatten_has_a_part_for_each_channel_not_each_feature():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4, 3))
    places = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    parts = contributions(net, "1", places, batches(2, 2, 2), 4, torch.Generator().manual_seed(1))
    assert parts.shape == (3 * 2 * 4, 2)
    lot, expected = torch.Generator().manual_seed(1), []
    for x, _ in batches(2, 2, 2):
        torch.randint(0, 1, (8,), generator=lot)
        o = torch.randint(0, 3, (8,), generator=lot)
        flat = x.flatten(1)[torch.arange(2).repeat_interleave(4)] * net[1].weight.detach()[o]
        expected.append(torch.stack([flat[:, :4].sum(1), flat[:, 4:].sum(1)], dim=1))
    torch.testing.assert_close(parts.float(), torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_inputs_that_stay_are_left_out():
    net = nn.Sequential(nn.Identity(), nn.Conv2d(4, 3, 1))
    parts = contributions(net, "1", torch.tensor([-1, 0, -1, 1]), batches(4, 3, 3), 5, torch.Generator())
    assert parts.shape[1] == 2


@pytest.mark.parametrize("seed", range(5))
def test_each_greedy_step_is_the_best_of_all_candidates(seed: int):
    parts = torch.randn(40, 7, generator=torch.Generator().manual_seed(seed)).double()
    previous: set[int] = set()
    for count in range(1, 7):
        removed = {int(i) for i in removed_greedily(parts, count).nonzero()}
        candidates = [previous | {c} for c in range(7) if c not in previous]
        best = min(candidates, key=lambda s: float(parts[:, list(s)].sum(1).square().sum()))
        assert removed == best
        previous = removed


def test_where_channels_do_not_interact_the_greedy_set_is_the_best_of_all_sets():
    """Parts on disjoint samples: the sum of squares of a set is the sum of its members'."""
    parts = torch.diag(torch.tensor([3.0, 0.5, 2.0, 1.0, 4.0])).double()
    for count in range(1, 5):
        best = min(
            itertools.combinations(range(5), count),
            key=lambda s: float(parts[:, list(s)].sum(1).square().sum()),
        )
        assert set(removed_greedily(parts, count).nonzero().flatten().tolist()) == set(best)


def test_two_channels_that_cancel_go_together():
    a = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)).double()
    b = torch.randn(30, 1, generator=torch.Generator().manual_seed(1)).double()
    parts = torch.cat([10 * b, a, -a, 9 * b], dim=1)
    assert removed_greedily(parts, 2).tolist() == [False, True, True, False]


def test_no_layer_behind_a_concatenation_loses_all_its_channels():
    """Units 0 to 2 are the first layer's, 3 to 6 the second's; all of the first add nothing, so they would go first."""
    parts = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)).double()
    parts[:, :3] *= 1e-3
    layers = [(0,)] * 3 + [(1,)] * 4
    assert removed_greedily(parts, 4).tolist()[:3] == [True] * 3
    removed = removed_greedily(parts, 4, layers, [2, 3])
    assert int(removed[:3].sum()) == 2 and int(removed[3:].sum()) == 2
    assert int(removed_greedily(parts, 7, layers, [2, 3]).sum()) == 5
    # A unit that takes two channels of a layer needs two to spare.
    assert removed_greedily(parts, 2, [(0, 0)] * 7, [3]).tolist().count(True) == 1


CONCATENATED = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.small = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(3, 14, 3, padding=1, bias=False), nn.BatchNorm2d(14), nn.ReLU())
        self.join = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)
        self.small[1].weight.data *= 1e-6
        self.small[1].requires_grad_(False)

    def forward(self, x):
        x = self.join(torch.cat([self.small(x), self.wide(x)], 1))
        return self.head(x.mean((2, 3)))
"""


def test_a_run_of_a_network_with_a_concatenation_keeps_a_channel_of_each_part(
    tiny_settings, tiny: Path, tmp_path: Path
):
    tiny.write_text(tiny.read_text() + CONCATENATED)
    settings = tiny_settings("thinet", round_to=1, prune_ratio=0.5, finetune_steps=0, training={"epochs": 2})
    record = go(settings, tmp_path / "run")
    kept = {layer["name"]: layer["kept"] for layer in record["layers"]}
    assert (kept["small.1"], kept["wide.1"]) == (1, 7)  # 8 of 16; small.1 adds next to nothing


class WithAuxiliary(nn.Module):
    """A second head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.auxiliary = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        out = self.head(x).mean((2, 3))
        return out + self.auxiliary(x).mean((2, 3)) if self.training else out


def test_what_only_training_runs_is_not_sampled():
    net, images = WithAuxiliary().train(), torch.zeros(2, 3, 4, 4)
    layers = prunable_layers(net, channel_groups(net, images, "inner"), images)
    assert [layer.reader for layer in layers] == ["body.0"]
    assert net.training


def test_the_least_squares_weights_are_numpys():
    parts = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    keep = torch.tensor([True, False, True, True, False, True])
    expected, *_ = np.linalg.lstsq(parts[:, keep].numpy(), parts.sum(1).numpy(), rcond=None)
    np.testing.assert_allclose(least_squares_weights(parts, keep).numpy(), expected, rtol=1e-10)


def test_channels_that_are_always_zero_do_not_break_the_least_squares():
    parts = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    parts[:, 1] = 0
    weights = least_squares_weights(parts, torch.tensor([True, True, True, False]))
    assert bool(torch.isfinite(weights).all()) and weights[1] == 0


@pytest.mark.parametrize(
    ("width", "ratio", "more", "kept"),
    [
        (64, 0.3, {}, 44),
        (64, 0.7, {}, 19),
        (10, 0.9, {}, 1),  # (1 - 0.9) * 10 is 0.999... in floats
        (3, 0.9, {}, 1),
        (64, 0.3, {"round_to": 8}, 48),
        (8, 0.0, {}, 8),
    ],
)
def test_int_of_one_minus_p_times_the_width_stays(width, ratio, more, kept):
    assert kept_count(width, ratio, **more) == kept


def test_all_layers_of_a_vgg_and_the_first_two_of_each_bottleneck_can_be_cut():
    images = torch.zeros(2, 3, 32, 32)
    vgg = build_model("vgg11", num_classes=10, width=0.125)
    assert len(prunable_layers(vgg, channel_groups(vgg, images, "inner"), images)) == 8
    net = build_model("preresnet20", num_classes=10)
    readers = [layer.reader for layer in prunable_layers(net, channel_groups(net, images, "inner"), images)]
    assert readers == [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in (0, 1) for conv in (2, 3)]


def test_a_network_without_such_a_layer_is_refused_with_the_reason():
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 3))
    images = torch.zeros(2, 3, 9)
    with pytest.raises(SlimError, match="'3' is a Conv1d, whose outputs are not sampled here"):
        prunable_layers(net, channel_groups(net, images, "inner"), images)


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


# A second conv behind the stem, so that there is a layer whose channels one conv alone reads.
CHAIN = (
    "self.right = nn.Sequential(nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16))",
    "self.right = nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), "
    "nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))",
)


@pytest.fixture
def chain(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace(*CHAIN))


@pytest.mark.usefixtures("chain")
def test_a_run_cuts_layer_by_layer_and_charges_samples_and_fine_tuning(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("thinet", round_to=1, finetune_steps=4, images_per_class=5), tmp_path / "run")
    kept = {layer["name"]: layer["kept"] for layer in record["layers"] if layer["kept"] < layer["dense"]}
    assert kept == {"right.1": 4}
    # Of 8 channels int(0.5 * 8) stay. The stem's 12 have two readers, so they are not cut, but they count as units.
    assert record["ticket"]["rule"] == "thinet" and record["ticket"]["realised_ratio"] == pytest.approx(4 / 20)
    phases = record["cost"]["phases"]
    # The dense training, 5 of each class once through the dense network, four steps of 20 images of the cut one.
    assert phases["search"]["images"] == 12 * 90 + 15 + 4 * 20
    dense, final = record["dense"], record["final"]
    assert phases["search"]["macs"] == 12 * 90 * dense["train_macs"] + 15 * dense["macs"] + 80 * final["train_macs"]
    assert phases["retrain"]["images"] == 12 * 90
    assert [row["lr"] for row in record["metrics"] if row["step"] > 60] == [1e-3]


def output_of(net: nn.Module, layer: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        net.eval()(x)
    handle.remove()
    return found[0]


@pytest.mark.usefixtures("chain")
def test_the_rescaled_layer_gives_more_of_what_it_gave_than_the_cut_alone(tiny_settings, tmp_path: Path, monkeypatch):
    """The least squares do what they are for, also on images that are augmented otherwise than those they saw."""
    outputs: list[list[Tensor]] = []
    original, cut = thinet._choose, thinet._cut

    def spy(method: Any, task: Any, model: nn.Module, layer: Any, *rest: Any) -> Tensor:
        dense = copy.deepcopy(model)
        removed = original(method, task, model, layer, *rest)
        x, _ = next(iter(task.session.train.epoch(3)))
        plain, rescaled = (cut(method, task, net, layer.reader, removed) for net in (dense, model))
        outputs.append([output_of(net, layer.reader, x) for net in (dense, plain, rescaled)])
        return removed

    monkeypatch.setattr(thinet, "_choose", spy)
    go(tiny_settings("thinet", round_to=1, finetune_steps=0), tmp_path / "run")
    ((dense, plain, rescaled),) = outputs
    assert (rescaled - dense).square().sum() < 0.9 * (plain - dense).square().sum()


@pytest.mark.usefixtures("chain")
def test_killed_in_the_dense_training_or_while_fine_tuning_it_ends_with_the_same_bits(
    tiny_settings, tmp_path: Path, monkeypatch, run_once
):
    settings = tiny_settings("thinet", round_to=1, finetune_steps=4, training={"checkpoint_every": 1, "epochs": 4})
    whole = run_once(settings, tmp_path / "whole")
    original = loop._train_step
    for steps in (10, 21, 23):  # of 20 and four
        count = [0]

        def step(*arguments: Any, count: list[int] = count, steps: int = steps) -> None:
            count[0] += 1
            if count[0] == steps:
                raise KeyboardInterrupt
            original(*arguments)

        folder = tmp_path / f"killed-{steps}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop, "_train_step", step)
            go(settings, folder)
        record = go(settings, folder)
        one, other = (load_file(place / "model.safetensors") for place in (tmp_path / "whole", folder))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert record["cost"]["total"]["images"] == whole["cost"]["total"]["images"]


@pytest.mark.usefixtures("chain")
def test_a_finished_dense_run_stands_for_the_first_training(tiny_settings, tmp_path: Path, run_once):
    settings = tiny_settings("thinet", round_to=1, finetune_steps=2)
    run_once(tiny_settings("dense"), tmp_path / "dense")
    alone = run_once(settings, tmp_path / "alone")
    shared = go(settings, tmp_path / "shared", dense_run=tmp_path / "dense")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "shared"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert shared["cost"]["total"]["macs"] == alone["cost"]["total"]["macs"]


def test_a_network_with_nothing_to_cut_is_refused_before_any_training(tiny_settings, tiny: Path, tmp_path: Path):
    tiny.write_text(tiny.read_text().replace("x = self.stem(x)", "x = self.stem(x).flip(1)"))
    with pytest.raises(MethodError, match="method thinet cannot handle this network: no layer has channels that one"):
        go(tiny_settings("thinet"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_gives_no_more_images_than_the_data_have(tiny_settings, tiny: Path, tmp_path: Path):
    tiny.write_text(tiny.read_text().replace(*CHAIN).replace("split(90, 0)", "split(6, 0)"))
    settings = tiny_settings("thinet", images_per_class=100, locations=1, finetune_steps=0, round_to=1)
    settings["training"] |= {"batch_size": 3, "epochs": 2}
    record = go(settings, tmp_path / "run")
    few, short = record["ticket"]["flags"]
    assert few == "6 samples for layers of up to 8 channels: the least squares have many solutions"
    assert short.startswith("prune_ratio=0.5 asks for 10 of the 20 units that may go and 4 go (0.200): ")


def test_too_few_samples_are_flagged(tiny_settings, tiny: Path, tmp_path: Path):
    tiny.write_text(tiny.read_text().replace(*CHAIN))
    record = go(tiny_settings("thinet", images_per_class=1, locations=1, finetune_steps=0, round_to=1), tmp_path / "r")
    few, short = record["ticket"]["flags"]
    assert few == "3 samples for layers of up to 8 channels: the least squares have many solutions"
    assert short.startswith("prune_ratio=0.5 asks for 10 of the 20 units that may go and 4 go (0.200): ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"locations": 0}, r"method\.locations is 0"),
        ({"finetune_steps": -1}, r"method\.finetune_steps is -1"),
        ({"finetune_lr": 0.0}, r"method\.finetune_lr is 0.0; give a number > 0"),
        ({"policy": "select"}, r"method\.policy is 'select'; give inner, tie"),
    ],
)
def test_a_setting_out_of_range_names_itself(values, message):
    with pytest.raises(ConfigError, match=message):
        ThiNet(**values)
