"""The length of a last training under a budget: what the search left of it, in steps of the network at hand.

A budget in time counts training steps, each at the measured seconds of its network: what else the machine does while a
run goes on decides nothing. Measured once, before the last training starts, and kept: a resumed run ends at its step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from earlybird.atomic import file_lock, sealed_json, unsealed_json, write_atomically
from earlybird.core import STOP_RULES
from earlybird.cost import MethodPlan, PlannedData, Schedule, steps_that_buy, steps_that_train
from earlybird.errors import MethodError, RunFolderError, reason
from earlybird.methods.task import Candidate, Task
from earlybird.settings.budget import Budget, parse_budget
from earlybird.training.checkpoint import changed_checkpoint, whole_number
from earlybird.training.timing import step_times

# In checkpoints of a last training with a budget: the step at which it ends, and the candidate's flags and notes.
_BUDGET_KEY = "budget"
# Flag a last training shorter than this share of the one without a budget.
_SHORT = 0.25
# Flag a realised cost that differs from the budget by more than this fraction.
_NEAR = 0.05
# No step is quicker than the dense network's by more than this.
_QUICKEST = 10_000


def give_budget_(task: Task, model: nn.Module, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Give the task's session the dense steps that its budget buys, if it has one; what was measured for that.

    Runs that share their step times share what was measured, or the same budget would buy them different steps.

    Args:
        model: the dense network, placed.
        resolved: what an earlier start of the run measured.

    Raises:
        ConfigError: it buys not one step.
        RunFolderError: the file of the measured times was changed.
    """
    session = task.session
    budget = parse_budget(session.settings.budget)
    if budget is None:
        return {}
    seconds = resolved.get("dense_step_seconds")
    if budget.kind == "seconds" and seconds is None:
        times = _measured(task, f"wall {_key_of(task, model)}", {"dense": model}, by_clock=True)
        seconds = times["dense"]
    session.budget_steps = budget.dense_steps(session.total_steps, seconds)
    return {} if seconds is None else {"dense_step_seconds": seconds}


def within_budget(task: Task, candidate: Candidate, resume: Mapping[str, Any] | None) -> Candidate:
    """The candidate with a last training as long as the run's budget allows, where it has one.

    The learning-rate schedule ends where that training ends. A candidate that has nothing left to train stays.

    Args:
        resume: a checkpoint of the candidate's last training, or None before it.

    Raises:
        MethodError: the search has spent the budget.
    """
    settings = task.session.settings
    if not (settings.budget or settings.budget_macs):
        return candidate
    if resume is not None:
        return _as_begun(task, candidate, resume)
    budget = parse_budget(settings.budget)
    return _by_macs(task, candidate) if budget is None else _by_share(task, candidate, budget)


def _as_begun(task: Task, candidate: Candidate, resume: Mapping[str, Any]) -> Candidate:
    """The candidate with the end, the flags and the notes that its checkpoints carry."""
    session, begun = task.session, resume.get(_BUDGET_KEY)
    flags, notes = (begun.get("flags"), begun.get("notes", {})) if isinstance(begun, dict) else (None, None)
    are_flags = isinstance(flags, list) and all(isinstance(flag, str) for flag in flags)
    if not (isinstance(begun, dict) and are_flags and isinstance(notes, dict)):
        raise changed_checkpoint(f"its {_BUDGET_KEY} is {begun!r:.80}")
    start = 0 if candidate.goes_on else candidate.start_step
    if macs := round(session.settings.budget_macs):
        most = start + steps_that_buy(macs, task.cost(candidate.model), session.planned_data, start)
    else:
        most = start + _QUICKEST * session.total_steps
    end = whole_number(begun, "end_step", start, most)
    notes = {**candidate.notes, **notes}
    return replace(candidate, end_step=end, schedule_steps=end, flags=tuple(flags or ()), notes=notes)


def carried(task: Task, candidate: Candidate) -> dict[str, Any]:
    """Values for the checkpoints of a last training, so that it ends at the same step after a kill."""
    if not (task.session.settings.budget or task.session.settings.budget_macs):
        return {}
    notes = {name: value for name, value in candidate.notes.items() if name == _BUDGET_KEY}
    return {_BUDGET_KEY: {"end_step": candidate.end_step, "flags": list(candidate.flags), "notes": notes}}


def _by_macs(task: Task, candidate: Candidate) -> Candidate:
    """With the steps that the MACs of `training.budget_macs` buy after the search."""
    session = task.session
    budget, spent = session.settings.budget_macs, session.journal.ledger.total().macs
    so_far = f"what came before cost {spent / budget:.2f} of training.budget_macs"
    if candidate.start_step >= candidate.end_step:
        flags = (*candidate.flags, f"nothing was trained last: {so_far}")
        return replace(candidate, flags=flags) if abs(spent / budget - 1) > _NEAR else candidate
    cost, start, flags = task.cost(candidate.model), candidate.start_step, candidate.flags
    steps = steps_that_buy(round(budget) - spent, cost, session.planned_data, start)
    planned = candidate.end_step - start
    if steps < _SHORT * planned:
        flags = (*flags, f"its last training is {steps / planned:.2f} of the one without a budget: {so_far}")
    return replace(candidate, end_step=start + steps, schedule_steps=start + steps, flags=flags)


def _by_share(task: Task, candidate: Candidate, budget: Budget) -> Candidate:
    """With the steps that are left of the dense steps that the budget buys, longer as its own steps are quicker."""
    session = task.session
    whole, spent = session.planned_data.images_by(session.total_steps), _spent_images(task, candidate)
    told: dict[str, object] = {"asked": str(budget), "dense_steps": session.total_steps, "spent": spent / whole}
    if candidate.start_step >= candidate.end_step:
        return replace(candidate, notes={**candidate.notes, _BUDGET_KEY: told})
    ratio = step_ratio(task, candidate.model, budget)
    if (images := (whole - spent) / ratio) < session.train.batch_size:
        raise MethodError(_spent_all(spent / whole, f"the budget {budget}"))
    data, start = session.planned_data, candidate.start_step
    if candidate.goes_on:
        start, end = stretch(data, session.total_steps, spent / whole, 1.0, ratio)
    else:
        end = start + steps_that_train(images, data, start)
    flags = candidate.flags
    if spent + images < whole * (1 - 1e-9):
        flags = (*flags, f"the budget buys {spent + images:.0f} images, {whole} with the dense network")
    notes = {**candidate.notes, _BUDGET_KEY: {**told, "step_ratio": ratio, "steps": end - start}}
    return replace(candidate, start_step=start, end_step=end, schedule_steps=end, flags=flags, notes=notes)


def planned_within(plan: MethodPlan, schedule: Schedule) -> MethodPlan:
    """A plan with a last stage as long as the budget of its schedule allows; steps are taken to cost as their MACs.

    Raises:
        MethodError: what comes before the last stage spends the budget.
    """
    *before, last = plan.stages
    if schedule.whole_steps is None or plan.spends_budget or plan.final is None or not last.steps:
        return plan
    data, costs, dense = schedule.data, plan.costs(schedule), schedule.dense.train_macs
    whole = data.images_by(schedule.total_steps)
    spent = sum(
        (data.images_by(stage.end_step) - data.images_by(stage.start_step)) * costs[stage.network].train_macs / dense
        for stage in before
    )
    images = (whole - spent) * dense / costs[last.network].train_macs
    if images < data.batch_size:
        raise MethodError(_spent_all(spent / whole, "its budget"))
    steps = steps_that_train(images, data, last.start_step)
    return replace(plan, stages=(*before, replace(last, end_step=last.start_step + steps)))


def _spent_all(share: float, budget: str) -> str:
    told = f"what came before took {share:.2f} of {budget}: no step is left to train what it found"
    return f"{told}; raise --budget, or search for less"


def stretch(data: PlannedData, total_steps: int, begin: float, end: float, ratio: float) -> tuple[int, int]:
    """First and last step of a stretch of a budget, in a schedule whose steps all take `ratio` of a dense one.

    Its place in that schedule is its place in the budget, so the learning rate follows what is spent.

    Args:
        total_steps: dense steps that the budget buys.
        begin, end: shares of the budget, in [0, 1].
        ratio: seconds of a step, as a share of the dense network's.
    """
    start = round(begin * total_steps / ratio)
    images = (end - begin) * data.images_by(total_steps) / ratio
    return start, start + (steps_that_train(images, data, start) if end > begin else 0)


def _spent_images(task: Task, candidate: Candidate) -> float:
    """Images of dense training that the search cost; of one that is not dense training by its MACs."""
    if candidate.spent_share is not None:
        return candidate.spent_share * task.session.planned_data.images_by(task.session.total_steps)
    ticket = candidate.ticket
    if ticket is not None and ticket.rule in (*STOP_RULES, "chosen", "forced"):
        return float(task.session.planned_data.images_by(int(ticket.notes["step"])))
    macs = task.session.journal.ledger.total().macs
    return macs / task.cost(task.build()).train_macs if macs else 0.0


def step_ratio(task: Task, model: nn.Module, budget: Budget) -> float:
    """Seconds of a training step of `model` as a share of the dense network's, or of its MACs where the budget is so.

    Measured in turns with the dense network, once for each set of widths, and kept in the run folder: seconds of all
    threads on a CPU, where other processes disturb the clock, seconds by the clock on a GPU.

    Raises:
        RunFolderError: the file of the measured times was changed.
    """
    dense = task.build()
    if budget.kind == "macs" or task.cost(model).macs == task.cost(dense).macs:
        return task.cost(model).train_macs / task.cost(dense).train_macs
    by_clock = task.session.compute.device.type != "cpu"
    times = _measured(task, _key_of(task, model), {"dense": dense, "slim": model}, by_clock=by_clock)
    return times["slim"] / times["dense"]


def _measured(task: Task, key: str, networks: Mapping[str, nn.Module], *, by_clock: bool) -> dict[str, float]:
    """Seconds of a training step of each network, by the clock or of all threads on the CPU, measured once."""
    session, path = task.session, task.step_times
    with file_lock(path.with_name(f".{path.name}.lock")):  # Runs of a comparison measure one after another.
        known = _known_times(path)
        if key not in known:
            times = step_times(networks, session.train, session.settings, session.compute)
            known[key] = {name: took.wall if by_clock else took.cpu for name, took in times.items()}
            write_atomically(path, sealed_json(known))
    return {name: float(seconds) for name, seconds in known[key].items()}


def _known_times(path: Path) -> dict[str, Any]:
    try:
        return unsealed_json(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        told = f"{path} cannot be read ({reason(error)})"
        raise RunFolderError(f"{told}; remove it, and the step times are measured again") from error


def _key_of(task: Task, model: nn.Module) -> str:
    """Digest of what the seconds of a step depend on: widths, batch, precision, device and threads."""
    settings, compute = task.session.settings, task.session.compute
    shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    batch = (settings.batch_size, settings.micro_batches, task.image_shape)
    told = (shapes, batch, compute.precision, str(compute.device), torch.get_num_threads())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
