"""From the flags of `earlybird cost --calibrate` to measured steps on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from earlybird.data import Augment
from earlybird.forecast.calibration import Calibration, calibrate, noise_bundle
from earlybird.forecast.run import Networks, Scenario

# Enough that no turn comes to the end of an epoch, where a checkpoint is written.
IMAGES_IN_BATCHES = 40


def calibrated(
    parsed: argparse.Namespace, scenario: Scenario, networks: Networks, record: dict[str, Any] | None
) -> Calibration:
    """Measure the scenario's dense and slim network, on images of the run that its widths come from, or on noise."""
    from earlybird.energy import find_counter
    from earlybird.settings.training import TrainingSettings
    from earlybird.training.compute import Compute, choose_device

    compute = Compute(choose_device(parsed.device), "bf16" if scenario.precision == "bf16" else "fp32")
    micro_batches = record["config"]["training"].get("micro_batches", 1) if record else 1
    settings = TrainingSettings(batch_size=scenario.data.batch_size, micro_batches=micro_batches)
    images = min(scenario.data.train_images, IMAGES_IN_BATCHES * scenario.data.batch_size)
    augment: Augment = record["resolved"]["augment"] if record else "crop_flip"
    bundle = noise_bundle(scenario.image_shape, scenario.spec.num_classes, images)
    slim = next(iter(networks.slim.values()))
    return calibrate(
        {"dense": networks.dense, "slim": slim}, bundle, settings, compute, augment=augment,
        steps=parsed.calibration_steps, counter=find_counter(compute.device),
    )  # fmt: skip
