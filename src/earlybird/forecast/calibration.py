"""Seconds and joules of a planned run, from a few dozen measured steps on the machine at hand.

The steps are those of the real training loop: batches with augmentation, forward, backward, penalty, optimizer. The
dense and the slim network take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from earlybird.copying import copied
from earlybird.core import bn_l1_subgradient_
from earlybird.cost import MethodPlan, ModelCost, PhaseMeter, Schedule, Work, read_clocks
from earlybird.data import Augment, Batches, DataBundle, MemoryImages, eval_batches, train_batches
from earlybird.data.images import subset
from earlybird.energy import EnergyCounter, NoCounter
from earlybird.errors import ConfigError, require
from earlybird.runs.record import device_facts
from earlybird.settings.run import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute, evaluate
from earlybird.training.loop import fit
from earlybird.training.session import Journal, Progress, Session
from earlybird.training.state import FitState, Hooks, Span

Network = Literal["dense", "slim"]

WARM_UP_STEPS = 2
ROUNDS = 5
TEST_IMAGES = 1000
_PENALTY = 1e-4


@dataclass(frozen=True)
class Seconds:
    """Time of a piece of work: of all threads together, and by the clock; joules where a counter measured them."""

    cpu: float
    wall: float
    joules: float | None = None

    def times(self, count: float) -> Seconds:
        """The same `count` times over."""
        return Seconds(self.cpu * count, self.wall * count, None if self.joules is None else self.joules * count)

    def __add__(self, other: Seconds) -> Seconds:
        joules = None if self.joules is None or other.joules is None else self.joules + other.joules
        return Seconds(self.cpu + other.cpu, self.wall + other.wall, joules)


@dataclass(frozen=True)
class Calibration:
    """Measured seconds of a training step and of a tested image.

    Attributes:
        device: where, with how many threads and at what precision, in words.
        machine: the same as a record has it.
        measured_steps: steps of each network behind the medians.
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
            total += self._of(self.step, plan, schedule, stage.network).times(stage.steps)
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
    networks: Mapping[Network, nn.Module],
    bundle: DataBundle,
    settings: TrainingSettings,
    compute: Compute,
    *,
    augment: Augment,
    workers: int = 0,
    steps: int = 60,
    counter: EnergyCounter | None = None,
) -> Calibration:
    """Measure training steps and evaluation of both networks.

    Args:
        networks: "dense" and "slim"; copies are trained.
        bundle: images to train on: the run's own, or noise of the same shape.
        settings: batch size, precision-independent settings and threads as the run will have them.
        augment: what is done to the images.
        workers: data processes, for sets too large for memory.
        steps: measured steps of each network, in `ROUNDS` turns.
        counter: measures joules; by default none does.

    Raises:
        ConfigError: fewer than `ROUNDS` steps are asked for, or the images do not make one batch.
    """
    require("calibration steps", steps, steps >= ROUNDS, f"an integer >= {ROUNDS}")
    counter = counter or NoCounter("none was asked for")
    place: dict[str, Any] = {"device": compute.device, "workers": workers, "memory_format": compute.memory_format}
    train = train_batches(bundle, batch_size=settings.batch_size, seed=settings.seed, augment=augment, **place)
    tested_images = subset(bundle.test, torch.arange(min(TEST_IMAGES, len(bundle.test))))
    test = eval_batches(replace(bundle, test=tested_images), "test", batch_size=settings.eval_batch_size, **place)
    placed = {name: compute.place(copied(networks[name])) for name in get_args(Network)}
    each = math.ceil(steps / ROUNDS)
    measured: dict[Network, list[Seconds]] = {name: [] for name in placed}
    tested: dict[Network, list[Seconds]] = {name: [] for name in placed}
    with tempfile.TemporaryDirectory() as folder:
        session = _session(train, settings, compute, Path(folder), each)
        for _ in range(ROUNDS):
            for name, model in placed.items():
                measured[name] += _training_steps(session, model, each, counter)
                tested[name].append(_evaluation(model, test, compute, counter))
    return Calibration(
        device=f"{compute.device}, {torch.get_num_threads()} threads, {compute.precision}",
        machine=device_facts(compute.device),
        measured_steps=each * ROUNDS,
        energy_method=counter.method,
        step={name: _median(pieces) for name, pieces in measured.items()},
        tested_image={name: _median(pieces) for name, pieces in tested.items()},
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


class _StepTimer(Hooks):
    """Penalises as a search does, reads the clocks after every step, and ends the phase after enough of them."""

    def __init__(self, steps: int, counter: EnergyCounter) -> None:
        self.steps, self.counter = steps, counter
        self.clocks: list[tuple[float, float]] = []
        self.joules: float | None = None

    def after_backward(self, model: nn.Module, step: int) -> None:
        """The subgradient, which costs next to nothing."""
        bn_l1_subgradient_(model, _PENALTY)

    def after_step(self, state: FitState) -> bool:
        """Note when the step ended."""
        self.clocks.append(read_clocks(state.session.compute.device))
        if len(self.clocks) == WARM_UP_STEPS:
            self.counter.start()
        if len(self.clocks) < WARM_UP_STEPS + self.steps:
            return False
        self.joules = self.counter.take()
        self.counter.stop()
        return True


def _training_steps(session: Session, model: nn.Module, steps: int, counter: EnergyCounter) -> list[Seconds]:
    timer = _StepTimer(steps, counter)
    # What the steps cost is known; here it is asked for nothing.
    fit(session, model, Span("train", 0, session.total_steps), ModelCost(0, 0, 0, 0.0), hooks=timer)
    joules = None if timer.joules is None else timer.joules / steps
    measured = pairwise(timer.clocks[WARM_UP_STEPS - 1 :])
    return [Seconds(cpu=b[1] - a[1], wall=b[0] - a[0], joules=joules) for a, b in measured]


def _evaluation(model: nn.Module, test: Batches, compute: Compute, counter: EnergyCounter) -> Seconds:
    with PhaseMeter("evaluate", compute.device, counter) as meter:
        images = evaluate(model, test, compute).samples
    took = meter.cost(Work(images))
    return Seconds(took.cpu_seconds, took.wall_seconds, took.joules).times(1 / images)


def _median(pieces: Sequence[Seconds]) -> Seconds:
    joules = [piece.joules for piece in pieces if piece.joules is not None]
    return Seconds(
        cpu=statistics.median(piece.cpu for piece in pieces),
        wall=statistics.median(piece.wall for piece in pieces),
        joules=statistics.fmean(joules) if joules else None,
    )


def _session(train: Batches, settings: TrainingSettings, compute: Compute, folder: Path, steps: int) -> Session:
    epochs = math.ceil((WARM_UP_STEPS + steps) / train.steps_per_epoch)
    # Small steps: on noise large ones might end in numbers that are none.
    settings = replace(settings, lr=1e-4, epochs=epochs, checkpoint_every=0)
    progress = Progress(train.steps_per_epoch, epochs, quiet=True)
    return Session(train, None, settings, compute, Checkpoints(folder), Journal(), progress)
