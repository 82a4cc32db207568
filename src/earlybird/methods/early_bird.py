"""`early_bird`: search until the mask stops changing, cut, train only the small network (You et al. 2020, Algorithm 1).

`draw_tickets` is the search: one dense training under the penalty that leaves every ticket that is asked for.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.core import (
    CRITERION_NAMES,
    BNSaliency,
    ChannelGroups,
    ChannelMask,
    Criterion,
    EarlyBird,
    Ticket,
    criteria,
)
from earlybird.core.drawing import draw_mask, realised_ratio, scored_groups
from earlybird.core.stop_rules import STOP_RULES
from earlybird.cost import MethodPlan, Schedule, Stage
from earlybird.errors import ConfigError, EarlyBirdError, MaskError, SlimError, TicketError
from earlybird.methods.hooks import SearchHooks, momentum_file
from earlybird.methods.retrain import Retrain, cut, refuse_foreign_ticket, ticket_in
from earlybird.methods.task import Candidate, Task
from earlybird.settings.method import NO_TICKET_CURE, Clock, EarlyBirdTraining, TicketRequest, settled
from earlybird.slimming import channel_groups
from earlybird.training.loop import fit
from earlybird.training.session import Session
from earlybird.training.state import Span
from earlybird.user_code import find_callable

_FUNCTIONS = ("bn_scale", "filter_l1", "filter_l2", "taylor")
CRITERIA: dict[str, Criterion] = {name: getattr(criteria, name) for name in _FUNCTIONS}
# Criteria that read gradients, of which there are none before training -> one that scores the same layers by then.
_READ_GRADIENTS = {"taylor": "filter_l1", "bn_saliency": "bn_scale"}
_import_once = cache(find_callable)
# Random masks must not repeat the numbers that the run's initial weights were drawn with.
_SEED_OFFSET = 2_000_003


def check_network(method: EarlyBirdTraining, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless there are channels to cut and scores to rank them by."""
    if method.criterion in _READ_GRADIENTS and method.draw_at == 0:
        told = f"criterion {method.criterion!r} reads gradients, of which there are none at draw 0"
        raise MaskError(f"{told}; give a later draw")
    refuse_nothing_to_cut(method.criterion, model, channel_groups(model, example_input, method.policy))


def search(method: EarlyBirdTraining, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Train dense with the penalty until the rule fires, save the ticket, cut.

    Raises:
        EarlyBirdError: nothing fired and `on_no_ticket` is "error".
    """
    hooks, model = draw_tickets(method, task, [TicketRequest(method.prune_ratio, method.draw_at)], resume)
    if hooks.has_all_tickets():
        return restore(method, task)
    if method.on_no_ticket == "error":
        raise_no_ticket(hooks)
    session, distances = task.session, tuple(hooks.detector.distances[method.prune_ratio])
    last = _shown(distances[-method.window :])
    total, why = session.total_steps, f"the rule never fired; {NO_TICKET_CURE}"
    if method.draw_at != "rule":
        draws = hooks.detector.draws
        why = f"only {draws} draws told channels apart, not {method.draw_at}; give more --epochs, or an earlier draw"
    session.progress.say(f"ticket: none (last mask distances {last}, epsilon {method.epsilon:g}): {why}")
    flags, draw_steps = (f"no ticket: {why}",), tuple(hooks.draw_steps)
    return Candidate(model, "retrain", total, total, distances=distances, draw_steps=draw_steps, flags=flags)


def restore(method: EarlyBirdTraining, task: Task) -> Candidate:
    """Rebuild the candidate from the ticket in the run folder."""
    ticket, penalty = with_random_mask(task, ticket_in(task.folder), method), method.retrain_penalty
    if penalty == "search":
        penalty = method.clock_of(task.session.steps_per_epoch, task.session.total_steps).penalty(method.penalty)
    weights, schedule, policy = method.weights, method.resolved_schedule, method.policy
    retrain = Retrain(weights, schedule, method.rewind_epoch, method.carry_momentum, penalty, policy)
    candidate = cut(task, ticket, retrain)
    if candidate.start_step >= candidate.end_step:
        flag = "drawn when the schedule was over: nothing was trained after the cut"
        return replace(candidate, flags=(*candidate.flags, flag))
    return candidate


def from_ticket(method: EarlyBirdTraining, task: Task, ticket: Ticket) -> Candidate:
    """Candidate of a ticket that another search left; that search is charged.

    Raises:
        TicketError: another method left it.
    """
    refuse_foreign_ticket(ticket, method.name)
    task.session.journal.load_state_dict(ticket.notes["journal"])
    return restore(method, task)


def draw_tickets(
    method: EarlyBirdTraining,
    task: Task,
    requests: Sequence[TicketRequest],
    resume: dict[str, Any] | None,
    *,
    end_step: int | None = None,
) -> tuple[SearchHooks, nn.Module]:
    """Train dense under the penalty until every ticket that is asked for lies in the folder, or the steps end.

    Args:
        requests: the tickets to leave; the ratio and draw of `method` itself are not looked at.
        end_step: where training ends if something never fires; by default with the schedule.

    Returns:
        The hooks, which know the detector and the log, and the dense network as the search left it.

    Raises:
        ConfigError: a draw is asked for that the search does not come to.

    Warns:
        UserWarning: the search has too few draws for the stop rule to fire.
    """
    session = task.session
    model = task.build()
    groups = task.groups(model, method.policy)
    ratios = list(dict.fromkeys(request.prune_ratio for request in requests))
    shared = ("rule", "window", "epsilon", "min_channels", "tie_score")
    settings: dict[str, Any] = {name: getattr(method, name) for name in shared}
    settings["round_to"] = settled(method.round_to)
    criterion = find_criterion(method.criterion)
    if isinstance(criterion, BNSaliency):
        criterion.begin(model)  # A captured step makes nothing new.
    detector = EarlyBird(ratios, groups, criterion=criterion, **settings)
    clock = method.clock_of(session.steps_per_epoch, session.total_steps)
    hooks = SearchHooks(method, detector, clock, search_steps(method, session), task.folder, requests)
    _check_draws(method, requests, clock, hooks.max_steps)
    if resume is None:
        # Tickets that another configuration left here (--force), and what belongs to them.
        tickets = [task.folder / request.file_name(requests) for request in requests]
        for path in (*tickets, *map(momentum_file, tickets), *task.folder.glob("rewind-e*.safetensors")):
            path.unlink(missing_ok=True)
    span = Span("search", 0, session.total_steps if end_step is None else end_step)
    fit(session, model, span, task.cost(model), hooks=hooks, resume=resume)
    hooks.save_scores()
    return hooks, model


def _check_draws(method: EarlyBirdTraining, requests: Sequence[TicketRequest], clock: Clock, max_steps: int) -> None:
    last, needed = clock.draws_by(max_steps), STOP_RULES[method.rule].earliest(method.window)
    for request in requests:
        if isinstance(request.draw_at, int) and request.draw_at > last:
            raise ConfigError(f"method.draw_at is {request.draw_at}; this search has {last} draws: give 0 to {last}")
    if last < needed and any(request.draw_at == "rule" for request in requests):
        told = f"rule {method.rule!r} needs {needed} draws and this search has {last}: it cannot fire"
        warnings.warn(f"{told}; raise --epochs, or lower --method.window or --method.min_draw_steps", stacklevel=3)


def plan(method: EarlyBirdTraining, schedule: Schedule) -> MethodPlan:
    """Dense training to the draw, then the slim network to the end of the schedule; dense training without a draw."""
    drawn, start = planned_draw(method, schedule), method.retrain_start
    if drawn is None:
        return MethodPlan((Stage("search", "dense", schedule.total_steps),), "dense")
    begins = drawn if start == "ticket" else min(drawn, schedule.data.steps(start))
    search = Stage("search", "dense", drawn, validation="epochs")
    return MethodPlan((search, Stage("retrain", "slim", schedule.total_steps, begins)), "slim")


def planned_draw(method: EarlyBirdTraining, schedule: Schedule) -> int | None:
    """Step of the planned schedule after which the ticket is drawn; None where none is.

    Raises:
        ConfigError: the search ends before the draw.
    """
    per_epoch, total = schedule.data.steps_per_epoch, schedule.total_steps
    most = min(method.max_search_epochs * per_epoch or total, total)
    if isinstance(method.draw_at, int):
        clock = method.clock_of(per_epoch, total)
        _check_draws(method, [TicketRequest(method.prune_ratio, method.draw_at)], clock, most)
        return clock.step_of(method.draw_at)
    if method.draw_at == "rule" and (schedule.ticket_step is None or schedule.ticket_step > most):
        return most if method.on_no_ticket == "draw" else None
    return schedule.ticket_step if method.draw_at == "rule" else most


def refuse_nothing_to_cut(criterion: str, model: nn.Module, groups: ChannelGroups) -> None:
    """Say before any training that there is nothing to search for.

    Raises:
        SlimError: no channel of the network may go.
        MaskError: the criterion cannot score this network.
    """
    groups = scored_units(criterion, model, groups)
    if not groups.num_units:
        reasons = Counter(why for channels in groups.protected.values() for why in channels.values())
        most = "; ".join(why for why, _ in reasons.most_common(2))
        raise SlimError(f"nothing can be cut from this network ({most}); `earlybird inspect` says why, layer by layer")


def search_steps(method: EarlyBirdTraining, session: Session) -> int:
    """Steps during which masks are drawn: `max_search_epochs`, at most the schedule."""
    total = session.total_steps
    return min(method.max_search_epochs * session.steps_per_epoch or total, total)


def raise_no_ticket(hooks: SearchHooks) -> NoReturn:
    """Raise an `EarlyBirdError` that says for which ratios nothing fired, and how far it was."""
    detector = hooks.detector
    missing = [request.prune_ratio for request in hooks.missing()]
    last = _shown(detector.distances[missing[0]][-detector.window :])
    told = f"no ticket for ratio {', '.join(f'{ratio:g}' for ratio in missing)}: the search never fired"
    distances = f"its last mask distances are {last} against epsilon {detector.epsilon:g}"
    raise EarlyBirdError(f"{told}, {distances}; {NO_TICKET_CURE} or finish")


def _shown(distances: Sequence[float]) -> str:
    return ", ".join(f"{d:.3f}" for d in distances) or "none"


def find_criterion(name: str) -> Criterion:
    """The criterion of a name; the user's own is imported once, `bn_saliency` begins anew at each call.

    Raises:
        ConfigError: there is none of this name.
    """
    if name == "bn_saliency":
        return BNSaliency()
    if name in CRITERIA:
        return CRITERIA[name]
    found: Criterion = _import_once(name, "criterion", ConfigError, other_forms=", ".join(CRITERION_NAMES))
    return found


def scored_units(name: str, model: nn.Module, groups: ChannelGroups) -> ChannelGroups:
    """The units that a criterion can rank before any training; the others are protected.

    Of one that reads gradients, of which there are none yet, the units of the layers that it scores.

    Raises:
        MaskError: the criterion scores nothing of this network.
    """
    criterion = find_criterion(_READ_GRADIENTS.get(name, name))
    return scored_groups(criterion(model), groups) if groups.num_units else groups


def with_random_mask(task: Task, ticket: Ticket, method: EarlyBirdTraining) -> Ticket:
    """The ticket with its mask drawn anew as `method.channels` says; the same one for the same seed and ticket.

    Raises:
        TicketError: the ticket is of another network.
    """
    if method.channels == "ranked":
        return ticket
    model = task.build()
    groups = task.groups(model, method.policy)
    if ticket.mask.widths() != groups.widths():
        raise TicketError("the ticket belongs to another network; give the --model it was drawn from")
    rng = np.random.default_rng(task.seed + _SEED_OFFSET)
    groups = scored_units(method.criterion, model, groups)
    if method.channels == "shuffled":
        mask, how = shuffled(ticket.mask, groups, rng), "as many channels in each layer, drawn by lot"
    else:
        mask, how = at_random(ticket, groups, rng), "channels drawn by lot over the whole network"
    return replace(ticket, mask=mask, realised_ratio=realised_ratio(mask, groups), flags=(*ticket.flags, how))


def shuffled(mask: ChannelMask, groups: ChannelGroups, rng: np.random.Generator) -> ChannelMask:
    """A mask that keeps as many channels in each layer, but others; tied channels go together.

    Raises:
        MaskError: the mask does not fit the groups.
    """
    keep = groups.keep_units(mask).numpy().copy()
    for block in groups.blocks:
        keep[block] = rng.permutation(keep[block])
    return groups.mask_of(torch.from_numpy(keep))


def at_random(ticket: Ticket, groups: ChannelGroups, rng: np.random.Generator) -> ChannelMask:
    """A mask of the ticket's ratio, floor and rounding, its units drawn at random over the whole network."""
    # One number for each unit, however many channels it ties; the last is what -1, protected, points at.
    chance = torch.from_numpy(np.append(rng.random(groups.num_units), 1.0))
    scores = {name: chance[units] for name, units in groups.unit_of.items()}
    return draw_mask(scores, ticket.prune_ratio, groups, min_channels=ticket.min_channels, round_to=ticket.round_to)
