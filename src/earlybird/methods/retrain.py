"""From a ticket or a weight mask to the candidate that is trained on: its weights, its stretch of the schedule.

Also what the run of a ticket costs, for controls: multiply-accumulates as executed, without the final evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load
from torch import Tensor, nn

from earlybird.core import STOP_RULES, ChannelGroups, ChannelMask, Ticket, WeightMask, mask_weights_, realised_ratio
from earlybird.core.drawing import shortfall_of
from earlybird.cost import CostLedger, ModelCost, Schedule, Work, training_macs
from earlybird.errors import TicketError, first_line
from earlybird.methods.hooks import momentum_file, rewind_file, ticket_notes
from earlybird.methods.task import Candidate, Task
from earlybird.settings.method import TICKET_FILE, EarlyBirdTraining
from earlybird.slimming import kept_indices, sliced, slim

WEIGHT_MASK_FILE = "weight-mask.safetensors"

Weights = Literal["inherit", "rewind", "reinit", "initial"]

# New weights must differ from those the mask was found with, and follow from the run's one seed.
REINIT_SEED_OFFSET = 1_000_003


@dataclass(frozen=True)
class Retrain:
    """Weights and schedule of a ticket's retraining (`docs/method.md` section 1, "After the ticket").

    Attributes:
        weights: "inherit" the ticket's, "rewind" to an epoch's, "reinit" with new ones of another seed, or "initial":
            new ones of the run's own seed, as the dense network starts with.
        schedule: "continue" where the weights stand in the schedule, or "restart" at its beginning.
        rewind_epoch: epoch that "rewind" goes back to.
        carry_momentum: start with the search's momentum, cut like the weights.
        penalty: strength of the L1 penalty.
        policy: residual policy of the cut.
        schedule_steps: length of a schedule of its own; None for the run's.
    """

    weights: Weights = "inherit"
    schedule: Literal["continue", "restart"] = "continue"
    rewind_epoch: int = 0
    carry_momentum: bool = False
    penalty: float = 0.0
    policy: str = "auto"
    schedule_steps: int | None = None


def leave_ticket(
    task: Task,
    mask: ChannelMask,
    groups: ChannelGroups,
    weights: Mapping[str, Tensor],
    *,
    rule: str,
    prune_ratio: float,
    step: int,
    scored: ChannelGroups | None = None,
    flags: tuple[str, ...] = (),
    file: str = TICKET_FILE,
    draw_steps: Sequence[int] = (),
    **drawn: Any,
) -> Ticket:
    """Write a ticket that no stop rule drew into the run folder: `cut` makes a candidate of it, now or after a kill.

    Args:
        weights: state dict of the dense network, to be inherited.
        rule: what drew it: the method's name.
        prune_ratio: what was asked for, in [0, 1).
        step: global step at which it was drawn.
        scored: the units that the ratio counts, where a score reaches only some (`core.drawing.scored_groups`).
        file: its name in the run folder.
        draw_steps: global step of every draw of its search.
        drawn: further fields of the ticket (criterion, round_to, ...).
    """
    counted = scored or groups
    if unscored := groups.num_units - counted.num_units:
        told = f"{unscored} of {groups.num_units} units have no score: they stay, and the ratio leaves them out"
        flags = (*flags, told)
    if told := shortfall_of(mask, counted, prune_ratio, drawn.get("round_to", 1)):
        flags = (*flags, told)
    own: dict[str, Any] = {"drawn_after": 0, "policy": groups.policy, "groups_digest": groups.digest(), "flags": flags}
    notes = ticket_notes(task.session, step, task.session.journal.state_dict(), draw_steps)
    realised = realised_ratio(mask, counted)
    ticket = Ticket(mask, weights, prune_ratio, realised, rule=rule, notes=notes, **{**own, **drawn})
    ticket.save(task.folder / file)
    return ticket


def ticket_in(folder: Path) -> Ticket:
    """The ticket that lies in a run folder.

    Raises:
        TicketError: there is none, or it cannot be read.
    """
    return Ticket.load(folder / TICKET_FILE)


def cut(task: Task, ticket: Ticket, retrain: Retrain, file: str = TICKET_FILE) -> Candidate:
    """Cut the dense network by the ticket and give it the weights and the schedule that are asked for.

    file: the ticket's, beside which its momentum lies.

    Raises:
        TicketError: the ticket is of another network or policy, or does not say where it stood in its schedule.
        MaskError: the ticket's mask does not fit this network.
    """
    check_notes(ticket)
    session, step = task.session, int(ticket.notes["step"])
    flags = list(ticket.flags)
    with session.meter("slim") as meter:
        seed = task.seed + (REINIT_SEED_OFFSET if retrain.weights == "reinit" else 0)
        dense = task.build(seed)
        if retrain.weights == "inherit":
            load_ticket_weights(dense, ticket)
        elif retrain.weights == "rewind" and retrain.rewind_epoch:
            step = _rewind(retrain, task, dense, ticket, flags)
        groups = task.groups(dense, retrain.policy)
        check_groups(ticket, groups)
        small = slim(dense, ticket.mask, task.example_input(), groups)
        momentum = _cut_momentum(task, dense, ticket, groups, file) if retrain.carry_momentum else {}
        # Drawn for the widths that are left; a network that lost nothing keeps those it was built with.
        draws_anew = retrain.weights in ("reinit", "initial") and not bool(ticket.mask.flat().all())
        if draws_anew and hasattr(small, "initialise_"):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                small.initialise_()  # type: ignore[operator]
        task.cost(session.compute.place(small))  # What the next phase counts with.
    session.journal.ledger.add(meter.cost(Work()))
    starts_anew = retrain.schedule == "restart" or (retrain.weights == "rewind" and not retrain.rewind_epoch)
    start, steps, draws = 0 if starts_anew else step, retrain.schedule_steps, tuple(ticket.notes["draw_steps"])
    end = session.total_steps if steps is None else steps
    candidate = Candidate(session.compute.place(small), "retrain", start, end, steps, ticket, momentum=momentum)
    return replace(candidate, penalty=retrain.penalty, distances=ticket.distances, draw_steps=draws, flags=tuple(flags))


def check_notes(ticket: Ticket) -> None:
    """Raise unless the ticket says where it stood in its schedule and what it had cost.

    Raises:
        TicketError: it was drawn in another loop, which noted nothing of that, or its notes were changed.
    """
    needed = ("step", "draw_steps", "total_steps", "steps_per_epoch", "journal")
    if missing := [key for key in needed if key not in ticket.notes]:
        told = f"the ticket does not say {', '.join(missing)}: no search of ours drew it"
        cure = "give one that `earlybird search` or `earlybird train` wrote"
        raise TicketError(f"{told}; {cure}, or cut with earlybird.slim in your own loop")
    notes, seconds = ticket.notes, ticket.notes.get("draw_seconds", [0.0, 0.0])
    steps = [notes["step"], notes["steps_per_epoch"], notes["total_steps"]]
    fits = {
        "its steps": _are_numbers(steps, int) and steps[0] <= steps[2] and steps[1] > 0,
        "draw_steps": _are_numbers(notes["draw_steps"], int),
        "draw_seconds": _are_numbers(seconds, float) and len(seconds) == 2,
        "journal": isinstance(notes["journal"], dict),
    }
    if wrong := [name for name, is_right in fits.items() if not is_right]:
        raise TicketError(f"the ticket's notes were changed ({wrong[0]}); draw it again or restore the file")


def _are_numbers(values: Any, kind: type) -> bool:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(values, list) and all(type(value) in kinds and value >= 0 for value in values)


def refuse_foreign_ticket(ticket: Ticket, method: str) -> None:
    """Raise unless an Early-Bird search drew the ticket: its cost is known, and there is something to go on from.

    Raises:
        TicketError: another method left it.
    """
    if ticket.rule not in (*STOP_RULES, "chosen", "forced"):
        raise TicketError(f"the ticket was left by {ticket.rule}; {method} takes one of an Early-Bird search")


def check_groups(ticket: Ticket, groups: ChannelGroups) -> None:
    """Raise unless the ticket was drawn for these groups.

    Raises:
        TicketError: it was drawn for others.
    """
    if ticket.groups_digest not in ("", groups.digest()):
        told = f"the ticket was drawn for other channel groups (policy {ticket.policy!r}) than this network has under"
        raise TicketError(f"{told} policy {groups.policy!r}; give the --model and --method.policy of its search")


def load_ticket_weights(dense: nn.Module, ticket: Ticket) -> None:
    """The ticket's weights into the dense network, in place; one on `meta` takes the ticket's own tensors.

    Raises:
        TicketError: they are of another network.
    """
    try:
        dense.load_state_dict(dict(ticket.weights), assign=any(parameter.is_meta for parameter in dense.parameters()))
    except RuntimeError as error:
        told = f"the ticket belongs to another network ({first_line(error)}); give the --model it was drawn from"
        raise TicketError(told) from error


def load_weights_of_epoch_(task: Task, model: nn.Module, epoch: int, cure: str) -> None:
    """Load the weights that the run folder keeps of an epoch to rewind to, in place.

    Raises:
        TicketError: the file is missing, corrupt or of another network; `cure` says how to come by it.
    """
    path = rewind_file(task.folder, epoch)
    weights = _read(path, cure)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise TicketError(f"{path} is corrupt or of another network; {cure}") from error


def _read(path: Path, cure: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise TicketError(f"{path} is missing; {cure}")
    try:
        return load(path.read_bytes())
    except Exception as error:  # Tensors of a changed header may be refused in any way.
        raise TicketError(f"{path} is corrupt or of another network ({first_line(error)}); {cure}") from error


def _rewind(retrain: Retrain, task: Task, dense: nn.Module, ticket: Ticket, flags: list[str]) -> int:
    """Load the rewind epoch's weights into `dense`; the step at which training goes on."""
    epoch = retrain.rewind_epoch
    step = epoch * task.session.steps_per_epoch
    if step > ticket.notes["step"]:
        flags.append(f"drawn before rewind epoch {epoch}: the ticket's own weights were inherited instead")
        load_ticket_weights(dense, ticket)
        return int(ticket.notes["step"])
    cure = f"search again with --method.weights rewind --method.rewind_epoch {epoch}"
    load_weights_of_epoch_(task, dense, epoch, cure)
    return step


def _cut_momentum(task: Task, dense: nn.Module, ticket: Ticket, groups: ChannelGroups, file: str) -> dict[str, Tensor]:
    """The search's momentum at the ticket's moment, cut as the weights are."""
    path, cure = momentum_file(task.folder / file), "search again with --method.carry_momentum true"
    buffers = _read(path, cure)
    shapes = {name: parameter.shape for name, parameter in dense.named_parameters()}
    if any(shapes.get(name) != buffer.shape for name, buffer in buffers.items()):
        raise TicketError(f"{path} is corrupt or of another network; {cure}")
    indices = kept_indices(dense, ticket.mask, task.example_input(), groups)
    return {name: sliced(buffer, indices[name]) for name, buffer in buffers.items()}


def networks_of_ticket(task: Task, ticket: Ticket, method: str) -> tuple[nn.Module, ChannelGroups, nn.Module]:
    """The dense network, the units that a ticket was drawn with, and the network that it leaves, for its widths.

    Raises:
        TicketError: it was drawn from another network, by another method, or in a loop that noted nothing.
    """
    check_notes(ticket)
    refuse_foreign_ticket(ticket, method)
    dense = task.build()
    groups = task.groups(dense, ticket.policy)
    check_groups(ticket, groups)
    return dense, groups, slim(dense, ticket.mask, task.example_input(), groups, check=False)


def early_bird_macs(task: Task, ticket: Ticket, slim_cost: ModelCost, start: int | Literal["ticket"]) -> int:
    """MACs of the search behind a ticket and of training what it leaves to the end of the schedule.

    Args:
        slim_cost: of the network that the ticket leaves.
        start: epoch at which training goes on after the cut, or "ticket" for where the ticket was drawn; a later one
            than that is taken for it.
    """
    searched = CostLedger.from_state(ticket.notes["journal"]["ledger"]).total().macs
    step = int(ticket.notes["step"])
    if start != "ticket":
        step = min(step, start * task.session.steps_per_epoch)
    return searched + training_macs(slim_cost, task.session.planned_data, step, task.session.total_steps)


def planned_budget(schedule: Schedule, start: int | Literal["ticket"]) -> int:
    """MACs that a control is matched to: as planned, or those of the `early_bird` that goes on at `start` (epoch)."""
    if schedule.budget_macs is not None:
        return schedule.budget_macs
    early_bird = EarlyBirdTraining() if start == "ticket" else EarlyBirdTraining(weights="rewind", rewind_epoch=start)
    return early_bird.plan(schedule).training_macs(schedule)


def weight_candidate(task: Task, model: nn.Module, *, start_step: int = 0) -> Candidate:
    """`model` with the folder's weight mask applied and to be held, trained to the end of the schedule.

    Raises:
        TicketError: the folder has no intact weight mask.
        MaskError: the mask is of another network.
    """
    mask, notes = WeightMask.load(task.folder / WEIGHT_MASK_FILE)
    mask_weights_(model, mask)
    empty = [name for name, kept in mask.kept_counts().items() if kept == 0]
    flags = (f"no weight is left in {', '.join(empty)}",) if empty else ()
    told: dict[str, object] = {"prune_ratio": notes["prune_ratio"], "mask_step": notes["step"]}
    end = task.session.total_steps
    return Candidate(model, "retrain", start_step, end, weight_mask=mask, flags=flags, notes=told)
