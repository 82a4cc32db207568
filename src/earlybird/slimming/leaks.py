"""Tracing leaves nothing behind: what a forward stored while it was traced is taken back.

A forward may keep things (`self.features = x`, a table of coordinates per image size). Traced, it would keep values to
be, which are of no use to its next call: not in the copy that is traced next in another mode, and least of all in a
table of the caller's own.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from torch import nn

CONSTANT = "_tensor_constant"  # fx keeps the constants of a graph under such names in the root.
_INNER = ("_parameters", "_buffers", "_modules")


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give every module the attributes back that it had, but for the constants of a graph."""
    before = [(module, dict(vars(module)), _inner(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, inner in before:
            constants = {name: value for name, value in vars(module).items() if name.startswith(CONSTANT)}
            vars(module).clear()
            vars(module).update(attributes | constants)
            for name, values in inner.items():
                vars(module)[name].clear()
                vars(module)[name].update(values)


def take_back(made: list[ref[Any]]) -> None:
    """Remove from every dict and list those of the values made while tracing that are still alive."""
    for generation in (None, 1, 2):
        if generation is not None:
            # Cycles hold values for a while, and a failed trace hangs in its own traceback. What is young goes first:
            # to look through all that a large program holds takes long.
            gc.collect(generation)
        if not any(value() is not None for value in made):
            return
    alive = [value for value in (each() for each in made) if value is not None]
    leaked = {id(value) for value in alive}
    for holder in gc.get_referrers(*alive):
        if holder is alive:
            continue
        if type(holder) is dict:
            for key in [key for key, value in holder.items() if id(value) in leaked]:
                del holder[key]
        elif type(holder) is list:
            holder[:] = [value for value in holder if id(value) not in leaked]


def _inner(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(module)[name]) for name in _INNER}
