"""Random masks: the controls for the choice of channels in a ticket (`docs/method.md` section 5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from earlybird.core import ChannelGroups, ChannelMask, Ticket, draw_mask
from earlybird.core.drawing import realised_ratio
from earlybird.errors import TicketError
from earlybird.methods.criteria import scored_units
from earlybird.methods.task import Task
from earlybird.settings.early_bird import EarlyBirdTraining

# Random masks must not repeat the numbers that the run's initial weights were drawn with.
_SEED_OFFSET = 2_000_003


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
