"""What is settled before a sweep begins: precision, and whether every method can handle the network."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from earlybird.errors import MethodError
from earlybird.grids.grid import Grid, nodes_of
from earlybird.methods.pipeline import check_network
from earlybird.runs.config import RunConfig
from earlybird.runs.saved_model import NetworkSpec
from earlybird.training.compute import choose_device, choose_precision


def with_precision(grid: Grid, spec: NetworkSpec, precision: str | None = None) -> Grid:
    """The grid with `precision: auto` settled, once for all its runs: by what is known, or by measuring.

    Runs that answered it one by one might be compared in different numbers.
    """
    config = any_config(grid)
    settings = config.training
    if settings.precision != "auto":
        return grid
    if precision is None:
        shape = (settings.batch_size, *spec.example_input().shape[1:])
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        device = choose_device(settings.device)
        precision = choose_precision("auto", spec.build(0), batch, device)
    sections: dict[str, Any] = {name: dict(section) for name, section in grid.settings.items()}
    sections["training"] = {**sections.get("training", {}), "precision": precision}
    return dataclasses.replace(grid, settings=sections)


def any_config(grid: Grid) -> RunConfig:
    """The configuration of one of the grid's nodes: model, data and training are those of all."""
    return RunConfig.from_dict(dict(nodes_of(grid)[0].config))


def check_methods(grid: Grid, spec: NetworkSpec) -> None:
    """Raise where a method of the grid cannot handle the network, naming all that cannot.

    Raises:
        MethodError: which, and why.
    """
    model, refusals = spec.build(0), {}
    example = torch.zeros(2, *spec.example_input().shape[1:])
    for node in nodes_of(grid):
        if node.label not in refusals:
            try:
                check_network(RunConfig.from_dict(dict(node.config)).method, model, example)
            except MethodError as error:
                refusals[node.label] = str(error)
    if refusals:
        raise MethodError("; ".join(refusals.values()) + "; leave them out of --methods")
