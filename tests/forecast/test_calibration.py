"""Calibration: what is measured, and how a prediction follows from it."""

from __future__ import annotations

import time

import pytest
import torch

from earlybird.cost import MethodPlan, ModelCost, PlannedData, Schedule, Stage
from earlybird.errors import ConfigError
from earlybird.forecast.calibration import Calibration, calibrate, noise_bundle
from earlybird.methods.pipeline import plan_method
from earlybird.models import build_model
from earlybird.settings.method import EarlyBirdTraining
from earlybird.settings.run import TrainingSettings
from earlybird.training import timing
from earlybird.training.compute import Compute
from earlybird.training.timing import Seconds

CPU = Compute(torch.device("cpu"))


def measured() -> Calibration:
    return Calibration(
        step={"dense": Seconds(2.0, 1.0, 30.0), "slim": Seconds(1.0, 0.5, 10.0)},
        tested_image={"dense": Seconds(0.02, 0.01, 0.2), "slim": Seconds(0.01, 0.005, 0.1)},
        measured_steps=30,
        device="cpu",
        machine={},
        energy_method="fake",
    )


def test_a_prediction_is_steps_times_seconds():
    # 10 epochs of 16 steps, e = 2: 32 dense and 128 slim steps, 100 images tested slim.
    schedule = Schedule(160, PlannedData(1000, 100, 64), network(100), network(40), 32)
    predicted = measured().predict(plan_method(EarlyBirdTraining(), schedule), schedule)
    assert predicted.cpu == pytest.approx(32 * 2 + 128 * 1 + 100 * 0.01)
    assert predicted.wall == pytest.approx(32 * 1 + 128 * 0.5 + 100 * 0.005)
    assert predicted.joules == pytest.approx(32 * 30 + 128 * 10 + 100 * 0.1)


def test_a_network_of_a_plans_own_takes_time_between_dense_and_slim_by_its_macs():
    schedule = Schedule(160, PlannedData(1000, 100, 64), network(100), network(40), 32)
    plan = MethodPlan((Stage("search", "between", 7, validation="none"),), None, networks={"between": network(70)})
    assert measured().predict(plan, schedule) == Seconds(7 * 1.5, 7 * 0.75, 7 * 20.0)


def network(macs: int) -> ModelCost:
    return ModelCost(1, macs, 3 * macs, 2.0 * macs, {"32x32": macs}, {"32x32": 3 * macs})


def test_joules_that_a_part_lacks_are_not_made_up():
    assert (Seconds(1, 1, None) + Seconds(1, 1, 5.0)).joules is None
    assert Seconds(1, 1).times(3) == Seconds(3, 3, None)


def networks():
    dense = build_model("vgg11", num_classes=10, width=0.0625)
    return {"dense": dense, "slim": build_model("vgg11", num_classes=10, width=0.03125)}


def test_each_network_has_the_seconds_of_its_steps_and_the_originals_are_left_alone(clock, monkeypatch):
    nets = networks()

    def lasts(seconds: float):
        def forward(*_) -> None:
            clock.work(seconds / 2)
            clock.sleep(seconds / 2)

        return forward

    for name, seconds in (("dense", 4.0), ("slim", 1.0)):
        nets[name].register_forward_hook(lasts(seconds))
    monkeypatch.setattr(timing, "read_clocks", lambda device: (clock.wall, clock.cpu))
    before = {name: tensor.clone() for name, tensor in nets["dense"].state_dict().items()}
    settings, bundle = TrainingSettings(batch_size=32), noise_bundle((3, 32, 32), 10, 64)
    found = calibrate(nets, bundle, settings, CPU, augment="crop_flip", steps=10, seconds=600)
    assert found.measured_steps == 10
    assert found.step == {"dense": Seconds(cpu=2.0, wall=4.0), "slim": Seconds(cpu=0.5, wall=1.0)}
    # 1000 images in two batches.
    assert found.tested_image["dense"].wall == pytest.approx(2 * 4 / 1000)
    assert found.tested_image["slim"].cpu == pytest.approx(2 * 0.5 / 1000)
    assert "not measured" in found.energy_method
    assert all(torch.equal(tensor, before[name]) for name, tensor in nets["dense"].state_dict().items())


class FakeCounter:
    method, device, notes, idle_watts, pending, others = "fake", "x", (), None, False, 0

    def start(self) -> None:
        pass

    def take(self) -> float:
        return 12.0

    def stop(self) -> None:
        pass


def test_joules_of_a_round_are_shared_among_its_steps():
    settings, bundle = TrainingSettings(batch_size=8), noise_bundle((3, 32, 32), 10, 16)
    found = calibrate(networks(), bundle, settings, CPU, augment="none", steps=10, seconds=600, counter=FakeCounter())
    assert found.step["dense"].joules == pytest.approx(12.0 / 2)  # five rounds of two steps
    assert found.tested_image["slim"].joules == pytest.approx(12.0 / 1000)


def test_joules_of_a_shared_card_are_none_of_a_calibration():
    counter = FakeCounter()
    counter.others = 2
    settings, bundle = TrainingSettings(batch_size=8), noise_bundle((3, 32, 32), 10, 16)
    found = calibrate(networks(), bundle, settings, CPU, augment="none", steps=5, seconds=0, counter=counter)
    assert {found.step["dense"].joules, found.tested_image["slim"].joules} == {None}
    assert found.energy_method == "not measured (others were on the card)"


def test_too_few_steps_and_odd_images_are_refused():
    with pytest.raises(ConfigError, match="calibration steps is 2; give an integer >= 5"):
        calibrate(networks(), noise_bundle((3, 32, 32), 10, 64), TrainingSettings(), CPU, augment="none", steps=2)
    with pytest.raises(ConfigError, match="images of 32x16 cannot be calibrated on"):
        noise_bundle((3, 32, 16), 10, 64)


@pytest.mark.parametrize(("seconds", "fewest", "most"), [(0.0, 1, 1), (0.5, 1, 20)])
def test_a_calibration_ends_in_its_seconds_with_one_step_of_each_network_at_least(seconds, fewest, most, capsys):
    nets = networks()
    for net in nets.values():
        net.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    settings, bundle = TrainingSettings(batch_size=8), noise_bundle((3, 32, 32), 10, 64)
    begun = time.monotonic()
    found = calibrate(nets, bundle, settings, CPU, augment="none", steps=1000, seconds=seconds)
    assert time.monotonic() - begun < seconds + 2.0
    assert fewest <= found.measured_steps <= most
    assert all(0.1 < step.wall < 0.5 for step in found.step.values())
    assert capsys.readouterr().err.startswith("measuring training steps here")
