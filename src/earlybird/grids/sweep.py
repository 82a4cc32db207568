"""A sweep: all nodes of a grid, done by any number of processes that know nothing of each other but the folder.

Each worker looks for a node whose needs are done, locks it, and does it. A worker that is killed loses its lock and
leaves a checkpoint; whoever comes next goes on from there. So no node is lost and none is done twice, on one machine or
on many that share the folder.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from earlybird.atomic import write_atomically
from earlybird.errors import ConfigError, MethodError, SweepError
from earlybird.grids.grid import Grid, RunNode, merged, nodes_of, parse_method
from earlybird.grids.run_node import LOCKS_NAME, execute, fail, failure_of, file_lock, node_lock, state_of
from earlybird.methods.pipeline import check_network
from earlybird.runs.config import CODE_FLAGS, RunConfig, differences, refuse_unnamed_code
from earlybird.runs.saved_model import NetworkSpec
from earlybird.training.compute import choose_device, choose_precision
from earlybird.user_code import is_code

GRID_NAME = "grid.json"
METHODS_FLAG = "--methods"
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Sweep:
    """A grid in its folder.

    Attributes:
        root: the folder.
        grid: all that was ever asked for in it.
        token: of this call; failures of earlier ones are tried again.
    """

    root: Path
    grid: Grid
    token: str

    @cached_property
    def nodes(self) -> list[RunNode]:
        """All nodes, what others need before them."""
        return nodes_of(self.grid)

    def needed(self) -> list[RunNode]:
        """The nodes that are asked for, and what those that are not done still need."""
        nodes = {node.id: node for node in self.nodes}
        wanted: dict[str, None] = {}
        queue = [node for node in nodes.values() if node.is_asked]
        while queue:
            node = queue.pop()
            if node.id not in wanted:
                wanted[node.id] = None
                if state_of(self.root, node, self.token) != "done":
                    queue += [nodes[need] for need in node.needs]
        return [node for node in nodes.values() if node.id in wanted]


def open_sweep(root: Path, grid: Grid, token: str) -> Sweep:
    """The sweep in a folder, with this grid added to what was asked for there before.

    Raises:
        SweepError: the folder holds a sweep of other settings, or something else.
        ConfigError: the grid is none.
    """
    grown(root, grid)  # which refuses what is wrong before anything is written
    (root / LOCKS_NAME).mkdir(parents=True, exist_ok=True)
    # Several calls may begin at once, each with more methods: none may overwrite what another has added.
    with file_lock(root / LOCKS_NAME / f"{GRID_NAME}.lock"):
        grid = grown(root, grid)
        content, path = json.dumps(grid.as_dict(), indent=1).encode(), root / GRID_NAME
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    return Sweep(root, grid, token)


def grown(root: Path, grid: Grid) -> Grid:
    """What was asked for in a folder before and what is asked for now, in one grid; nothing is written.

    Raises:
        SweepError: the folder holds a sweep of other settings, or something else.
        ConfigError: the grid is none.
    """
    nodes_of(grid)
    # Listed before it is looked for: another call may be about to write it.
    held = [path.name for path in root.iterdir()] if root.is_dir() else []
    if (root / GRID_NAME).is_file():
        known = read_grid(root)
        refuse_code_of_file(known, [name for name, _ in code_names(grid)])
        changes = _differences(known, grid)
        if changes:
            raise SweepError(
                f"{root} holds a comparison with other settings ({'; '.join(changes[:4])}); give another --out"
            )
        grid = merged([known, grid])
        nodes_of(grid)
    elif any(name != LOCKS_NAME and ".tmp-" not in name for name in held):
        raise SweepError(f"{root} is not empty and holds no comparison (no {GRID_NAME}); give another --out")
    return grid


def read_grid(root: Path) -> Grid:
    """What was asked for in a folder.

    Raises:
        SweepError: it holds no comparison, or its file is corrupt.
    """
    path = root / GRID_NAME
    try:
        return Grid.from_dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise SweepError(
            f"{root} holds no comparison (no {GRID_NAME}); give --methods, --ratios and --seeds"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{path} is corrupt ({error}); remove it and give the same command again") from error


def code_names(grid: Grid) -> list[tuple[str, str]]:
    """The name of each piece of the user's own code in a grid, and the flag that gives it."""
    found = [(str((grid.settings.get(name) or {}).get("name", "")), f"--{name}") for name in ("model", "data")]
    found.append((str(grid.method_settings.get("criterion", "")), "--method.criterion"))
    for text in [text for block in grid.blocks for text in block.methods]:
        name, own = parse_method(text)
        found += [(name, METHODS_FLAG), (str(own.get("criterion", "")), "--method.criterion")]
    return [(name, flag) for name, flag in found if is_code(name, CODE_FLAGS[flag])]


def refuse_methods_of_file(grid: Grid) -> None:
    """Raise where a grid that was read from a file names a method of the user's own: to list its runs would import it.

    Raises:
        ConfigError: it does.
    """
    for name, flag in code_names(grid):
        if flag == METHODS_FLAG:
            raise ConfigError(
                f"method {name!r} of this comparison is code that runs only when you name it; give the comparison's "
                "whole command again"
            )


def refuse_code_of_file(grid: Grid, trusted: Collection[str]) -> None:
    """Raise where a grid that was read from a file names code that the user has not named.

    Raises:
        ConfigError: it does.
    """
    for name, flag in code_names(grid):
        refuse_unnamed_code(flag, name, trusted)


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


def work(sweep: Sweep, said: Callable[[RunNode, str], None] | None = None, *, quiet: bool = True) -> None:
    """Do nodes until none is left to do, here or elsewhere.

    Args:
        sweep: the sweep.
        said: called with a node and "started", "finished" or "failed".
        quiet: print no progress within a run.

    Raises:
        Terminated: a signal asked to stop; the state is saved.
    """
    while True:
        left = [node for node in sweep.needed() if state_of(sweep.root, node, sweep.token) == "open"]
        if not left:
            return
        if not any(attempt(sweep, node, said, quiet=quiet) for node in left):
            time.sleep(_SECONDS_BETWEEN_LOOKS)  # All that is left is being done elsewhere, or waits for that.


def attempt(
    sweep: Sweep, node: RunNode, said: Callable[[RunNode, str], None] | None = None, *, quiet: bool = True
) -> bool:
    """Do a node if it can be done now; False if nothing changed.

    Args:
        sweep: the sweep.
        node: one of its nodes that is open.
        said: called with the node and "started", "finished" or "failed".
        quiet: print no progress within a run.
    """
    said = said or (lambda node, event: None)
    states = {need.id: state_of(sweep.root, need, sweep.token) for need in sweep.nodes if need.id in node.needs}
    broken = [name for name, state in states.items() if state == "failed"]
    if not broken and any(state != "done" for state in states.values()):
        return False
    with node_lock(sweep.root, node) as is_ours:
        if not is_ours or state_of(sweep.root, node, sweep.token) != "open":
            return False
        if broken:
            fail(sweep.root, node, sweep.token, SweepError(f"{broken[0]} failed, from which it starts"))
            said(node, "failed")
            return True
        said(node, "started")
        said(node, "finished" if execute(sweep.root, node, sweep.token, quiet=quiet) == "done" else "failed")
        return True


def failures(sweep: Sweep) -> dict[str, str]:
    """Id of each node that failed since this call began -> why."""
    found = {}
    for node in sweep.nodes:
        if state_of(sweep.root, node, sweep.token) == "failed":
            found[node.id] = str((failure_of(sweep.root, node) or {}).get("error"))
    return found


def unfinished(sweep: Sweep) -> list[str]:
    """Ids of the nodes that are asked for and are neither done nor failed."""
    return [n.id for n in sweep.nodes if n.is_asked and state_of(sweep.root, n, sweep.token) == "open"]


def _differences(known: Grid, grid: Grid) -> list[str]:
    def plain(one: Grid) -> dict[str, Any]:
        # Through a configuration: a grid of an older version lacks the settings that are younger.
        sections = RunConfig.from_dict({name: dict(section) for name, section in one.settings.items()}).to_dict()
        return sections | {"method": dict(one.method_settings)}

    return differences(plain(known), plain(grid))
