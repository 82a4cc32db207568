"""Criteria by name: the built-in ones, and the user's own by path (`pkg.mod:function`, `file.py:function`)."""

from __future__ import annotations

from functools import cache

from torch import nn

from earlybird.core import CRITERION_NAMES, ChannelGroups, Criterion, criteria, filter_l1
from earlybird.core.drawing import scored_groups
from earlybird.errors import ConfigError, require
from earlybird.user_code import find_callable, is_code

CRITERIA: dict[str, Criterion] = {name: getattr(criteria, name) for name in CRITERION_NAMES}
_import_once = cache(find_callable)


def find_criterion(name: str) -> Criterion:
    """The criterion of a name; the user's own is imported once.

    Raises:
        ConfigError: there is none of this name.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    expected = f"one of {', '.join(CRITERIA)}, pkg.mod:function or file.py:function"
    require("method.criterion", name, is_code(name, "criterion"), expected)
    found: Criterion = _import_once(name, "criterion", ConfigError, other_forms=", ".join(CRITERIA))
    return found


def scored_units(name: str, model: nn.Module, groups: ChannelGroups) -> ChannelGroups:
    """The units that a criterion can rank before any training; the others are protected.

    `taylor` reads gradients, of which there are none yet; it scores every conv and linear.

    Raises:
        MaskError: the criterion scores nothing of this network.
    """
    criterion = filter_l1 if name == "taylor" else find_criterion(name)
    return scored_groups(criterion(model), groups) if groups.num_units else groups
