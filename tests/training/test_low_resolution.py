"""Smaller images in the first part of a schedule: their sides, their cost, and what cannot count them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from earlybird.cost import MethodPlan, PlannedData, Schedule, SmallerImages, Stage, count_cost, price
from earlybird.errors import ConfigError, ModelError
from earlybird.forecast.grid import smaller_images
from earlybird.forecast.run import Scenario
from earlybird.grids.grid import Block, Grid, nodes_of
from earlybird.methods.pipeline import plan_method
from earlybird.models import build_model
from earlybird.runs.folder import NetworkSpec
from earlybird.runs.record import recorded_schedule
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig, TrainingSettings
from earlybird.training import loop
from earlybird.training.low_resolution import smaller, smaller_side


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def test_sides_are_even_and_images_keep_device_type_and_layout():
    assert [smaller_side(side) for side in (2, 8, 28, 32, 224)] == [2, 6, 20, 24, 168]
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    found = smaller(images)
    assert found.shape == (2, 3, 6, 6) and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(smaller(torch.full((1, 3, 8, 8), 0.5)), torch.full((1, 3, 6, 6), 0.5))


@pytest.mark.parametrize("name", ["vgg16", "preresnet20", "resnet18"])
def test_networks_for_32_pixels_take_24_and_are_the_same_at_32(name: str):
    model = build_model(name, num_classes=10, in_channels=3, image_size=32, width=0.25, seed=0).eval()
    assert model(torch.randn(2, 3, 24, 24)).shape == (2, 10)
    last = "features" if name.startswith("vgg") else "relu" if name.startswith("pre") else None
    if last is not None:
        seen: list[torch.Tensor] = []
        model.pool.register_forward_hook(lambda _, inputs, out: seen.extend([*inputs, out]))
        with torch.no_grad():
            model(torch.randn(2, 3, 32, 32))
        assert torch.allclose(seen[1], seen[0].mean((2, 3), keepdim=True), atol=1e-6)


def macs(side: int, settings: dict[str, Any]) -> int:
    spec = RunConfig.from_dict(settings).model
    model = build_model(spec.name, num_classes=3, in_channels=3, image_size=8, width=1.0, seed=0)
    return count_cost(model, (3, side, side)).train_macs


@pytest.mark.parametrize("kind", ["eager", "captured"])
def test_a_killed_run_ends_with_the_same_bits_and_counts_images_at_their_side(
    tiny_settings, tmp_path: Path, fake, monkeypatch, kind: str
):
    """90 images in 5 steps an epoch, 2 epochs: 3 of 10 steps see 6x6, which are 60 images, and 120 see 8x8."""
    monkeypatch.setattr("earlybird.runs.run.choose_step", lambda s, m, n, compute: replace(compute, step=kind))
    settings = tiny_settings("dense", training={"epochs": 2, "low_resolution": 0.3})
    whole = go(settings, tmp_path / "whole")
    assert fake.captures == (2 if kind == "captured" else 0)  # one for each side
    original, sides = loop._train_step, []

    def counted(state: Any, x: Any, y: Any) -> None:
        original(state, x, y)
        sides.append(state.small_steps)
        if len(sides) == 2:
            raise Killed

    settings["training"]["checkpoint_every"] = 1
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", counted)
        with pytest.raises(Killed):
            go(settings, tmp_path / "killed")
    resumed = go(settings, tmp_path / "killed")
    ends = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    expected = 60 * macs(6, settings) + 120 * macs(8, settings)
    for record in (whole, resumed):
        cost = record["cost"]["phases"]["train"]
        assert (cost["macs"], cost["images"]) == (expected, 180)
    if kind == "eager":
        plain = go(tiny_settings("dense", training={"epochs": 2}), tmp_path / "plain")
        assert plain["cost"]["phases"]["train"]["traffic_bytes"] > whole["cost"]["phases"]["train"]["traffic_bytes"]


def test_a_plan_counts_the_first_steps_at_the_smaller_side():
    """10 steps of 4 images: of a stage from step 2 to 10, step 2 alone is small where 3 of the schedule are."""
    model = build_model("vgg11", num_classes=10, in_channels=3, image_size=32, width=0.125, seed=0)
    dense, small = count_cost(model, (3, 32, 32)), count_cost(model, (3, 24, 24))
    schedule = Schedule(10, PlannedData(20, 0, 4), dense, dense, None, smaller=SmallerImages(3, {"dense": small}))
    plan = MethodPlan((Stage("train", "dense", 10, 2), Stage("retrain", "slim", 10)), "slim")
    assert plan.training(schedule)["train"].macs == 4 * small.train_macs + 28 * dense.train_macs
    assert plan.training(schedule)["retrain"].macs == 40 * dense.train_macs  # not told, so counted whole
    share = small.train_macs / dense.train_macs
    assert [plan.whole_steps(stage, schedule) for stage in plan.stages] == pytest.approx([7 + share, 10])


def test_the_plan_of_a_dry_run_counts_what_a_run_executes(tiny_settings, tmp_path: Path):
    values = {"draw_at": 3, "schedule": "restart", "round_to": 1}
    settings = tiny_settings(training={"epochs": 2, "low_resolution": 0.3}, **values)
    record = go(settings, tmp_path / "run")
    config = RunConfig.from_dict(settings)
    scenario = Scenario(
        NetworkSpec(config.model.name, 3, 3, 8, 1.0), PlannedData(90, 30, 20), 2, 0.5, widths=str(tmp_path / "run")
    )
    schedule = replace(recorded_schedule(record), smaller=smaller_images(scenario, 0.3, 10))
    executed = {name: cost["macs"] for name, cost in record["cost"]["phases"].items() if cost["macs"]}
    _, planned = price(plan_method(config.method, schedule), schedule)
    assert {name: work.macs for name, work in planned.items() if work.macs} == executed
    assert smaller_images(scenario, 0.0, 10) is None


def test_what_counts_whole_images_is_refused(tiny_settings):
    for name, value in (("budget", "time=0.5"), ("budget_macs", 1e9)):
        told = (
            rf"^training.low_resolution contradicts training.{name}, which counts whole images; leave one of them out$"
        )
        with pytest.raises(ConfigError, match=told):
            TrainingSettings(low_resolution=0.3, **{name: value})
    with pytest.raises(ConfigError, match="low_resolution contradicts method uniform, which is matched to a ticket's"):
        RunConfig.from_dict(tiny_settings("uniform", training={"low_resolution": 0.3}))
    grid = Grid({"training": {"low_resolution": 0.3}}, (Block(("dense", "snip")),), {}, ("snip",))
    with pytest.raises(
        ConfigError, match="--equal-cost counts whole images; leave it out, or --training.low_resolution"
    ):
        nodes_of(grid)


def test_a_network_that_takes_no_smaller_images_is_refused_before_it_is_trained(tiny_settings, tiny: Path, tmp_path):
    head, width = "nn.Linear(16, num_classes)", "nn.Linear(16 * 64, num_classes)"
    tiny.write_text(tiny.read_text().replace(head, width).replace("x.mean((2, 3))", "x.flatten(1)"))
    told = r"trains on images of 6 pixels a side: .*cannot take images of shape \(3, 6, 6\).*or give --training.low_res"
    with pytest.raises(ModelError, match=told):
        go(tiny_settings("dense", training={"low_resolution": 0.3}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
