"""The certificate: which channels may go, and for the others why not.

A class of tied slots may be removed only if every conv or linear that reads it reads zero once its keys are masked
(`method.md` section 4), and nothing needs it at full width. Then leaving it out changes no sum. The residual policy
decides what an add does to its operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from earlybird.errors import SlimError
from earlybird.slimming.graph import ExampleInput, TracedNetwork, trace
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

    `auto` is `select` where a norm reads what an add made (a pre-activation stream), `tie` otherwise.

    Raises:
        SlimError: the network cannot be traced, an operation has no rule, or the policy is unknown.
    """
    if policy not in ("auto", "inner", "tie", "select"):
        raise SlimError(f"residual policy {policy!r} is unknown; choose auto, inner, tie or select")
    network = trace(model, example_input)
    if policy != "select":
        book = walk(network, {}, breaks_ties=False)
        if policy == "auto" and book.streams_into_norms:
            policy = "select"
        else:
            resolved: Policy = "inner" if policy == "inner" else "tie"
            return _verdict(network, book, resolved)
    return _with_selection(network)


def _with_selection(network: TracedNetwork) -> Certificate:
    """Policy `select`: let norms gather, nearest to the stream first, until no channel is won any more."""
    selecting: dict[str, NDArray[np.bool_]] = {}
    while True:
        certificate = _verdict(network, walk(network, selecting, breaks_ties=True), "select")
        more = _norms_to_turn(certificate, selecting)
        if not more:
            return certificate
        for name, channels in more.items():
            selecting[name] = selecting[name] | channels if name in selecting else channels


def _norms_to_turn(certificate: Certificate, selecting: dict[str, Flags]) -> dict[str, Flags]:
    """Norm name -> channels whose input cannot go.

    Those next to the stream first: a norm behind another may then pass on what the first one gathered.
    """
    stuck: dict[str, Flags] = {}
    book = certificate.book
    for name in book.norms:
        if len(book.inputs[name]) != len(book.outputs[name]) or "index" in certificate.network.modules[name]._buffers:
            continue  # It selects already, as a module.
        channels = ~certificate.may_go(book.inputs[name])
        if name in selecting:
            channels &= ~selecting[name]
        if channels.any():
            stuck[name] = channels
    return {name: channels for name, channels in stuck.items() if not book.norms[name]} or stuck


def _verdict(network: TracedNetwork, book: SlotBook, policy: Policy) -> Certificate:
    classes = book.classes()
    reason_of: dict[int, str] = {}
    crossings = book.adds if policy == "inner" else []
    for pin in [*crossings, *book.pins, *_unclean_readings(network, book), *_unmaskable(book, classes)]:
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
