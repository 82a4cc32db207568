"""The Early-Bird search and the cut: from a task to the candidate that is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from earlybird.core import EarlyBird, Ticket, bn_scale, filter_l1, taylor
from earlybird.cost import PhaseMeter
from earlybird.errors import EarlyBirdError, TicketError
from earlybird.methods.candidate import Candidate
from earlybird.methods.clock import Clock
from earlybird.methods.early_bird import EarlyBirdTraining
from earlybird.methods.search_hooks import SearchHooks, rewind_file, ticket_file
from earlybird.methods.task import Task
from earlybird.slimming import slim
from earlybird.training.checkpoint import write_atomically
from earlybird.training.loop import fit
from earlybird.training.state import FitState, Span

CRITERIA = {"bn_scale": bn_scale, "filter_l1": filter_l1, "taylor": taylor}

# New weights must differ from those the mask was found with, and follow from the run's one seed.
_REINIT_SEED_OFFSET = 1_000_003


def search(
    method: EarlyBirdTraining, task: Task, ratios: Sequence[float], resume: dict[str, Any] | None
) -> tuple[SearchHooks, nn.Module]:
    """Train dense under the penalty until every ratio has its ticket in the folder, or the schedule ends.

    Returns:
        The hooks, which know the detector and the log, and the dense network as the search left it.
    """
    session = task.session
    model = task.build()
    groups = task.groups(model, method.policy)
    detector = EarlyBird(
        list(ratios),
        groups,
        rule=method.rule,
        window=method.window,
        epsilon=method.epsilon,
        criterion=CRITERIA[method.criterion],
        min_channels=method.min_channels,
        round_to=method.round_to,
    )
    clock = Clock(method.clock, session.steps_per_epoch, session.total_steps)
    max_steps = (method.max_search_epochs or session.settings.epochs) * session.steps_per_epoch
    hooks = SearchHooks(method, detector, clock, max_steps, task.folder)
    fit(session, model, Span("search", 0, session.total_steps), task.cost(model), hooks=hooks, resume=resume)
    save_scores(hooks, task.folder)
    return hooks, model


def candidate_from_search(method: EarlyBirdTraining, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Search one ratio; cut by its ticket, or do what `on_no_ticket` says."""
    hooks, model = search(method, task, [method.prune_ratio], resume)
    if hooks.has_all_tickets():
        return candidate_from_folder(method, task)
    distances = tuple(hooks.detector.distances[method.prune_ratio])
    session, last = task.session, distances[-method.window :]
    if method.on_no_ticket == "error":
        raise EarlyBirdError(
            f"no ticket: the search never fired, its last mask distances are {_shown(last)} against epsilon "
            f"{method.epsilon:g}; raise --method.epsilon or --epochs, or give --on-no-ticket finish or draw"
        )
    session.progress.say(f"ticket: none (last mask distances {_shown(last)}, epsilon {method.epsilon:g})")
    total = session.total_steps
    return Candidate(
        model,
        phase="retrain",
        start_step=total,
        end_step=total,
        distances=distances,
        draw_steps=tuple(hooks.draw_steps),
        flags=("no ticket: the rule never fired",),
    )


def candidate_from_folder(method: EarlyBirdTraining, task: Task) -> Candidate:
    """The candidate of the ticket that lies in the run folder."""
    return candidate_from_ticket(method, task, Ticket.load(task.folder / ticket_file(0.0, (0.0,))))


def candidate_from_ticket(method: EarlyBirdTraining, task: Task, ticket: Ticket) -> Candidate:
    """Cut the dense network by the ticket and give it the weights and the schedule the method asks for.

    Raises:
        TicketError: the ticket's weights are not those of this network.
        MaskError: the ticket's mask does not fit this network.
    """
    session, step = task.session, int(ticket.notes["step"])
    flags = list(ticket.flags)
    with PhaseMeter("slim", session.compute.device) as meter:
        dense = task.build(task.seed + _REINIT_SEED_OFFSET if method.weights == "reinit" else None)
        if method.weights == "inherit":
            _load_weights(dense, ticket)
        elif method.weights == "rewind" and method.rewind_epoch:
            step = _rewind(method, task, dense, ticket, flags)
        groups = task.groups(dense, method.policy)
        small = slim(dense, ticket.mask, task.example_input(), groups)
        if method.weights == "reinit" and hasattr(small, "initialise_"):
            _initialise(small, task.seed + _REINIT_SEED_OFFSET)
    session.journal.ledger.add(meter.cost(images=0, macs=0, paper_flops=0.0))
    if method.weights == "rewind" and not method.rewind_epoch:
        step = 0
    start = 0 if method.resolved_schedule == "restart" else step
    return Candidate(
        session.compute.place(small),
        phase="retrain",
        start_step=start,
        end_step=session.total_steps,
        ticket=ticket,
        distances=ticket.distances,
        draw_steps=tuple(ticket.notes["draw_steps"]),
        penalty=method.retrain_penalty,
        flags=tuple(flags),
    )


def save_scores(hooks: SearchHooks, folder: Path) -> None:
    """Write `scales.npz`: per layer the scores `[draws, channels]`, and `steps` `[draws]`."""
    import io

    buffer = io.BytesIO()
    arrays = {name: scores.numpy() for name, scores in hooks.scores_by_layer().items()}
    np.savez(buffer, steps=np.asarray(hooks.draw_steps), **arrays)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "scales.npz", buffer.getvalue())


def _load_weights(dense: nn.Module, ticket: Ticket) -> None:
    try:
        dense.load_state_dict(dict(ticket.weights))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise TicketError(
            f"the ticket belongs to another network ({first}); give the --model it was drawn from"
        ) from error


def _rewind(method: EarlyBirdTraining, task: Task, dense: nn.Module, ticket: Ticket, flags: list[str]) -> int:
    """Load the rewind epoch's weights into `dense`; the step at which training goes on."""
    step = method.rewind_epoch * task.session.steps_per_epoch
    if step > ticket.notes["step"]:
        flags.append(
            f"drawn before rewind epoch {method.rewind_epoch}: the ticket's own weights were inherited instead"
        )
        _load_weights(dense, ticket)
        return int(ticket.notes["step"])
    path = rewind_file(task.folder)
    if not path.is_file():
        raise TicketError(f"{path} is missing; search again with --method.weights rewind and the same rewind epoch")
    dense.load_state_dict(load_file(path))
    return step


def _initialise(small: nn.Module, seed: int) -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        small.initialise_()  # type: ignore[operator]


def _shown(distances: Sequence[float]) -> str:
    return ", ".join(f"{d:.3f}" for d in distances) or "none"


__all__ = ["FitState", "candidate_from_folder", "candidate_from_search", "candidate_from_ticket", "search"]
