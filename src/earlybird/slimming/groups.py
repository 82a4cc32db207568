"""`channel_groups`: the units of a network, found by tracing it once."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from earlybird.core.groups import ChannelGroups
from earlybird.errors import SlimError
from earlybird.slimming.certificate import Certificate, PolicyChoice, certify_channels
from earlybird.slimming.graph import ExampleInput
from earlybird.slimming.select import Norm
from earlybird.slimming.slots import Slots

UNREACHED = "the network never runs this layer on the example input"


def channel_groups(
    model: nn.Module, example_input: ExampleInput, policy: PolicyChoice = "auto", *, keep: Sequence[str] = ()
) -> ChannelGroups:
    """What may be cut from `model`, and together with what (`docs/method.md` sections 1 and 4).

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
    return groups_of(certify_channels(model, example_input, policy), keep)


def groups_of(certificate: Certificate, keep: Sequence[str] = ()) -> ChannelGroups:
    """The units of a certificate; `keep` protects further classes but changes no tie."""
    book, reasons = certificate.book, dict(certificate.reason_of)
    for name, pattern in _kept_layers(certificate, keep):
        for root in np.unique(certificate.classes[book.outputs[name]]).tolist():
            reasons.setdefault(root, f"keep={pattern!r}")
    keys = [name for name in certificate.network.modules if name in book.outputs and _is_key(certificate, name)]
    number = np.full(book.size, -1, dtype=np.int64)
    count = 0
    for name in keys:
        count = _number_units(certificate.classes[book.outputs[name]], reasons, number, count)
    unit_of: dict[str, torch.Tensor] = {}
    producer_unit_of: dict[str, torch.Tensor] = {}
    protected: dict[str, dict[int, str]] = {}
    for name, module in certificate.network.modules.items():
        if name in book.outputs and (name in keys or name in book.producers):
            roots = certificate.classes[book.outputs[name]]
            (unit_of if name in keys else producer_unit_of)[name] = torch.from_numpy(number[roots])
            if name in keys:
                protected[name] = {i: reasons[root] for i, root in enumerate(roots.tolist()) if root in reasons}
        elif isinstance(module, Norm) and module.affine:
            unit_of[name] = torch.full((module.num_features,), -1)
            protected[name] = dict.fromkeys(range(module.num_features), book.whole.get(name, UNREACHED))
    protected = {name: channels for name, channels in protected.items() if channels}
    readers = {
        reading.reader: torch.from_numpy(number[certificate.classes[reading.slots]]) for reading in book.readings
    }
    return ChannelGroups(unit_of, producer_unit_of, protected, certificate.policy, readers)


def _is_key(certificate: Certificate, name: str) -> bool:
    book = certificate.book
    return name in book.norms or (name in book.keyed and bool(certificate.may_go(book.outputs[name]).any()))


def _number_units(roots: Slots, reasons: dict[int, str], number: Slots, count: int) -> int:
    for root in roots.tolist():
        if root not in reasons and number[root] < 0:
            number[root] = count
            count += 1
    return count


def _kept_layers(certificate: Certificate, keep: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for pattern in keep:
        names = fnmatch.filter(certificate.book.outputs, pattern)
        if not names:
            raise SlimError(f"keep pattern {pattern!r} matches no norm, conv or linear; see model.named_modules()")
        found += [(name, pattern) for name in names]
    return found
