"""`network_slimming`: train to the end under the penalty, cut by a global threshold on |gamma|, train again.

Liu et al. 2017. It is the same training as the Early-Bird search; the mask is drawn once, when the schedule is over.
The second training runs over the whole schedule, as the table of You et al. 2020 charges it, with the penalty off.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from earlybird.core import Ticket
from earlybird.cost import MethodPlan, Schedule, Stage
from earlybird.errors import MaskError, TicketError
from earlybird.methods.early_bird import draw_tickets
from earlybird.methods.retrain import Retrain, check_notes, cut, ticket_in
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import NetworkSlimming
from earlybird.settings.method import TicketRequest


def check_network(method: NetworkSlimming, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless there are channels to cut and BatchNorm scales to rank them by."""
    if not any(isinstance(module, _BatchNorm) and module.affine for module in model.modules()):
        raise MaskError("it ranks BatchNorm scales, and the network has none")
    method.shared_search().check_network(model, example_input)


def search(method: NetworkSlimming, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Train dense with the penalty to the end of the schedule, save the ticket, cut."""
    draw_tickets(method.shared_search(), task, [TicketRequest(method.prune_ratio, "last")], resume)
    return restore(method, task)


def restore(method: NetworkSlimming, task: Task) -> Candidate:
    """Rebuild the candidate from the ticket in the run folder."""
    retrain = Retrain(weights=method.weights, schedule="restart", policy=method.policy)
    return cut(task, ticket_in(task.folder), retrain)


def from_ticket(method: NetworkSlimming, task: Task, ticket: Ticket) -> Candidate:
    """Candidate of a ticket that a search left at its end; that search is charged.

    Raises:
        TicketError: the ticket was drawn earlier.
    """
    check_notes(ticket)
    step, end = ticket.notes["step"], ticket.notes["total_steps"]
    if step != end:
        told = f"the ticket was drawn at step {step} of {end}"
        raise TicketError(f"{told}; {method.name} takes one of the end: search with --method.draw_at last")
    task.session.journal.load_state_dict(ticket.notes["journal"])
    return restore(method, task)


def plan(method: NetworkSlimming, schedule: Schedule) -> MethodPlan:
    """A whole dense training and a whole slim one."""
    total = schedule.total_steps
    search = Stage("search", "dense", total, validation="epochs")
    return MethodPlan((search, Stage("retrain", "slim", total)), "slim")
