"""Seconds and joules of a planned run, from a few dozen measured steps on the machine at hand.

The steps are those of the real training loop: batches with augmentation, forward, backward, penalty, optimizer. The
dense and the slim network take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from earlybird.copying import copied
from earlybird.cost import MethodPlan, ModelCost, PhaseMeter, Schedule, Work
from earlybird.data import Augment, Batches, DataBundle, MemoryImages, eval_batches, train_batches
from earlybird.data.images import subset
from earlybird.energy import EnergyCounter, NoCounter, most_others
from earlybird.errors import ConfigError, require
from earlybird.runs.record import device_facts
from earlybird.runs.record_file import Record
from earlybird.settings.method import EarlyBirdTraining
from earlybird.settings.run import RunConfig, TrainingSettings
from earlybird.training.compute import Compute, evaluate
from earlybird.training.session import Session
from earlybird.training.step_choice import choose_step
from earlybird.training.timing import Seconds, median_seconds, timed_steps, timing_session

Network = Literal["dense", "slim"]
_Modules = Mapping[Network, nn.Module]

ROUNDS = 5
TEST_IMAGES = 1000
SECONDS = 20.0


@dataclass(frozen=True)
class Calibration:
    """Measured seconds of a training step and of a tested image.

    Attributes:
        device: where, with how many threads and at what precision, in words.
        machine: the same as a record has it.
        measured_steps: steps of each network behind the medians; 0 where finished runs told.
        energy_method: the counter, or why no joules were measured.
        step: network -> one training step.
        tested_image: network -> one image of an evaluation.
    """

    device: str
    machine: Mapping[str, Any]
    measured_steps: int
    energy_method: str
    step: Mapping[str, Seconds]
    tested_image: Mapping[str, Seconds]

    def predict(self, plan: MethodPlan, schedule: Schedule) -> Seconds:
        """Time of a plan: training and one evaluation; drawing, cutting and checkpoints are small and left out."""
        data = schedule.data
        tests = (self._of(self.tested_image, plan, schedule, network) for network in plan.tested)
        total = sum((image.times(data.test_images) for image in tests), Seconds(0.0, 0.0, 0.0))
        for stage in plan.stages:
            evaluated = stage.validations(data) * data.val_images + stage.scored_images
            steps = plan.whole_steps(stage, schedule)
            total += self._of(self.step, plan, schedule, stage.network).times(steps)
            total += self._of(self.tested_image, plan, schedule, stage.network).times(evaluated)
        return total

    def _of(self, measured: Mapping[str, Seconds], plan: MethodPlan, schedule: Schedule, network: str) -> Seconds:
        """Measured seconds of a network; of one that a plan has of its own, between dense and slim by its MACs."""
        if network in measured:
            return measured[network]
        dense, slim = schedule.dense.train_macs, schedule.slim.train_macs
        share = (plan.networks[network].train_macs - slim) / (dense - slim) if dense != slim else 1.0
        return measured["dense"].times(share) + measured["slim"].times(1 - share)


def calibrate(
    networks: _Modules,
    bundle: DataBundle,
    settings: TrainingSettings,
    compute: Compute,
    *,
    augment: Augment,
    workers: int = 0,
    steps: int = 60,
    seconds: float = SECONDS,
    counter: EnergyCounter | None = None,
) -> Calibration:
    """Measure training steps and evaluation of both networks, and say so on stderr.

    Args:
        networks: "dense" and "slim"; copies are trained.
        bundle: images to train on: the run's own, or noise of the same shape.
        settings: batch size, precision-independent settings and threads as the run will have them.
        augment: what is done to the images.
        workers: data processes, for sets too large for memory.
        steps: measured steps of each network, in `ROUNDS` turns.
        seconds: time for all of it; where it does not suffice steps are fewer, but one at least of each network.
        counter: measures joules; by default none does.

    Raises:
        ConfigError: fewer than `ROUNDS` steps are asked for, or the images do not make one batch.
    """
    require("calibration steps", steps, steps >= ROUNDS, f"an integer >= {ROUNDS}")
    counter = counter or NoCounter("none was asked for")
    shape = (settings.batch_size, bundle.in_channels, bundle.image_size, bundle.image_size)
    compute = choose_step(settings, networks["dense"], shape, compute)
    place: dict[str, Any] = {"device": compute.device, "workers": workers, "memory_format": compute.memory_format}
    train = train_batches(bundle, batch_size=settings.batch_size, seed=settings.seed, augment=augment, **place)
    sizes = [min(images, len(bundle.test)) for images in (TEST_IMAGES, settings.batch_size)]
    splits = [replace(bundle, test=subset(bundle.test, torch.arange(images))) for images in sizes]
    tests = [eval_batches(split, "test", batch_size=settings.eval_batch_size, **place) for split in splits]
    placed = {name: compute.place(copied(networks[name])) for name in get_args(Network)}
    each = math.ceil(steps / ROUNDS)
    print(f"measuring training steps here, for about {seconds:.0f} s at most", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        session = timing_session(train, settings, compute, Path(folder), each)
        measured, tested, others = _in_turns(session, placed, tests, each, seconds, counter)
    return Calibration(
        device=f"{compute.device}, {torch.get_num_threads()} threads, {compute.precision}",
        machine=device_facts(compute.device),
        measured_steps=min(map(len, measured.values())),
        energy_method="not measured (others were on the card)" if others else counter.method,
        step={name: median_seconds(pieces) for name, pieces in measured.items()},
        tested_image={name: median_seconds(pieces) for name, pieces in tested.items()},
    )


def _in_turns(
    session: Session, models: _Modules, tests: Sequence[Batches], each: int, seconds: float, counter: EnergyCounter
) -> tuple[dict[Network, list[Seconds]], dict[Network, list[Seconds]], int | None]:
    """Training steps and tested images of the networks in turns, and most other processes on the GPU meanwhile.

    Few images where there was no time for all steps.
    """
    measured: dict[Network, list[Seconds]] = {name: [] for name in models}
    tested: dict[Network, list[Seconds]] = {name: [] for name in models}
    others: list[int | None] = []
    end, turns = time.monotonic() + seconds, ROUNDS * list(models.items())
    for turn, (name, model) in enumerate(turns):
        if (left := end - time.monotonic()) <= 0 and turn >= len(models):
            break
        timed = timed_steps(session, model, each, time.monotonic() + left / (len(turns) - turn), counter)
        measured[name] += timed
        others.append(counter.others)
        tested[name].append(_evaluation(model, tests[len(timed) < each], session.compute, counter))
        others.append(counter.others)
    return measured, tested, most_others(*others)


def recorded(
    records: Iterable[Record], config: RunConfig, compute: Compute, costs: Mapping[Network, ModelCost], ratio: float
) -> Calibration | None:
    """Calibration from finished runs of this machine, network, data and batch; None without one.

    Seconds for each multiply-accumulate of a dense training and, where one of this ratio is there, of a retraining,
    times those of the networks.
    """
    machine, wanted = device_facts(compute.device), config.to_dict()
    keys = [(section, key) for section in ("model", "data") for key in wanted[section]]
    keys += [("training", "batch_size"), ("training", "micro_batches")]
    found: dict[str, list[tuple[str, Seconds]]] = {"dense": [], "slim": [], "evaluate": []}
    for record in records:
        theirs, method = record["config"], record["config"]["method"]
        alike = all(theirs[section].get(key) == wanted[section][key] for section, key in keys)
        # Older records lack the form of the step; on a GPU, where it matters most, they tell nothing of today's.
        alike &= theirs["training"].get("step", "auto") == config.training.step
        alike &= "step" in record["resolved"] or compute.device.type == "cpu"
        if not alike or record["device"] != machine or record["resolved"].get("precision") != compute.precision:
            continue
        for phase, cost in record["cost"]["phases"].items():
            kind = {"train": "dense", "search": "dense", "retrain": "slim", "evaluate": "evaluate"}.get(phase)
            other = kind == "slim" and method.get("prune_ratio") != ratio
            if kind and cost["macs"] and not other and method["name"] in ("dense", EarlyBirdTraining.name):
                rate = Seconds(cost["cpu_seconds"], cost["wall_seconds"]).times(1 / cost["macs"])
                found[kind].append((record["run_id"], rate))
    if not (found["dense"] and found["evaluate"]):
        return None
    rates = {kind: median_seconds([rate for _, rate in runs or found["dense"]]) for kind, runs in found.items()}
    runs = ", ".join(sorted({run for kind in found.values() for run, _ in kind}))
    return Calibration(
        device=f"{compute.device}, {torch.get_num_threads()} threads, {compute.precision}, as recorded by {runs}",
        machine=machine,
        measured_steps=0,
        energy_method="not measured",
        step={name: rates[name].times(cost.train_macs * config.training.batch_size) for name, cost in costs.items()},
        tested_image={name: rates["evaluate"].times(cost.macs) for name, cost in costs.items()},
    )


def noise_bundle(image_shape: tuple[int, int, int], num_classes: int, images: int) -> DataBundle:
    """Random images in memory: their content costs nothing and tells nothing.

    Raises:
        ConfigError: the images are not square.
    """
    channels, height, width = image_shape
    if height != width:
        raise ConfigError(f"images of {height}x{width} cannot be calibrated on; give square ones")
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> MemoryImages:
        pixels = torch.randint(0, 256, (count, *image_shape), dtype=torch.uint8, generator=draw)
        return MemoryImages(pixels, torch.arange(count) % num_classes)

    return DataBundle(
        name="noise", num_classes=num_classes, in_channels=channels, image_size=height, mean=(0.5,) * channels,
        std=(0.25,) * channels, train=split(images), val=None, test=split(TEST_IMAGES),
        class_names=tuple(map(str, range(num_classes))),
    )  # fmt: skip


def _evaluation(model: nn.Module, test: Batches, compute: Compute, counter: EnergyCounter) -> Seconds:
    with PhaseMeter("evaluate", compute.device, counter) as meter:
        images = evaluate(model, test, compute).samples
    counter.stop()
    took = meter.cost(Work(images))
    joules = None if took.energy_shared_with else took.joules
    return Seconds(took.cpu_seconds, took.wall_seconds, joules).times(1 / images)
