"""The Early-Bird search and the cut: from a task to the candidate that is trained on."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from earlybird.atomic import write_atomically
from earlybird.core import ChannelGroups, EarlyBird, Ticket, bn_scale, filter_l1, taylor
from earlybird.core.ranking import scored_groups
from earlybird.cost import Work
from earlybird.errors import EarlyBirdError, SlimError, TicketError
from earlybird.methods.candidate import Candidate
from earlybird.methods.clock import Clock
from earlybird.methods.early_bird import EarlyBirdTraining
from earlybird.methods.search_hooks import SearchHooks, momentum_file, rewind_file, ticket_file
from earlybird.methods.task import Task
from earlybird.slimming import kept_indices, slim
from earlybird.slimming.surgery import sliced
from earlybird.training.loop import fit
from earlybird.training.session import Session
from earlybird.training.state import Span

CRITERIA = {"bn_scale": bn_scale, "filter_l1": filter_l1, "taylor": taylor}

# New weights must differ from those the mask was found with, and follow from the run's one seed.
_REINIT_SEED_OFFSET = 1_000_003


def search(
    method: EarlyBirdTraining,
    task: Task,
    ratios: Sequence[float],
    resume: dict[str, Any] | None,
    *,
    end_step: int | None = None,
) -> tuple[SearchHooks, nn.Module]:
    """Train dense under the penalty until every ratio has its ticket in the folder, or the steps end.

    Args:
        method: the hyperparameters.
        task: network, data and places.
        ratios: prune ratios to find tickets for.
        resume: a checkpoint of this search to go on from.
        end_step: where training ends if something never fires; by default with the schedule.

    Returns:
        The hooks, which know the detector and the log, and the dense network as the search left it.
    """
    session = task.session
    model = task.build()
    groups = task.groups(model, method.policy)
    _refuse_nothing_to_cut(method, model, groups)
    detector = EarlyBird(
        list(ratios),
        groups,
        rule=method.rule,
        window=method.window,
        epsilon=method.epsilon,
        criterion=CRITERIA[method.criterion],
        min_channels=method.min_channels,
        tie_score=method.tie_score,
        round_to=method.round_to,
    )
    clock = Clock(method.clock, session.steps_per_epoch, session.total_steps)
    hooks = SearchHooks(method, detector, clock, search_steps(method, session), task.folder)
    if resume is None:
        for ratio in ratios:  # What another configuration left here (--force) is no ticket of this search.
            (task.folder / ticket_file(ratio, detector.prune_ratios)).unlink(missing_ok=True)
    span = Span("search", 0, session.total_steps if end_step is None else end_step)
    fit(session, model, span, task.cost(model), hooks=hooks, resume=resume)
    save_scores(hooks, task.folder)
    return hooks, model


def _refuse_nothing_to_cut(method: EarlyBirdTraining, model: nn.Module, groups: ChannelGroups) -> None:
    """Say before any training that there is nothing to search for.

    Raises:
        SlimError: no channel of the network may go.
        MaskError: `bn_scale` is to score a network without BatchNorm.
    """
    if groups.num_units and method.criterion == "bn_scale":
        groups = scored_groups(bn_scale(model), groups)
    if not groups.num_units:
        reasons = Counter(why for channels in groups.protected.values() for why in channels.values())
        most = "; ".join(why for why, _ in reasons.most_common(2))
        raise SlimError(f"nothing can be cut from this network ({most}); `earlybird inspect` says why, layer by layer")


def search_steps(method: EarlyBirdTraining, session: Session) -> int:
    """Steps during which masks are drawn: `max_search_epochs`, at most the schedule."""
    epochs = session.settings.epochs
    return min(method.max_search_epochs or epochs, epochs) * session.steps_per_epoch


def candidate_from_search(method: EarlyBirdTraining, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Search one ratio; cut by its ticket, or do what `on_no_ticket` says."""
    hooks, model = search(method, task, [method.prune_ratio], resume)
    if hooks.has_all_tickets():
        return candidate_from_folder(method, task)
    if method.on_no_ticket == "error":
        raise_no_ticket(hooks)
    session, distances = task.session, tuple(hooks.detector.distances[method.prune_ratio])
    last = _shown(distances[-method.window :])
    session.progress.say(f"ticket: none (last mask distances {last}, epsilon {method.epsilon:g})")
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


def raise_no_ticket(hooks: SearchHooks) -> NoReturn:
    """Say for which ratios nothing fired, and how far it was.

    Raises:
        EarlyBirdError: always.
    """
    detector = hooks.detector
    missing = [ratio for ratio in detector.prune_ratios if ratio not in detector.fired]
    last = _shown(detector.distances[missing[0]][-detector.window :])
    raise EarlyBirdError(
        f"no ticket for ratio {', '.join(f'{ratio:g}' for ratio in missing)}: the search never fired, its last mask "
        f"distances are {last} against epsilon {detector.epsilon:g}; raise --method.epsilon or --epochs, or give "
        "--on-no-ticket finish or draw"
    )


def candidate_from_folder(method: EarlyBirdTraining, task: Task) -> Candidate:
    """The candidate of the ticket that lies in the run folder."""
    return candidate_from_ticket(method, task, Ticket.load(task.folder / ticket_file(0.0, (0.0,))))


def candidate_from_ticket(method: EarlyBirdTraining, task: Task, ticket: Ticket) -> Candidate:
    """Cut the dense network by the ticket and give it the weights and the schedule the method asks for.

    Raises:
        TicketError: the ticket is of another network or policy, or was not drawn by a search of ours.
        MaskError: the ticket's mask does not fit this network.
    """
    check_notes(ticket)
    session, step = task.session, int(ticket.notes["step"])
    flags = list(ticket.flags)
    with session.meter("slim") as meter:
        dense = task.build(task.seed + _REINIT_SEED_OFFSET if method.weights == "reinit" else None)
        if method.weights == "inherit":
            _load_weights(dense, ticket)
        elif method.weights == "rewind" and method.rewind_epoch:
            step = _rewind(method, task, dense, ticket, flags)
        groups = task.groups(dense, method.policy)
        _check_groups(ticket, groups)
        small = slim(dense, ticket.mask, task.example_input(), groups)
        momentum = _cut_momentum(task, dense, ticket, groups) if method.carry_momentum else {}
        if method.weights == "reinit" and hasattr(small, "initialise_"):
            _initialise(small, task.seed + _REINIT_SEED_OFFSET)
    session.journal.ledger.add(meter.cost(Work()))
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
        momentum=momentum,
    )


def check_notes(ticket: Ticket) -> None:
    """Raise unless the ticket says where it stood in its schedule and what it had cost.

    Raises:
        TicketError: it was drawn in another loop, which noted nothing of that.
    """
    missing = [
        key for key in ("step", "draw_steps", "total_steps", "steps_per_epoch", "journal") if key not in ticket.notes
    ]
    if missing:
        raise TicketError(
            f"the ticket does not say {', '.join(missing)}: no search of ours drew it; give one that `earlybird "
            "search` or `earlybird train` wrote, or cut with earlybird.slim in your own loop"
        )


def _check_groups(ticket: Ticket, groups: ChannelGroups) -> None:
    if ticket.groups_digest not in ("", groups.digest()):
        raise TicketError(
            f"the ticket was drawn for other channel groups (policy {ticket.policy!r}) than this network has under "
            f"policy {groups.policy!r}; give the --model and --method.policy of its search"
        )


def save_scores(hooks: SearchHooks, folder: Path) -> None:
    """Write `scales.npz`: per layer the scores `[draws, channels]`, and `steps` `[draws]`."""
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
    path = rewind_file(task.folder, method.rewind_epoch)
    if not path.is_file():
        raise TicketError(
            f"{path} is missing; search again with --method.weights rewind --method.rewind_epoch {method.rewind_epoch}"
        )
    try:
        dense.load_state_dict(load(path.read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise TicketError(f"{path} is corrupt or of another network; search again") from error
    return step


def _cut_momentum(task: Task, dense: nn.Module, ticket: Ticket, groups: ChannelGroups) -> dict[str, Tensor]:
    """The search's momentum at the ticket's moment, cut as the weights are.

    Raises:
        TicketError: the file beside the ticket is missing, corrupt or of another network.
    """
    path = momentum_file(task.folder / ticket_file(0.0, (0.0,)))
    if not path.is_file():
        raise TicketError(f"{path} is missing; search again with --method.carry_momentum true")
    try:
        buffers = load(path.read_bytes())
    except SafetensorError as error:
        raise TicketError(f"{path} is corrupt; search again with --method.carry_momentum true") from error
    shapes = {name: parameter.shape for name, parameter in dense.named_parameters()}
    if any(shapes.get(name) != buffer.shape for name, buffer in buffers.items()):
        raise TicketError(f"{path} is of another network; search again with --method.carry_momentum true")
    indices = kept_indices(dense, ticket.mask, task.example_input(), groups)
    return {name: sliced(buffer, indices[name]) for name, buffer in buffers.items()}


def _initialise(small: nn.Module, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        small.initialise_()  # type: ignore[operator]


def _shown(distances: Sequence[float]) -> str:
    return ", ".join(f"{d:.3f}" for d in distances) or "none"
