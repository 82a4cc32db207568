"""Channel groups of a network: which channels may go, found by tracing it once, priced channel by channel, as rows.

A class of tied channels may go only if every conv or linear that reads it reads zero once its keys are masked
(`docs/method.md` section 4) and nothing needs it at full width. Then leaving it out changes no sum.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, Policy, PolicyChoice
from earlybird.core.groups import UNREACHED
from earlybird.errors import MaskError, SlimError, wrong_value
from earlybird.slimming.channels import ChannelIds, ChannelTable, Flags, Kept, connected
from earlybird.slimming.layers import kind_of
from earlybird.slimming.propagation import propagate_
from earlybird.slimming.selection import GATHERING, Norm
from earlybird.slimming.tracing import REMOVE_HOOK, ExampleInput, TracedNetwork, trace


def channel_groups(
    model: nn.Module, example_input: ExampleInput, policy: PolicyChoice = "auto", *, keep: Sequence[str] = ()
) -> ChannelGroups:
    """Find what may be cut from `model`, and together with what (`docs/method.md` sections 1 and 4).

    Mask keys are all norms with a scale, and each conv or linear whose output no norm follows and of which some channel
    may go. The model is left as found.

    Args:
        model: any network that `torch.fx` can trace.
        example_input: a tensor, or a tuple of tensors, with the batch first.
        policy: what an add does: `inner` protects what crosses it, `tie` cuts its operands together, `select` keeps the
            stream whole and lets norms gather from it; `auto` is `select` for pre-activation streams, else `tie`.
        keep: glob patterns of layer names (norm, conv, linear) to leave whole.

    Raises:
        SlimError: the network cannot be traced, an operation has no rule, or a pattern matches no layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> channel_groups(net, torch.zeros(1, 3, 8, 8)).num_units
        4
    """
    if isinstance(keep, str) or not all(isinstance(pattern, str) for pattern in keep):
        raise SlimError(f"keep is {keep!r}; give a list of glob patterns, such as keep=['stem.*']")
    return groups_of(protect_channels(model, example_input, policy), keep)


def channel_costs(
    model: nn.Module, example_input: ExampleInput, groups: ChannelGroups, layer_costs: Mapping[str, float]
) -> dict[str, Tensor]:
    """Mask key -> float32 `[channels]`: what goes with one channel, at full width.

    Args:
        model: the network of the groups.
        example_input: what the groups were found with.
        groups: what may be cut.
        layer_costs: module path -> cost of a convolution or linear, such as MACs; others cost nothing.

    Raises:
        SlimError: the network cannot be traced.
        MaskError: the groups are of another network.
    """
    protection = protect_channels(model, example_input, policy_of(groups))
    table, classes = protection.table, protection.classes
    cost = np.zeros(table.size)
    for name, total in layer_costs.items():
        for ids in (table.inputs.get(name), table.outputs.get(name)):
            if ids is not None and len(ids):
                # Several channels of a layer may be of one class: it loses all of them at once.
                np.add.at(cost, classes[ids], total / len(ids))
    missing = [name for name in groups.unit_of if name not in table.outputs and bool((groups.unit_of[name] >= 0).any())]
    if missing:
        raise MaskError(f"the channel groups name layer {missing[0]!r}, which this network does not have")
    return {
        name: torch.from_numpy(cost[classes[table.outputs[name]]]).float()
        for name in groups.unit_of
        if name in table.outputs
    }


@dataclass(frozen=True)
class GroupRow:
    """Layers that are cut together.

    Attributes:
        layers: names, in the order of the network; mask keys first.
        channels: channels of its mask keys, those that stay included.
        units: of them, sets of channels that can be removed.
        protected: reason -> how many channels of the mask keys stay for it.
    """

    layers: tuple[str, ...]
    channels: int
    units: int
    protected: dict[str, int]


def inspect_groups(groups: ChannelGroups) -> list[GroupRow]:
    """One row for each set of layers that share units, in the order of the network; each layer stands in one row."""
    layers = {**groups.unit_of, **groups.producer_unit_of}
    ties = [(np.full(units.numel(), i), len(layers) + units.numpy()) for i, units in enumerate(layers.values())]
    ties = [(layer[units >= len(layers)], units[units >= len(layers)]) for layer, units in ties]
    rows: dict[int, list[str]] = {}
    for name, row in zip(layers, connected(len(layers) + groups.num_units, ties).tolist(), strict=False):
        rows.setdefault(row, []).append(name)
    return [_row(groups, names) for names in rows.values() if names[0] in groups.unit_of]


def groups_of(protection: Protection, keep: Sequence[str] = ()) -> ChannelGroups:
    """The units of a protection; `keep` protects further classes but changes no tie."""
    table, reasons = protection.table, dict(protection.reason_of)
    for pattern in keep:
        names = fnmatch.filter(table.outputs, pattern)
        if not names:
            raise SlimError(f"keep pattern {pattern!r} matches no norm, conv or linear; see model.named_modules()")
        for root in np.unique(protection.classes[np.concatenate([table.outputs[name] for name in names])]).tolist():
            reasons.setdefault(root, f"keep={pattern!r}")
    masking = {*table.norms, *(name for name in table.keyed if protection.may_go(table.outputs[name]).any())}
    keys = [name for name in protection.network.modules if name in masking]
    units = dict.fromkeys(
        root for name in keys for root in protection.classes[table.outputs[name]].tolist() if root not in reasons
    )
    number = np.full(table.size, -1, dtype=np.int64)
    number[list(units)] = np.arange(len(units))
    unit_of: dict[str, Tensor] = {}
    producer_unit_of: dict[str, Tensor] = {}
    protected: dict[str, dict[int, str]] = {}
    unkeyed: dict[str, dict[int, str]] = {}  # What a hook keeps where no norm follows is no key, and to be told.
    norms = [module for module in protection.network.modules.values() if isinstance(module, Norm)]
    for name, module in protection.network.modules.items():
        if name in table.outputs and (name in keys or name in table.producers):
            roots = protection.classes[table.outputs[name]]
            (unit_of if name in keys else producer_unit_of)[name] = torch.from_numpy(number[roots])
            stay = {i: reasons[root] for i, root in enumerate(roots.tolist()) if root in reasons}
            if name in keys:
                protected[name] = stay
            elif name in table.keyed and all(why.endswith(REMOVE_HOOK) for why in stay.values()):
                unkeyed[name] = stay
        elif isinstance(module, Norm) and module.affine:
            unit_of[name] = torch.full((module.num_features,), -1)
            protected[name] = dict.fromkeys(range(module.num_features), table.whole.get(name, UNREACHED))
        elif (why := table.whole.get(name, "")).endswith(REMOVE_HOOK) and (kind := kind_of(module)) and not norms:
            unkeyed[name] = dict.fromkeys(range(getattr(module, kind.outputs)), why)
    told = {why for channels in protected.values() for why in channels.values()}
    protected |= {name: stay for name, stay in unkeyed.items() if told.isdisjoint(stay.values())}
    protected = {name: channels for name, channels in protected.items() if channels}
    readers = {reading.reader: torch.from_numpy(number[protection.classes[reading.ids]]) for reading in table.readings}
    return ChannelGroups(unit_of, producer_unit_of, protected, protection.policy, readers)


def _row(groups: ChannelGroups, layers: list[str]) -> GroupRow:
    keys = [name for name in layers if name in groups.unit_of]
    units = np.concatenate([groups.unit_of[name].numpy() for name in keys])
    reasons = Counter(reason for name in keys for reason in groups.protected.get(name, {}).values())
    return GroupRow(tuple(layers), int(units.size), int(np.unique(units[units >= 0]).size), dict(reasons))


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
        raise SlimError(wrong_value("residual policy", policy, "auto, inner, tie or select"))
    network = trace(model, example_input)
    if policy != "select":
        tied = _verdict(network, "inner" if policy == "inner" else "tie", ChannelTable())
        if policy != "auto" or not tied.table.streams_into_norms:
            return tied
        selecting = _with_selection(network)
        return selecting if _prunable(selecting) >= _prunable(tied) else tied
    return _with_selection(network)


def policy_of(groups: ChannelGroups) -> Policy:
    """The residual policy of groups that `channel_groups` made.

    Raises:
        MaskError: they name another one.
    """
    if groups.policy not in get_args(Policy):
        raise MaskError(f"the channel groups have policy {groups.policy!r}; make them with channel_groups(...)")
    return cast(Policy, groups.policy)


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
        protection = _verdict(network, "select", ChannelTable(gathering, scattering, breaks_ties=True))
        table = protection.table
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
    protection = _verdict(network, "select", ChannelTable(breaks_ties=True))
    stuck = {name: ~protection.may_go(protection.table.outputs[name]) for name in _plain_norms(protection, {})}
    stuck = {name: channels for name, channels in stuck.items() if channels.any()}
    if not stuck:
        return {}
    tried = _verdict(network, "select", ChannelTable(scattering=stuck, breaks_ties=True))
    won = {name: channels & tried.may_go(tried.table.outputs[name]) for name, channels in stuck.items()}
    return {name: channels for name, channels in won.items() if channels.any()}


def _plain_norms(protection: Protection, scattering: dict[str, Flags]) -> list[str]:
    """Norms that could become selecting ones: of torch's own classes, and not selecting yet."""
    modules, table = protection.network.modules, protection.table
    without = {*scattering, *table.by_function}
    return [name for name in table.norms if name not in without and type(modules[name]) in GATHERING]


def _verdict(network: TracedNetwork, policy: Policy, table: ChannelTable) -> Protection:
    propagate_(network, table)
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
