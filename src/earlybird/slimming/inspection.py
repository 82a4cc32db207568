"""What can be cut from a network, as rows to read: the layers that are cut together, how many channels, and why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from earlybird.core.groups import ChannelGroups


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
    names = [*groups.unit_of, *groups.producer_unit_of]
    units_of = [
        np.unique(units.numpy()[units.numpy() >= 0])
        for units in (*groups.unit_of.values(), *groups.producer_unit_of.values())
    ]
    row_of = list(range(len(names)))
    owner: dict[int, int] = {}
    for layer, units in enumerate(units_of):
        for unit in units.tolist():
            _join(row_of, owner.setdefault(unit, layer), layer)
    rows: dict[int, list[int]] = {}
    for layer in range(len(names)):
        rows.setdefault(_root(row_of, layer), []).append(layer)
    return [
        _row(groups, [names[layer] for layer in layers])
        for layers in rows.values()
        if names[layers[0]] in groups.unit_of
    ]


def _row(groups: ChannelGroups, layers: list[str]) -> GroupRow:
    keys = [name for name in layers if name in groups.unit_of]
    units = np.concatenate([groups.unit_of[name].numpy() for name in keys])
    reasons = Counter(reason for name in keys for reason in groups.protected.get(name, {}).values())
    return GroupRow(tuple(layers), int(units.size), int(np.unique(units[units >= 0]).size), dict(reasons))


def _root(row_of: list[int], layer: int) -> int:
    while row_of[layer] != layer:
        layer = row_of[layer]
    return layer


def _join(row_of: list[int], a: int, b: int) -> None:
    a, b = _root(row_of, a), _root(row_of, b)
    row_of[max(a, b)] = min(a, b)
