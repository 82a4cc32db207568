from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from earlybird import channel_groups, draw_mask, slim
from earlybird.atomic import sealed_json
from earlybird.core import PolicyChoice, allocate
from earlybird.core.drawing import rank_units
from earlybird.cost import count_cost, layer_table, layer_timing
from earlybird.cost.layer_chains import LayerChain, Side, find_chains
from earlybird.cost.layer_table import measure_layer_table
from earlybird.cost.layer_timing import chain_seconds, interleaved_seconds, layer_seconds, placed
from earlybird.cost.operations import MacCounter
from earlybird.errors import ModelError
from earlybird.models import build_model


def macs_as_seconds(work: Callable[[], object]) -> float:
    """A clock that is never disturbed: 1.1 seconds for each multiply-accumulate, and a hundredth for the rest."""
    with MacCounter() as counter:
        work()
    return 1.1 * counter.macs + 0.01


@pytest.fixture(autouse=True)
def one_reading(monkeypatch):
    """A clock that is never disturbed needs no second."""
    monkeypatch.setattr(layer_table, "_LAYER_ROUNDS", 1)
    monkeypatch.setattr(layer_table, "_STEP_ROUNDS", 1)


class Residual(nn.Module):
    """A stem, a stream, one block that reads and writes it, a norm over it, a head."""

    def __init__(self, width: int, block: nn.Module, first_norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width) if first_norm else nn.Identity()
        self.block, self.last = block, nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = torch.relu(self.last(x + self.block(x)))
        return self.head(x.mean((2, 3)))


def conv_norm(read: int, made: int, kernel: int = 3, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(read, made, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(made)]


def chain(width: int) -> nn.Module:
    layers = [*conv_norm(3, width), nn.ReLU(), nn.MaxPool2d(2), *conv_norm(width, 2 * width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *conv_norm(2 * width, width, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(16 * width, 5))


def adds(width: int) -> nn.Module:
    block = nn.Sequential(*conv_norm(width, width + 8), nn.ReLU(), *conv_norm(width + 8, width))
    return Residual(width, block, first_norm=True)


def depthwise(width: int) -> nn.Module:
    wide = [*conv_norm(width, 2 * width, 1), nn.ReLU6(), *conv_norm(2 * width, 2 * width, groups=2 * width), nn.ReLU6()]
    return Residual(width, nn.Sequential(*wide, *conv_norm(2 * width, width, 1)), first_norm=True)


def stream(width: int) -> nn.Module:
    inner = [
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *conv_norm(width, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
    ]
    return Residual(width, nn.Sequential(*inner), first_norm=False)


Build = Callable[[int], nn.Module]
REAL = {
    "vgg11": ("vgg11", 0.25, "auto"),
    "resnet18": ("resnet18", 0.25, "tie"),
    "preresnet20": ("preresnet20", 0.5, "select"),
    "mobilenet": ("torchvision:mobilenet_v2", 1.0, "auto"),
}


def check_prediction(model: nn.Module, images: Tensor, policy: PolicyChoice) -> None:
    """Where seconds are multiply-accumulates, a prediction is their count in the network that is really cut."""
    groups = channel_groups(model, images, policy)
    table = measure_layer_table(model, groups, images, timer=macs_as_seconds, passes=1)
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(units.numel(), generator=generator) for name, units in groups.unit_of.items()}
    mask = draw_mask(scores, 0.4, groups, round_to=8)
    small = slim(model, mask, images, groups)
    counted = [1.1 * len(images) * count_cost(net, tuple(images.shape[1:])).train_macs for net in (model, small)]
    assert counted[1] < 0.9 * counted[0]
    assert table.predict([block.size for block in groups.blocks]) == pytest.approx(counted[0])
    assert table.predict(mask) == pytest.approx(counted[1], rel=1e-5)
    assert table.factor == pytest.approx(1.0)
    assert table.cost.constant_seconds == pytest.approx(0.0, abs=1e-5 * counted[0])


@pytest.mark.parametrize(("build", "policy"), [(chain, "auto"), (adds, "tie"), (depthwise, "tie"), (stream, "select")])
def test_a_step_is_predicted_to_the_last_operation_where_seconds_are_operations(build: Build, policy: PolicyChoice):
    check_prediction(build(16), torch.randn(2, 3, 8, 8), policy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REAL)
def test_a_step_of_a_real_network_is_predicted_likewise(kind: str):
    name, width, policy = REAL[kind]
    check_prediction(build_model(name, num_classes=10, width=width), torch.randn(2, 3, 32, 32), policy)


@pytest.mark.parametrize("build", [chain, pytest.param(adds, marks=pytest.mark.slow)])
def test_an_allocated_network_costs_what_the_budget_says(build: Build):
    model, images = build(32), torch.randn(2, 3, 8, 8)
    groups = channel_groups(model, images, "tie")
    table = measure_layer_table(model, groups, images, timer=macs_as_seconds, passes=1)
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(units.numel(), generator=generator) for name, units in groups.unit_of.items()}
    ranking, dense = rank_units(scores, groups), count_cost(model, (3, 8, 8)).train_macs
    for allocation, least in {"time": 0.9, "uniform": 0.7}.items():
        for share in (0.5, 0.7):
            budget = share * table.dense_seconds
            mask = allocate(ranking, table.cost, budget, allocation=allocation, round_to=4)
            small = slim(model, mask, images, groups, check=False)
            assert least * share < count_cost(small, (3, 8, 8)).train_macs / dense <= share * 1.0001


def test_chains_are_a_layer_its_norm_and_what_follows_and_equal_ones_share_a_key():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    images = torch.randn(2, 3, 8, 8)
    groups = channel_groups(net, images)
    chains = find_chains(net.train(), net, groups, images)
    assert [chain.name for chain in chains] == ["0", "4", "7", "11"]
    assert [len(chain.modules) for chain in chains] == [4, 3, 3, 1]
    assert [chain.needs_gradient for chain in chains] == [False, True, True, True]
    assert chains[1].key == chains[2].key != chains[0].key
    assert chains[3].reads == Side(128, {2: 16.0}, 128)  # 4 x 4 pixels of each channel
    assert chains[3].widths([8, 8, 3]) == (48, 4)
    assert chains[0].built(3, 5)(images).shape == (2, 5, 4, 4)
    assert not net[0]._forward_hooks


def test_a_norm_on_a_stream_gathers_only_where_something_was_cut():
    model, images = stream(24).train(), torch.randn(2, 3, 8, 8)
    groups = channel_groups(model, images, "select")
    small = slim(model, groups.mask_of(torch.arange(groups.num_units) % 2 == 0), images, groups)
    chain_of = {chain.name: chain for chain in find_chains(model, small, groups, images)}
    norm = chain_of["block.0"]
    assert norm.selects
    assert not chain_of["block.2"].selects
    assert [type(norm.built(24, made)[0]).__name__ for made in (8, 24)] == ["SelectBatchNorm2d", "BatchNorm2d"]
    assert norm.built(24, 8)(torch.randn(2, 24, 4, 4)).shape == (2, 8, 4, 4)


def test_odd_multiples_that_cost_more_are_predicted_too(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 4, 1))
    images = torch.randn(2, 3, 4, 4)

    def seconds(made: int) -> float:
        return made * (1.3 if made // 8 % 2 else 1.0)

    def of_chain(chain: LayerChain, pairs: Sequence[tuple[int, int]], *_: object) -> list[float]:
        return [seconds(made) if chain.name == "0" else 1e-3 for _, made in pairs]

    monkeypatch.setattr(layer_table, "chain_seconds", of_chain)
    monkeypatch.setattr(layer_table, "interleaved_seconds", lambda *_: [64.0, 32.0, 16.0])
    table = measure_layer_table(net, channel_groups(net, images), images, passes=1)
    for made in (8, 16, 24, 32, 40, 48, 56, 64):
        assert table.predict([made]) == pytest.approx(seconds(made), rel=1e-3)
    assert table.predict([28]) == pytest.approx((seconds(24) + seconds(32)) / 2, rel=1e-3)


def test_a_side_is_measured_at_a_multiple_a_quarter_a_half_three_quarters_and_whole():
    assert Side(128, {0: 1.0}, 128).measured_widths(8) == [8, 32, 64, 96, 128]
    assert Side(20, {0: 1.0}, 18).measured_widths(8) == [10, 18, 20]  # two channels always stay
    assert Side(6, {0: 1.0}, 6).measured_widths(8) == [6]
    assert Side(256, {0: 4.0}, 256).measured_widths(8) == [32, 64, 128, 192, 256]
    assert Side(10).measured_widths(8) == Side(10).all_widths(8) == [10]
    assert Side(10).odd_widths(8) == Side(24, {0: 1.0}, 24).odd_widths(8) == []
    assert Side(128, {0: 1.0}, 128).odd_widths(8) == [40, 72, 104]
    assert Side(64, {0: 1.0}, 64).odd_widths(8) == [24, 40, 56]
    assert Side(34, {0: 1.0}, 32).all_widths(8) == [10, 18, 26, 34]
    assert Side(64, {0: 1.0}, 64).measured_widths(8, also_next_to_all=True) == [8, 16, 32, 48, 56, 64]
    assert Side(8, {0: 1.0}, 8).measured_widths(8, also_next_to_all=True) == [7, 8]


def test_readings_take_turns_and_short_works_are_repeated():
    calls: list[str] = []
    clock = {"a": 0.001, "b": 1.0}
    disturbance = iter([9.0, 9.0, 0.5, 0.0, 0.0, 0.25])

    def timer(work: Callable[[], object]) -> float:
        start = len(calls)
        work()
        return sum(clock[name] for name in calls[start:]) + next(disturbance) * (len(calls) > 4)

    works: dict[object, Callable[[], object]] = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    assert interleaved_seconds(works, timer, 2) == pytest.approx([0.001, 1.0])
    assert "".join(calls) == "aabb" + "aaab" * 2


def test_a_cached_table_is_read_again_and_a_changed_one_refused(tmp_path: Path):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
    images = torch.randn(2, 3, 8, 8)
    groups = channel_groups(net, images)
    first = measure_layer_table(net, groups, images, cache=tmp_path, timer=macs_as_seconds, passes=1)

    def never(work: Callable[[], object]) -> float:
        raise AssertionError("measured again")

    again = measure_layer_table(net, groups, images, cache=tmp_path, timer=never)
    assert again.predict([8]) == first.predict([8])
    with pytest.raises(AssertionError, match="measured again"):  # other images, other seconds
        measure_layer_table(net, groups, torch.randn(3, 3, 8, 8), cache=tmp_path, timer=never)
    (file,) = tmp_path.glob("layer-table-*.json")
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"steps": [2 * values["steps"][0], *values["steps"][1:]]}))
    with pytest.raises(ModelError, match=r"its seal does not fit.*; delete it to measure the layers again"):
        measure_layer_table(net, groups, images, cache=tmp_path)
    del values["seal"]
    name = next(iter(values["layers"]))
    for changed, told in [
        ({"key": {}}, "holds no layer table of this network and machine"),
        ({"layers": {}}, "holds no layer table of this network"),
        ({"steps": [1.0, -1.0, 1.0]}, "holds no layer table of this network"),
        ({"layers": values["layers"] | {name: [True]}}, "holds seconds that are no positive numbers"),
    ]:
        file.write_bytes(sealed_json(values | changed))
        with pytest.raises(ModelError, match=told):
            measure_layer_table(net, groups, images, cache=tmp_path)


def test_steps_of_a_loop_of_ones_own_are_fitted_and_impossible_ones_refused():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
    images = torch.randn(2, 3, 8, 8)
    table = measure_layer_table(net, channel_groups(net, images), images, timer=macs_as_seconds, passes=1)
    assert table.slim_counts == ((8,), (8,))
    slower = [1.2 * seconds + 5 for seconds in table.slim_seconds]
    own = table.fitted(1.2 * table.dense_seconds + 5, slower)
    assert own.predict([16]) == pytest.approx(1.2 * table.dense_seconds + 5)
    assert own.predict([8]) == pytest.approx(slower[0])
    assert own.factor == pytest.approx(1.2 * table.factor)
    # Two that disagree are both missed, the smaller by less.
    between = table.fitted(table.dense_seconds, [table.slim_seconds[0], 0.8 * table.slim_seconds[1]])
    assert 0.8 * table.slim_seconds[1] < between.predict([8]) < 0.9 * table.slim_seconds[0]
    with pytest.raises(ModelError, match=r"do not fit layers of .*\(factor 0.00\); measure again on an idle machine"):
        table.fitted(1.0, [1.0, 1.0])


def test_a_width_is_slow_where_the_next_multiple_costs_less(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
    images = torch.randn(2, 3, 8, 8)
    groups = channel_groups(net, images)

    def odd_is_slow(chain, widths, device, timer, autocast, rounds):
        return [read + made + 100 * (made % 8 == 5) for read, made in widths]

    monkeypatch.setattr(layer_timing, "chain_seconds", odd_is_slow)
    mask = groups.mask_of(torch.arange(16) < 5)
    first, second = layer_seconds(net, mask, groups, images)
    assert (first.name, first.dense_widths, first.slim_widths) == ("0", (3, 16), (3, 5))
    assert (first.dense, first.slim, first.rounded, first.is_slow) == (19, 108, 11, True)
    assert (second.slim_widths, second.dense, second.slim, second.rounded) == ((5, 4), 20, 9, 12)
    assert not second.is_slow
    whole = layer_seconds(net, groups.mask_of(torch.arange(16) < 8), groups, images)
    assert [row.rounded for row in whole] == [None, None]


def test_a_chain_is_really_timed():
    net = nn.Sequential(nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 4, 3))
    images = torch.randn(4, 3, 24, 24).contiguous(memory_format=torch.channels_last)
    dense = placed(net, images)
    (first, _) = find_chains(dense, dense, channel_groups(net, images), images)
    assert first.is_channels_last
    narrow, wide = chain_seconds(first, [(3, 1), (3, 64)], images.device, layer_timing.work_seconds(images.device))
    assert 0 < narrow < wide


def test_images_that_a_network_cannot_take_are_named():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    groups = channel_groups(net, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match=r"Sequential does not run on images \[2, 3, 2, 2\]"):
        find_chains(net, net, groups, torch.zeros(2, 3, 2, 2))
