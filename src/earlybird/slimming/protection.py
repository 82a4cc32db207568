"""Protection: which channels may go under a residual policy, and why the others must stay.

A class of tied channels may go only if every conv or linear that reads it reads zero once its keys are masked
(`docs/method.md` section 4) and nothing needs it at full width. Then leaving it out changes no sum. The residual policy
decides what an add does to its operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
from torch import nn

from earlybird.core import ChannelGroups, Policy, PolicyChoice
from earlybird.errors import MaskError, SlimError
from earlybird.slimming.channel_table import ChannelIds, ChannelTable, Flags, Kept
from earlybird.slimming.propagation import propagate
from earlybird.slimming.selection import GATHERING
from earlybird.slimming.tracing import ExampleInput, TracedNetwork, trace


@dataclass(frozen=True)
class Protection:
    """Channels of a network under one policy, with a verdict for each.

    Attributes:
        policy: the resolved residual policy.
        network: the traced copy.
        table: its channels and their ties.
        classes: `[ids]` the class of each channel.
        reason_of: class -> why it must stay; a class that is absent may go.
    """

    policy: Policy
    network: TracedNetwork
    table: ChannelTable
    classes: ChannelIds
    reason_of: dict[int, str]

    def may_go(self, ids: ChannelIds) -> Flags:
        """`[len(ids)]` whether each channel may be removed."""
        stays = np.zeros(self.table.size, dtype=bool)
        stays[list(self.reason_of)] = True
        verdict: Flags = ~stays[self.classes[ids]]
        return verdict


def protect_channels(model: nn.Module, example_input: ExampleInput, policy: PolicyChoice) -> Protection:
    """Trace `model` and decide for each channel whether it may go.

    `auto` is `select` where a norm reads what an add made (a pre-activation stream), unless `tie` leaves more of the
    norms' channels to choose from there (norms that cannot gather, such as subclasses); `tie` otherwise.

    Raises:
        SlimError: the network cannot be traced, or the policy is unknown.
    """
    if policy not in ("auto", "inner", "tie", "select"):
        raise SlimError(f"residual policy {policy!r} is unknown; choose auto, inner, tie or select")
    network = trace(model, example_input)
    if policy != "select":
        table = propagate(network, gathering={}, scattering={}, breaks_ties=False)
        tied = _verdict(network, table, "inner" if policy == "inner" else "tie")
        if policy != "auto" or not table.streams_into_norms:
            return tied
        selecting = _with_selection(network)
        return selecting if _prunable(selecting) >= _prunable(tied) else tied
    return _with_selection(network)


def policy_of(groups: ChannelGroups) -> Policy:
    """The residual policy of groups that `channel_groups` made.

    Raises:
        MaskError: they name another one.
    """
    for policy in get_args(Policy):
        if policy == groups.policy:
            return cast(Policy, policy)
    raise MaskError(f"the channel groups have policy {groups.policy!r}; make them with channel_groups(...)")


def _prunable(protection: Protection) -> int:
    """Channels of norms that may go."""
    table = protection.table
    return sum(int(protection.may_go(table.outputs[name]).sum()) for name in table.norms)


def _with_selection(network: TracedNetwork) -> Protection:
    """Policy `select`: norms whose input may go write at full width, others gather, until no channel is won any more.

    Norms gather nearest to the stream first: one behind another may then pass on what the first one gathered.
    """
    scattering = _worthwhile_scattering(network)
    gathering: dict[str, Flags] = {}
    while True:
        table = propagate(network, gathering=gathering, scattering=scattering, breaks_ties=True)
        protection = _verdict(network, table, "select")
        stuck = {name: ~protection.may_go(table.inputs[name]) for name in _plain_norms(protection, scattering)}
        more = {name: channels & ~gathering.get(name, np.False_) for name, channels in stuck.items()}
        more = {name: channels for name, channels in more.items() if channels.any()}
        more = {name: channels for name, channels in more.items() if not table.norms[name]} or more
        if not more:
            return protection
        for name, channels in more.items():
            gathering[name] = gathering[name] | channels if name in gathering else channels


def _worthwhile_scattering(network: TracedNetwork) -> dict[str, Flags]:
    """Norm name -> channels that may go once it writes at full width: those that reach an add from a conv, say."""
    protection = _verdict(network, propagate(network, gathering={}, scattering={}, breaks_ties=True), "select")
    stuck = {name: ~protection.may_go(protection.table.outputs[name]) for name in _plain_norms(protection, {})}
    stuck = {name: channels for name, channels in stuck.items() if channels.any()}
    if not stuck:
        return {}
    tried = _verdict(network, propagate(network, gathering={}, scattering=stuck, breaks_ties=True), "select")
    won = {name: channels & tried.may_go(tried.table.outputs[name]) for name, channels in stuck.items()}
    return {name: channels for name, channels in won.items() if channels.any()}


def _plain_norms(protection: Protection, scattering: dict[str, Flags]) -> list[str]:
    """Norms that could become selecting ones: of torch's own classes, and not selecting yet."""
    modules, table = protection.network.modules, protection.table
    without = {*scattering, *table.by_function}
    return [name for name in table.norms if name not in without and type(modules[name]) in GATHERING]


def _verdict(network: TracedNetwork, table: ChannelTable, policy: Policy) -> Protection:
    classes = table.classes()
    reason_of: dict[int, str] = {}
    crossings = table.adds if policy == "inner" else []
    whole = [
        Kept(ids, reason)
        for name, reason in table.whole.items()
        if name in table.outputs
        for ids in (table.inputs[name], table.outputs[name])
    ]
    whole += [
        Kept(ids, table.whole.get(path) or table.fixed[path, name])
        for (path, name), (_, ids) in table.own.items()
        if path in table.whole or (path, name) in table.fixed
    ]
    for kept in [*crossings, *whole, *table.kept, *_unclean_readings(network, table), *_unmaskable(table, classes)]:
        for root in np.unique(classes[kept.ids]).tolist():
            reason_of.setdefault(root, kept.reason)
    return Protection(policy, network, table, classes, reason_of)


def _unclean_readings(network: TracedNetwork, table: ChannelTable) -> list[Kept]:
    found = []
    for reading in table.readings:
        if not reading.zero.all():
            kind = type(network.modules[reading.reader]).__name__
            reason = f"'{reading.reader}' ({kind}) reads it where it is not zero when masked"
            found.append(Kept(reading.ids[~reading.zero], reason))
    return found


def _unmaskable(table: ChannelTable, classes: ChannelIds) -> list[Kept]:
    """Channels of no mask key; an affine-free norm, for one, leaves none."""
    has_key = np.zeros(table.size, dtype=bool)
    for name in [*table.norms, *table.keyed]:
        has_key[classes[table.outputs[name]]] = True
    return [Kept(np.flatnonzero(~has_key[classes]), "no layer can mask it")]
