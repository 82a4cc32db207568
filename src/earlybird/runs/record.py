"""`record.json`: one finished run as plain values, and the schedule that it tells.

Fractions lie in [0, 1]; percent lives in reports.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from earlybird import __version__
from earlybird.cost import ModelCost, PlannedData, Schedule, count_cost
from earlybird.errors import RunFolderError
from earlybird.methods.pipeline import Outcome
from earlybird.methods.task import Candidate, Task
from earlybird.runs.energy import energy_facts, shared_card
from earlybird.runs.record_file import SCHEMA_VERSION
from earlybird.settings.budget import parse_budget
from earlybird.settings.catalog import DenseShorter, Uniform, preset_of
from earlybird.settings.run import RunConfig, TrainingSettings
from earlybird.training.session import Session

_PACKAGES = ("torch", "torchvision", "numpy", "safetensors")


def make_record(config: RunConfig, resolved: dict[str, Any], task: Task, outcome: Outcome) -> dict[str, Any]:
    """Record of a finished run (schema in `docs/run-folder.md`)."""
    settings, candidate, session = config.to_dict(), outcome.candidate, task.session
    final = task.cost(candidate.model)
    ledger = session.journal.ledger
    phases = {phase: cost.as_dict() for phase, cost in ledger.merged().items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": task.folder.name,
        "status": "finished",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"earlybird": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        "device": device_facts(session.compute.device),
        "config": settings,
        "preset": preset_of(settings["method"]),
        "resolved": resolved,
        "seeds": {"run": session.settings.seed, "model": task.seed, "data": session.settings.seed},
        "data": {
            "train_images": session.train.num_samples,
            "val_images": session.val.num_samples if session.val is not None else 0,
            "test_images": outcome.test.samples,
            "classes": task.classes,
            "image_shape": list(task.image_shape),
        },
        "ticket": _ticket(candidate, task),
        "weight_mask": _weight_mask(candidate, session.steps_per_epoch),
        "notes": dict(candidate.notes),
        "layers": _layers(candidate),
        "dense": _cost(count_cost(task.build_from_seed(0), task.image_shape)),
        "final": _cost(final),
        "metrics": session.journal.rows,
        "test": asdict(outcome.test),
        "uncut_test": asdict(outcome.uncut_test) if outcome.uncut_test else None,
        "cost": {"phases": phases, "total": ledger.total().as_dict()},
        "energy": energy_facts(ledger, session.energy, final.traffic_reason),
        "flags": [*candidate.flags, *_flags_about_steps(session), *shared_card(ledger)],
    }


def _flags_about_steps(session: Session) -> list[str]:
    """Phases, since the run was last resumed, whose step ran in another form than `resolved` says."""
    form = session.compute.step
    return [
        f"the step of phase '{phase}' cannot be {form} and ran eager" for phase in dict.fromkeys(session.eager_phases)
    ]


def _ticket(candidate: Candidate, task: Task) -> dict[str, Any] | None:
    if candidate.distances is None:
        return None
    ticket = candidate.ticket
    # The search's schedule, which is not the retrain's where a ticket is given to another one.
    notes = ticket.notes if ticket else {}
    per_epoch = int(notes.get("steps_per_epoch", task.session.steps_per_epoch))
    total_steps = int(notes.get("total_steps", task.session.total_steps))
    # A draw's distance belongs to the moment of the draw; the first draw has none before it.
    distance_epochs = [step / per_epoch for step in candidate.draw_steps[1:]]
    log = {"distances": list(candidate.distances), "distance_epochs": distance_epochs}
    if ticket is None:
        return {"none": True, "last_distances": log["distances"][-5:], **log}
    step = int(ticket.notes["step"])
    wall, cpu = ticket.notes.get("draw_seconds", (None, None))
    return {
        "prune_ratio": ticket.prune_ratio,
        "realised_ratio": ticket.realised_ratio,
        "draw": ticket.drawn_after,
        "step": step,
        "epoch": step / per_epoch,
        "total_epochs": total_steps // per_epoch,
        "fraction_of_schedule": step / total_steps,
        **{name: getattr(ticket, name) for name in ("rule", "epsilon", "window", "policy", "round_to")},
        "flags": list(ticket.flags),
        "mask_digest": ticket.mask.digest(),
        "draw_wall_seconds": wall,
        "draw_cpu_seconds": cpu,
        **log,
    }


def _weight_mask(candidate: Candidate, steps_per_epoch: int) -> dict[str, Any] | None:
    mask = candidate.weight_mask
    if mask is None:
        return None
    kept = mask.kept_counts()
    step = candidate.notes.get("mask_step")
    return {
        "prune_ratio": candidate.notes.get("prune_ratio"),
        "realised_ratio": mask.realised_ratio,
        "kept": mask.kept,
        "weights": mask.total,
        "epoch": step / steps_per_epoch if isinstance(step, int) else None,
        "layers": [{"name": name, "dense": flags.numel(), "kept": kept[name]} for name, flags in mask.items()],
    }


def _layers(candidate: Candidate) -> list[dict[str, Any]]:
    if candidate.ticket is None:
        return []
    kept, widths = candidate.ticket.mask.kept_counts(), candidate.ticket.mask.widths()
    return [{"name": name, "dense": widths[name], "kept": kept[name]} for name in kept]


def _cost(cost: ModelCost) -> dict[str, Any]:
    counts = {"params": cost.params, "macs": cost.macs, "train_macs": cost.train_macs}
    return counts | {"paper_gflops": cost.paper_flops / 1e9, "uncounted": list(cost.uncounted)}


def device_facts(device: torch.device) -> dict[str, Any]:
    """Device that a run is timed on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads(), "platform": sys.platform}


def recorded_schedule(
    record: Mapping[str, Any], *, epochs: int | None = None, network: nn.Module | None = None
) -> Schedule:
    """Schedule of a finished run, its networks as they were counted; a method's plan gives what the run executed.

    epochs: T, if another than the run's; a ticket is drawn at the same fraction of it. network: the unpruned one, for
    methods whose plan depends on it.

    Raises:
        RunFolderError: the record is of an older version, which did not say what data it had.
    """
    data, training = record.get("data"), record["config"]["training"]
    if not data:
        raise RunFolderError(f"the record of run {record['run_id']} does not say its data; train it once more")
    images = PlannedData(
        data["train_images"], record["test"]["samples"], training["batch_size"], data.get("val_images") or 0,
        training.get("eval_batch_size", TrainingSettings().eval_batch_size),
    )  # fmt: skip
    whole, ticket = (epochs or training["epochs"]) * images.steps_per_epoch, record.get("ticket") or {}
    budget = parse_budget(training.get("budget") or "")
    total = whole if budget is None else budget.dense_steps(whole, record["resolved"].get("dense_step_seconds"))
    drawn = ticket.get("step")
    if drawn is not None and epochs is not None:
        drawn = round(ticket["fraction_of_schedule"] * total)
    return Schedule(
        total_steps=total,
        data=images,
        dense=_counted(record["dense"]),
        slim=_counted(record["final"]),
        ticket_step=drawn,
        classes=data.get("classes", 0),
        network=network,
        image_shape=tuple(data["image_shape"]),
        precision=record["resolved"]["precision"],
        budget_macs=matched_budget(record),
        whole_steps=None if budget is None else whole,
        device=(record.get("device") or {}).get("type", "cpu"),
    )


def matched_budget(record: Mapping[str, Any]) -> int | None:
    """Training MACs that a control was matched to, those of an `early_bird`; None for other runs."""
    is_matched = record["config"]["method"]["name"] in (Uniform.name, DenseShorter.name)
    return (record.get("notes") or {}).get("budget_macs") if is_matched else None


def _counted(counted: Mapping[str, Any]) -> ModelCost:
    """Cost of one image as the record has it: without widths of operands and without traffic."""
    macs, train_macs, flops = counted["macs"], counted["train_macs"], 1e9 * counted["paper_gflops"]
    return ModelCost(counted["params"], macs, train_macs, flops, {"all": macs}, {"all": train_macs})
