"""Checks of whole trainings: the loop against the bare step, captured against eager, killed against left alone."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from step_forms import SETTINGS, Effort, Subject
from torch import Tensor, nn
from trials import Trial, blocks_in_turns, median_block

from earlybird.data import train_batches
from earlybird.data.catalog import load_data
from earlybird.energy import EnergyCounter
from earlybird.errors import EarlyBirdError, first_line
from earlybird.methods.hooks import HoldHooks
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig, StepKind, TrainingSettings
from earlybird.training.compute import Compute
from earlybird.training.timing import step_times

DATA = Path(__file__).with_name("noise_data.py")
SHORT_EVERY = 10
_LONGEST_START = 90.0  # seconds until a killed run must have begun


@dataclass(frozen=True)
class Plan:
    """Sizes of the checks: data of `noise_data.py`, how many of its images, epochs of the trainings, steps for bits."""

    loop_data: str
    loop_images: int
    loop_epochs: int
    resume_width: float
    resume_images: int
    resume_batch: int
    resume_epochs: int
    bits_steps: int


def check_loop(
    subject: Subject, compute: Compute, plan: Plan, effort: Effort, counter: EnergyCounter, folder: Path
) -> dict[str, Any]:
    """Seconds of a step in a run, by its epochs, against the bare step in the same form; both twice, in turns.

    `synchronised_step_seconds` is the loop's step as budgets measure it: with its batches, without checkpoints, and the
    device waited for after each step.
    """
    training = {"batch_size": subject.batch, "epochs": plan.loop_epochs, "lr": 0.01}
    config = _config(subject, compute, plan.loop_data, plan.loop_images, training, {"name": "dense"})
    loop, bare = [], []
    for turn in range(2):
        record = run(config, folder / f"loop{turn}", quiet=True)
        rows = [row["wall_seconds"] for row in record["metrics"]]
        loop += [(b - a) / record["resolved"]["steps_per_epoch"] for a, b in pairwise(rows)]  # the first one warms up
        settled = replace(compute, step=record["resolved"]["step"], layout=record["resolved"]["layout"])
        trial = Trial(subject.build(), settled, replace(SETTINGS, step=settled.step), *subject.batch_on(compute.device))
        trial.prepare(_LONGEST_START)
        bare += blocks_in_turns({"bare": trial}, effort.rounds, effort.block_seconds, counter)["bare"]
        trial.step.close()
    bundle = load_data(config.data.name, train_images=plan.loop_images)
    batches = train_batches(
        bundle, batch_size=subject.batch, seed=0, augment="crop_flip", device=compute.device,
        memory_format=settled.memory_format,
    )  # fmt: skip
    model = settled.place(subject.build())
    alone = step_times({"dense": model}, batches, replace(config.training, step=settled.step), settled)["dense"].wall
    seconds, bare_seconds = statistics.median(loop), median_block(bare).seconds
    return {
        "network": subject.name, "batch": subject.batch, "images": plan.loop_images, "form": settled.step,
        "layout": settled.layout, "loop_step_seconds": seconds, "bare_step_seconds": bare_seconds,
        "synchronised_step_seconds": alone, "loop_images_per_second": subject.batch / seconds,
        "bare_images_per_second": subject.batch / bare_seconds, "loop_over_bare": seconds / bare_seconds,
    }  # fmt: skip


def check_bits(subject: Subject, compute: Compute, plan: Plan) -> dict[str, Any]:
    """Weights, statistics and momentum after some steps from one state, in each form, against those of an eager run.

    Every tenth batch is short, and the scales are penalised; all have the optimizer of the captured step. The eager run
    is done twice: kernels that add in no fixed order differ between any two runs.
    """
    network = subject.build()
    before = _state(Trial(network, compute, SETTINGS, *subject.batch_on(compute.device, 1)))
    first = _state_after(network, subject, replace(compute, step="eager"), plan.bits_steps)
    found: dict[str, Any] = {"network": subject.name, "steps": plan.bits_steps}
    forms: tuple[StepKind, ...] = ("eager", "captured")
    for form in forms:
        try:
            again = _state_after(network, subject, replace(compute, step=form), plan.bits_steps)
            found[form] = _difference(first, again, before)
        except (EarlyBirdError, RuntimeError) as error:
            found[form] = {"error": first_line(error)}
    return found


def _state_after(network: nn.Module, subject: Subject, compute: Compute, steps: int) -> dict[str, Tensor]:
    settings = TrainingSettings(lr=0.01, step=compute.step)
    torch.manual_seed(0)
    full = subject.batch_on(compute.device)
    trial = Trial(network, compute, settings, *full, partial(HoldHooks, penalty=1e-4), "captured")
    short = tuple(part[: max(1, len(part) // 2)] for part in (trial.x, trial.y))
    with compute.float32_rules():
        for number in range(1, steps + 1):
            x, y = short if number % SHORT_EVERY == 0 else (trial.x, trial.y)
            trial.step(x, y, number, settings.lr)
    if trial.step.kind != compute.step:
        raise RuntimeError(f"the step ran {trial.step.kind}")
    state = _state(trial)
    trial.step.close()
    return state


def _state(trial: Trial) -> dict[str, Tensor]:
    """Weights and buffers by name, and momentum."""
    momentum = [state.get("momentum_buffer") for state in trial.step.parts.optimizer.state.values()]
    state = {f"momentum {number}": buffer for number, buffer in enumerate(momentum) if buffer is not None}
    return {name: x.detach().cpu().clone() for name, x in {**trial.model.state_dict(), **state}.items()}


def _difference(a: dict[str, Tensor], b: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Any]:
    """How far apart two states are: not at all, at most, and as a share of the way that training went."""
    same = all(torch.equal(x, b[name]) for name, x in a.items())
    pairs = [(x.double(), b[name].double(), before.get(name)) for name, x in a.items()]
    far = sum(float((x - y).square().sum()) for x, y, start in pairs if start is not None)
    trained = sum(float((x - start.double()).square().sum()) for x, _, start in pairs if start is not None)
    most = max(float((x - y).abs().max()) for x, y, _ in pairs if x.numel())
    share = (far / trained) ** 0.5 if trained else None
    return {"same_bits": same, "largest_difference": most, "share_of_training": share}


def check_resume(subject: Subject, compute: Compute, plan: Plan, folder: Path) -> dict[str, Any]:
    """Network of a run that was killed after its cut and resumed, against one left alone, and that against another.

    The second pair tells what two runs differ by without a kill.
    """
    subject = replace(subject, width=plan.resume_width)
    training = {"batch_size": plan.resume_batch, "epochs": plan.resume_epochs, "checkpoint_every": 7, "lr": 0.01}
    method = {"name": "early_bird", "prune_ratio": 0.5, "draw_at": 3, "clock": "epochs"}
    config = _config(subject, compute, "few", plan.resume_images, training, method)
    try:
        killed_at = _kill_after(config, folder / "killed", epochs=plan.resume_epochs // 2)
        networks = []
        for name in ("killed", "whole", "again"):
            run(config, folder / name, quiet=True)
            networks.append(load_file(folder / name / "model.safetensors"))
    except (EarlyBirdError, RuntimeError) as error:
        return {"network": subject.name, "error": first_line(error)}
    killed, whole, again = networks
    return {
        "network": subject.name, "killed_after_epochs": killed_at, "epochs": plan.resume_epochs,
        "resumed": _difference(whole, killed, {}), "two_runs": _difference(whole, again, {}),
    }  # fmt: skip


def _kill_after(config: RunConfig, folder: Path, epochs: int) -> int:
    """Train in a process of its own and kill it (SIGKILL) once so many epochs are closed; epochs that were.

    Raises:
        RuntimeError: it was over before, or did not get so far.
    """
    # A GPU does not survive a fork; and a start of an interpreter is not needed elsewhere.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    process = context.Process(target=_train, args=(config, folder))
    process.start()
    rows, end = 0, time.monotonic() + _LONGEST_START
    while rows < epochs and process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)
        rows = _lines(folder / "metrics.jsonl")
    process.kill()
    process.join()
    if (folder / "record.json").is_file():
        raise RuntimeError("the run was over before it was killed")
    if rows < epochs:
        raise RuntimeError(f"the run that was to be killed ended or hung after {rows} of {epochs} epochs")
    return rows


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def _train(config: RunConfig, folder: Path) -> None:
    run(config, folder, quiet=True)


def _config(
    subject: Subject, compute: Compute, data: str, images: int, training: dict[str, Any], method: dict[str, Any]
) -> RunConfig:
    place = {"device": str(compute.device), "precision": compute.precision, "step": "auto"}
    return RunConfig.from_dict(
        {
            "model": {"name": subject.name, "width": subject.width},
            "data": {"name": f"{DATA}:{data}", "train_images": images, "augment": "crop_flip"},
            "method": method,
            "training": {**training, **place},
        }
    )
