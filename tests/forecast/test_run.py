"""Forecasts of a small network: widths from everywhere they may come from, both ends of what is not known, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from earlybird.cost import PlannedData
from earlybird.data.images import DataSizes
from earlybird.errors import ConfigError, RunFolderError, SlimError
from earlybird.forecast.facts import PAPER_METHODS, Prices, forecast_facts, planned_methods
from earlybird.forecast.run import Networks, Scenario, drawn_by, networks_of, settings_of_run, sizes_of_run
from earlybird.runs.folder import NetworkSpec
from earlybird.runs.inputs import network_spec
from earlybird.runs.run import run
from earlybird.settings.run import ModelConfig, RunConfig

VGG = NetworkSpec("vgg11", num_classes=10, in_channels=3, image_size=32, width=0.25)
DATA = PlannedData(train_images=1000, test_images=100, batch_size=50)


def plan(**more) -> Scenario:
    return Scenario(**{"spec": VGG, "data": DATA, "epochs": 10.0, "prune_ratio": 0.5, "round_to": 1} | more)


def facts_of(scenario: Scenario, names: tuple[str, ...] = ("dense", "early_bird")) -> dict:
    return forecast_facts(scenario, networks_of(scenario), planned_methods(names, scenario))


@pytest.fixture(scope="module")
def bracketed() -> dict:
    return facts_of(plan())


def test_unknown_widths_and_draw_are_bracketed(bracketed):
    slim = bracketed["slim"]
    least, uniform, most = (network["macs_ratio"] for network in slim.values())
    assert list(slim) == ["dearest channels removed first", "uniform", "cheapest channels removed first"]
    assert least < uniform == pytest.approx(0.25, abs=0.03) and uniform < most < 1
    assert all(network["realised_ratio"] == pytest.approx(0.5, abs=0.01) for network in slim.values())
    cases = bracketed["methods"]["early_bird"]["cases"]
    assert list(cases) == ["least", "most"]
    first = 6 * 5  # of the 200 steps: the sixth of 40 draws
    assert cases["least"]["epochs"] == {"dense": first / 20, "slim": (200 - first) / 20}
    assert cases["most"]["epochs"] == {"dense": 10, "slim": 0}
    assert cases["least"]["macs_ratio"] < 0.3 < 0.99 < cases["most"]["macs_ratio"] <= 1
    assert bracketed["equal_cost"] is None


def test_no_ranking_keeps_less_or_more_than_the_bracket(bracketed):
    import torch

    from earlybird.core import draw_mask
    from earlybird.cost import count_cost
    from earlybird.slimming import channel_groups, slim

    least, _, most = (network["macs"] for network in bracketed["slim"].values())
    dense, example = VGG.build(0), torch.randn(2, 3, 32, 32)
    groups = channel_groups(dense, example)
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        # Rankings that favour some layers: where a trained one may land.
        scores = {
            n: torch.rand(1, generator=draw) + torch.rand(len(u), generator=draw) for n, u in groups.unit_of.items()
        }
        small = slim(dense, draw_mask(scores, 0.5, groups), example, groups, check=False)
        assert least < count_cost(small, (3, 32, 32)).macs < most


def test_known_widths_and_draw_give_one_cost():
    facts = facts_of(plan(widths="uniform", ticket_epoch=2.0))
    case = facts["methods"]["early_bird"]["cases"]["planned"]
    dense, slim = facts["dense"]["train_macs"], facts["slim"]["uniform"]["train_macs"]
    tested = 100 * facts["slim"]["uniform"]["macs"]
    assert case["macs"] == 2 * 1000 * dense + 8 * 1000 * slim + tested
    assert facts["methods"]["dense"]["cases"]["planned"]["macs_ratio"] == 1
    half_a_step = 0.5 / DATA.steps_per_epoch
    assert facts["equal_cost"]["dense_shorter"] == pytest.approx(2 + 8 * slim / dense, abs=half_a_step)
    assert facts["equal_cost"]["scratch_longer"] == pytest.approx(10 * dense / slim, abs=half_a_step)
    assert case["estimated_joules"] > 0 and case["bit_operations"] == 1024 * case["macs"]
    json.dumps(facts)


def test_precision_changes_widths_and_estimate_but_no_count():
    single, half = (facts_of(plan(widths="uniform", ticket_epoch=2.0, precision=p)) for p in ("fp32", "bf16"))
    a, b = (facts["methods"]["dense"]["cases"]["planned"] for facts in (single, half))
    assert a["macs"] == b["macs"] and (set(a["macs_by_width"]), set(b["macs_by_width"])) == ({"32x32"}, {"16x16"})
    assert b["estimated_joules"] < a["estimated_joules"]


def test_methods_can_be_chosen_and_unknown_ones_are_refused():
    scenario = plan(widths="uniform", prune_ratio=0.3)
    assert list(planned_methods((), scenario)) == list(PAPER_METHODS)
    chosen = planned_methods(["snip", "lottery_ticket:rounds=2"], scenario)
    assert (chosen["snip"].prune_ratio, chosen["lottery_ticket:rounds=2"].rounds) == (0.3, 2)
    with pytest.raises(ConfigError, match=r"method.name is 'magic'; give one of early_bird, dense"):
        planned_methods(["magic"], scenario)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run of a VGG11 on noise; `digits` would need scikit-learn."""
    source = tmp_path_factory.mktemp("code") / "noise.py"
    source.write_text(
        "import torch\n"
        "from earlybird.forecast.calibration import noise_bundle\n"
        "def data():\n    return noise_bundle((3, 32, 32), 10, 200)\n"
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {
        "model": {"name": "vgg11", "width": 0.125},
        "data": {"name": f"{source}:data"},
        "method": {"name": "early_bird", "round_to": 1, "epsilon": 1.0, "min_draw_steps": 1},  # fires at the minimum
        "training": {"epochs": 4, "batch_size": 50, "lr": 0.01, "precision": "fp32"},
    }
    run(RunConfig.from_dict(settings), folder, quiet=True)
    return folder


def scenario_of(folder: Path, **more) -> Scenario:
    record = json.loads((folder / "record.json").read_text())
    known, sizes = settings_of_run(record), sizes_of_run(record)
    assert sizes == DataSizes((3, 32, 32), 10, train_images=200, val_images=0, test_images=1000)
    spec = network_spec(ModelConfig("vgg11", 0.125), sizes)
    data = PlannedData(sizes.train_images, sizes.test_images, known["batch_size"], sizes.val_images)
    values = {"widths": str(folder), "ticket_epoch": drawn_by(str(folder)).ticket_epoch}
    return Scenario(spec, data, known["epochs"], known["ratio"], known["precision"], **values | more)


def test_the_plan_of_a_finished_run_counts_what_the_run_counted(finished):
    record = json.loads((finished / "record.json").read_text())
    facts = facts_of(scenario_of(finished))
    assert facts["slim"]["widths of run"]["macs"] == record["final"]["macs"]
    case, total = facts["methods"]["early_bird"]["cases"]["planned"], record["cost"]["total"]
    for key in ("macs", "macs_by_width", "traffic_bytes"):
        assert case[key] == total[key], key
    assert case["paper_flops"] == pytest.approx(total["paper_flops"])
    assert case["estimated_joules"] == pytest.approx(record["energy"]["estimated"]["joules"])
    assert facts["methods"]["early_bird"]["cases"]["planned"]["epochs"]["dense"] == drawn_by(str(finished)).ticket_epoch


def test_a_ticket_file_and_a_record_alone_give_the_same_widths(finished, tmp_path):
    whole = networks_macs(networks_of(scenario_of(finished)))
    ticket = finished / "ticket.safetensors"
    assert networks_macs(networks_of(scenario_of(finished, widths=str(ticket)))) == whole
    assert drawn_by(str(ticket)) == drawn_by(str(finished))
    shutil.copy(finished / "record.json", tmp_path)
    assert networks_macs(networks_of(scenario_of(tmp_path))) == whole


def networks_macs(networks: Networks) -> list[int]:
    from earlybird.cost import count_cost

    return [count_cost(model, (3, 32, 32)).macs for model in networks.slim.values()]


def test_widths_of_another_network_are_refused(finished, tmp_path):
    other = NetworkSpec("vgg11", 10, 3, 32, 0.25)
    with pytest.raises(
        RunFolderError, match=r"is of another network \(width 0.125, not 0.25\); leave --model, --width and --data out"
    ):
        networks_of(plan(spec=other, widths=str(finished)))
    with pytest.raises(RunFolderError, match="no finished run in .* give the folder of one"):
        networks_of(plan(widths=str(tmp_path)))
    with pytest.raises(ConfigError, match="--widths is 'nowhere'; give uniform, a run folder or a ticket file"):
        networks_of(plan(widths="nowhere"))


def test_a_network_that_nothing_can_be_cut_from_is_refused(tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))\n"
    )
    with pytest.raises(SlimError, match="nothing can be cut from .*earlybird inspect"):
        networks_of(plan(spec=NetworkSpec(f"{source}:net", 4, 3, 8, 1.0)))


@pytest.mark.parametrize(("name", "value"), [("watts", 0.0), ("per_hour", -1.0)])
def test_impossible_prices_are_refused(name, value):
    with pytest.raises(ConfigError, match="give a number > 0"):
        Prices(**{name: value})
