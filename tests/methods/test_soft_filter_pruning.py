"""Soft filter pruning: which filters are zeroed and when, that they grow back, and the cut at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, Ticket, filter_l2
from earlybird.errors import ConfigError
from earlybird.methods.soft_filter_pruning import ZeroingHooks, filter_mask, zero_filters_
from earlybird.runs.run import run
from earlybird.settings.catalog import SoftFilterPruning
from earlybird.settings.run import RunConfig
from earlybird.slimming import channel_groups, masked
from earlybird.training import loop


def go(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True)


def zero_filters(weight: Tensor) -> list[int]:
    return [int(i) for i in (weight.flatten(1).abs().sum(1) == 0).nonzero()]


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_the_filters_of_smallest_norm_are_zeroed_with_their_biases_and_norms_are_left_alone():
    net = chain()
    net[0].weight.data = torch.tensor([3.0, -0.1, 2.0, 0.2]).reshape(4, 1, 1, 1)
    groups = channel_groups(net, torch.zeros(2, 1, 3, 3), "select")
    mask = filter_mask(SoftFilterPruning(prune_ratio=0.5, round_to=1), net, groups)
    zero_filters_(net, mask, groups)
    assert net[0].weight.flatten().tolist() == [3.0, 0.0, 2.0, 0.0]
    assert [bool(b) for b in net[0].bias] == [True, False, True, False]
    assert net[1].weight.tolist() == [1.0] * 4
    assert bool(net[3].weight.all())  # its outputs are the network's: nothing of it may go


def test_a_transposed_convolution_has_its_filters_on_the_other_dimension():
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    groups = channel_groups(net, torch.zeros(2, 2, 3, 3))
    mask = groups.mask_of(torch.tensor([True, False, True]))
    zero_filters_(net, mask, groups)
    assert not net[0].weight[:, 1].any() and bool(net[0].weight[:, [0, 2]].all())


@pytest.fixture
def watched(monkeypatch) -> dict[int, dict[str, list[int]]]:
    """Step -> conv -> its zero filters, after every step."""
    found: dict[int, dict[str, list[int]]] = {}
    original = loop._train_step

    def step(state: Any, x: Tensor, y: Tensor) -> None:
        original(state, x, y)
        convs = {n: m for n, m in state.model.named_modules() if isinstance(m, nn.Conv2d)}
        found[state.step] = {name: zero_filters(conv.weight) for name, conv in convs.items()}

    monkeypatch.setattr(loop, "_train_step", step)
    return found


def test_filters_are_zeroed_after_each_epoch_and_grow_back_within_the_next(tiny_settings, tmp_path: Path, watched):
    go(tiny_settings("soft_filter_pruning", round_to=1, zero_at_start=False), tmp_path / "run")
    for step, zeros in watched.items():
        expected = {"stem.0": 6, "left.0": 8, "right.0": 8} if step % 5 == 0 else dict.fromkeys(zeros, 0)
        assert {name: len(filters) for name, filters in zeros.items()} == expected, step
    # Soft: which filters are zeroed is chosen anew each time.
    assert len({tuple(watched[step]["left.0"]) for step in range(5, 65, 5)}) > 1


def test_filters_that_are_zero_before_the_first_epoch_stay_zero(tiny_settings, tmp_path: Path, watched):
    """As in the authors' code: behind BatchNorm a zero filter gives the shift, 0, where ReLU passes no gradient."""
    go(tiny_settings("soft_filter_pruning", round_to=1), tmp_path / "run")
    zeros = [step["stem.0"] for step in watched.values()]
    assert len(zeros[0]) == 6 and all(found == zeros[0] for found in zeros)


STATIC = ["the final mask is the first one: no filter that was zeroed came back"]


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({"policy": "inner"}, STATIC),  # the stem alone, in front of a norm and ReLU
        ({"policy": "inner", "every_epochs": 99}, STATIC),
        ({"policy": "select"}, []),  # what writes to the add comes back
        ({"policy": "inner", "prune_ratio": 0.0}, []),  # nothing was zeroed
        ({"policy": "inner", "zero_at_start": False}, []),
        ({"policy": "inner", "zero_at_start": False, "every_epochs": 99}, []),  # the one mask of the end
    ],
)
def test_a_run_whose_final_mask_is_its_first_is_flagged(tiny_settings, tmp_path: Path, changed: dict[str, Any], flags):
    record = go(tiny_settings("soft_filter_pruning", round_to=1, **changed), tmp_path / "run")
    assert record["ticket"]["flags"] == flags


@pytest.mark.parametrize("is_older", [False, True])
def test_a_resumed_run_is_flagged_too_unless_its_checkpoint_knows_no_first_mask(
    tiny_settings, tmp_path: Path, monkeypatch, is_older: bool
):
    settings, original = tiny_settings("soft_filter_pruning", round_to=1, policy="inner"), loop._train_step

    def dies(state: Any, x: Tensor, y: Tensor) -> None:
        if state.step == 32:
            raise KeyboardInterrupt
        original(state, x, y)

    monkeypatch.setattr(loop, "_train_step", dies)
    if is_older:
        monkeypatch.setattr(ZeroingHooks, "state_dict", lambda self: {})
    with pytest.raises(KeyboardInterrupt):
        go(settings, tmp_path / "run")
    monkeypatch.setattr(loop, "_train_step", original)
    record = go(settings, tmp_path / "run")
    assert record["ticket"]["flags"] == ([] if is_older else STATIC)


def test_linear_layers_are_never_zeroed(tiny_settings, tiny: Path, tmp_path: Path):
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = channel_groups(net, torch.zeros(2, 1, 2, 2))
    zero_filters_(net, filter_mask(SoftFilterPruning(round_to=1), net, groups), groups)
    assert len(zero_filters(net[0].weight)) == 2 and not zero_filters(net[3].weight)
    # Units that no score reaches stay, and the ratio leaves them out.
    head = "self.head = nn.Linear(16, num_classes)"
    deeper = "self.head = nn.Sequential(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, num_classes))"
    tiny.write_text(tiny.read_text().replace(head, deeper))
    record = go(tiny_settings("soft_filter_pruning", round_to=1, policy="tie"), tmp_path / "run")
    assert record["ticket"]["realised_ratio"] == 0.5
    assert record["ticket"]["flags"][1:] == ["10 of 38 units have no score: they stay, and the ratio leaves them out"]


def test_between_zeroings_lies_the_period_that_is_asked_for(tiny_settings, tmp_path: Path, watched):
    settings = tiny_settings("soft_filter_pruning", round_to=1, every_epochs=5, zero_at_start=False)
    go(settings, tmp_path / "run")
    assert [step for step, zeros in watched.items() if zeros["stem.0"]] == [25, 50, 60]


def test_the_small_network_is_the_trained_one_with_the_norms_of_zero_filters_at_zero(
    tiny_settings, tiny, tmp_path: Path
):
    from earlybird.runs.folder import load_network

    record = go(tiny_settings("soft_filter_pruning", round_to=1), tmp_path / "run")
    small, spec = load_network(tmp_path / "run", trusted=[f"{tiny}:network"])
    ticket = Ticket.load(tmp_path / "run" / "ticket.safetensors")
    dense = spec.build(0)
    dense.load_state_dict(dict(ticket.weights))
    for name in ("stem", "left", "right"):
        weight = dense.get_submodule(f"{name}.0").weight
        assert zero_filters(weight) == [int(i) for i in (~ticket.mask[f"{name}.1"]).nonzero()]
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(small.eval()(x), masked(dense, ticket.mask).eval()(x), rtol=1e-4, atol=1e-5)
    assert record["ticket"]["rule"] == "soft_filter_pruning"
    assert record["ticket"]["step"] == record["resolved"]["total_steps"]


def test_accuracy_is_reported_before_and_after_the_cut_and_both_readings_are_charged(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("soft_filter_pruning", round_to=1), tmp_path / "run")
    assert record["uncut_test"]["samples"] == record["test"]["samples"] == 30
    assert record["uncut_test"]["loss"] != record["test"]["loss"]  # the norms still shifted
    phases = record["cost"]["phases"]
    assert list(phases) == ["search", "slim", "evaluate"]
    assert phases["search"]["images"] == 12 * 90
    assert phases["evaluate"]["macs"] == 30 * (record["dense"]["macs"] + record["final"]["macs"])


def test_tied_convs_lose_their_filters_together_under_tie_and_each_its_own_under_select(tiny_settings, tmp_path: Path):
    for policy in ("tie", "select"):
        go(tiny_settings("soft_filter_pruning", round_to=1, policy=policy), tmp_path / policy)
    tie, select = (Ticket.load(tmp_path / policy / "ticket.safetensors").mask for policy in ("tie", "select"))
    assert torch.equal(tie["left.1"], tie["right.1"])
    assert not torch.equal(select["left.1"], select["right.1"])


def test_a_unit_is_ranked_by_the_mean_norm_of_its_filters():
    units = torch.arange(2)
    groups = ChannelGroups({"a": units, "b": units})
    net = nn.ModuleDict({"a": nn.Conv1d(1, 2, 1), "b": nn.Conv1d(1, 2, 1)})
    net["a"].weight.data, net["b"].weight.data = torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[[5.0]], [[1.0]]])
    assert {name: score.tolist() for name, score in filter_l2(net).items()} == {"a": [1.0, 4.0], "b": [5.0, 1.0]}
    mask = filter_mask(SoftFilterPruning(round_to=1), net, groups)
    assert mask["a"].tolist() == [True, False]  # means 3 and 2.5


@pytest.mark.parametrize("field", ["every_epochs", "min_channels", "round_to"])
def test_a_setting_out_of_range_names_itself(field):
    with pytest.raises(ConfigError, match=rf"method\.{field} is 0; give an integer >= 1"):
        SoftFilterPruning(**{field: 0})
