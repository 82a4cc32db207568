"""The certificate: which channels may go, and for the others why not.

A class of tied slots may be removed only if every conv or linear that reads it reads zero once its keys are masked
(`docs/method.md` section 4) and nothing needs it at full width. Then leaving it out changes no sum. The residual policy
decides what an add does to its operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from earlybird.errors import SlimError
from earlybird.slimming.graph import ExampleInput, TracedNetwork, trace
from earlybird.slimming.select import GATHERING
from earlybird.slimming.slots import Flags, Pin, SlotBook, Slots
from earlybird.slimming.walk import walk

Policy = Literal["inner", "tie", "select"]
PolicyChoice = Literal["auto", "inner", "tie", "select"]


@dataclass(frozen=True)
class Certificate:
    """Slots of a network under one policy, with a verdict for each.

    Attributes:
        policy: the resolved residual policy.
        network: the traced copy.
        book: what its layers read and write, in slots.
        classes: `[slots]` the class of each slot.
        reason_of: class -> why it must stay; a class that is absent may go.
    """

    policy: Policy
    network: TracedNetwork
    book: SlotBook
    classes: Slots
    reason_of: dict[int, str]

    def may_go(self, slots: Slots) -> Flags:
        """`[len(slots)]` whether each slot may be removed."""
        stays = np.zeros(self.book.size, dtype=bool)
        stays[list(self.reason_of)] = True
        verdict: Flags = ~stays[self.classes[slots]]
        return verdict


def certify_channels(model: nn.Module, example_input: ExampleInput, policy: PolicyChoice) -> Certificate:
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
        book = walk(network, gathering={}, scattering={}, breaks_ties=False)
        tied = _verdict(network, book, "inner" if policy == "inner" else "tie")
        if policy != "auto" or not book.streams_into_norms:
            return tied
        selecting = _with_selection(network)
        return selecting if _prunable(selecting) >= _prunable(tied) else tied
    return _with_selection(network)


def _prunable(certificate: Certificate) -> int:
    """Channels of norms that may go."""
    book = certificate.book
    return sum(int(certificate.may_go(book.outputs[name]).sum()) for name in book.norms)


def _with_selection(network: TracedNetwork) -> Certificate:
    """Policy `select`: norms whose input may go write at full width, others gather, until no channel is won any more.

    Norms gather nearest to the stream first: one behind another may then pass on what the first one gathered.
    """
    scattering = _worthwhile_scattering(network)
    gathering: dict[str, Flags] = {}
    while True:
        book = walk(network, gathering=gathering, scattering=scattering, breaks_ties=True)
        certificate = _verdict(network, book, "select")
        stuck = {name: ~certificate.may_go(book.inputs[name]) for name in _plain_norms(certificate, scattering)}
        more = {name: channels & ~gathering.get(name, np.False_) for name, channels in stuck.items()}
        more = {name: channels for name, channels in more.items() if channels.any()}
        more = {name: channels for name, channels in more.items() if not book.norms[name]} or more
        if not more:
            return certificate
        for name, channels in more.items():
            gathering[name] = gathering[name] | channels if name in gathering else channels


def _worthwhile_scattering(network: TracedNetwork) -> dict[str, Flags]:
    """Norm name -> channels that may go once it writes at full width: those that reach an add from a conv, say."""
    certificate = _verdict(network, walk(network, gathering={}, scattering={}, breaks_ties=True), "select")
    stuck = {name: ~certificate.may_go(certificate.book.outputs[name]) for name in _plain_norms(certificate, {})}
    stuck = {name: channels for name, channels in stuck.items() if channels.any()}
    if not stuck:
        return {}
    tried = _verdict(network, walk(network, gathering={}, scattering=stuck, breaks_ties=True), "select")
    won = {name: channels & tried.may_go(tried.book.outputs[name]) for name, channels in stuck.items()}
    return {name: channels for name, channels in won.items() if channels.any()}


def _plain_norms(certificate: Certificate, scattering: dict[str, Flags]) -> list[str]:
    """Norms that could become selecting ones: of torch's own classes, and not selecting yet."""
    modules, book = certificate.network.modules, certificate.book
    without = {*scattering, *book.by_function}
    return [name for name in book.norms if name not in without and type(modules[name]) in GATHERING]


def _verdict(network: TracedNetwork, book: SlotBook, policy: Policy) -> Certificate:
    classes = book.classes()
    reason_of: dict[int, str] = {}
    crossings = book.adds if policy == "inner" else []
    whole = [
        Pin(slots, reason)
        for name, reason in book.whole.items()
        if name in book.outputs
        for slots in (book.inputs[name], book.outputs[name])
    ]
    whole += [
        Pin(slots, book.whole.get(path) or book.fixed[path, name])
        for (path, name), (_, slots) in book.own.items()
        if path in book.whole or (path, name) in book.fixed
    ]
    for pin in [*crossings, *whole, *book.pins, *_unclean_readings(network, book), *_unmaskable(book, classes)]:
        for root in np.unique(classes[pin.slots]).tolist():
            reason_of.setdefault(root, pin.reason)
    return Certificate(policy, network, book, classes, reason_of)


def _unclean_readings(network: TracedNetwork, book: SlotBook) -> list[Pin]:
    found = []
    for reading in book.readings:
        if not reading.zero.all():
            kind = type(network.modules[reading.reader]).__name__
            reason = f"'{reading.reader}' ({kind}) reads it where it is not zero when masked"
            found.append(Pin(reading.slots[~reading.zero], reason))
    return found


def _unmaskable(book: SlotBook, classes: Slots) -> list[Pin]:
    """Slots of no mask key; an affine-free norm, for one, leaves none."""
    has_key = np.zeros(book.size, dtype=bool)
    for name in [*book.norms, *book.keyed]:
        has_key[classes[book.outputs[name]]] = True
    return [Pin(np.flatnonzero(~has_key[classes]), "no layer can mask it")]
