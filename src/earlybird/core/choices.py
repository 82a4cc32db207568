"""Choices that settings and computation share; nothing here loads torch."""

from __future__ import annotations

from typing import Literal

# Built-in criteria, functions of `core/criteria.py`.
CRITERION_NAMES = ("bn_scale", "filter_l1", "filter_l2", "taylor")
# What a unit that ties several scored channels scores.
TieScore = Literal["mean", "max", "sum"]
# Residual policies (`docs/method.md` section 3); "auto" is resolved when a network is traced.
Policy = Literal["inner", "tie", "select"]
PolicyChoice = Literal["auto", "inner", "tie", "select"]
