"""`Sweep`: all run nodes of a grid, executed by any number of processes that share nothing but the folder.

Each worker looks for a node whose needs are done, locks it and executes it. A worker that is killed loses its lock and
leaves a checkpoint, from which the next one resumes. So no node is lost and none is executed twice, on one machine or
on many that share the folder.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from earlybird.atomic import file_lock, read_file, write_atomically
from earlybird.errors import ConfigError, MethodError, SweepError, reason
from earlybird.grids.grid import Grid, RunNode, merged, nodes_of, parse_method
from earlybird.grids.run_node import ENDS, LOCKS_NAME, State, error_of, execute, fail, failure_of, node_lock
from earlybird.methods.pipeline import check_network
from earlybird.runs.folder import NetworkSpec, refuse_many_processes
from earlybird.runs.schema import parse
from earlybird.settings.run import CODE_FLAGS, RunConfig, differences, refuse_unnamed_code
from earlybird.training.compute import choose_device, choose_precision
from earlybird.user_code import is_code

GRID_NAME = "grid.json"
METHODS_FLAG = "--methods"
SECONDS_BETWEEN_LOOKS = 0.5


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
        """All run nodes, each after those it starts from."""
        return nodes_of(self.grid)

    def state(self, node: RunNode) -> State:
        """State of one of its nodes for this call.

        A failure counts for the call in which it happened and for all that had begun before it: several calls that work
        on one folder try a node once. A call that begins later tries again.
        """
        if (self.root / node.id / ENDS[node.kind]).is_file():
            return "done"
        failure = failure_of(self.root, node)
        if failure is None:
            return "open"
        try:
            began = float(self.token.partition("-")[0])
        except ValueError:  # It does not say.
            began = float("inf")
        return "failed" if failure.get("token") == self.token or failure.get("time", 0.0) >= began else "open"

    def needed(self) -> list[RunNode]:
        """Nodes that were asked for, and those that the unfinished ones start from."""
        wanted = {node.id for node in self.nodes if node.is_asked}
        for node in reversed(self.nodes):  # each stands after those it starts from
            if node.id in wanted and self.state(node) != "done":
                wanted.update(node.needs)
        return [node for node in self.nodes if node.id in wanted]

    def left(self) -> list[RunNode]:
        """Needed nodes that are not done."""
        return [node for node in self.needed() if self.state(node) != "done"]


def open_sweep(root: Path, grid: Grid, token: str) -> Sweep:
    """Open the sweep of a folder and add this grid to it.

    Raises:
        SweepError: the folder holds a sweep of other settings, or something else.
        ConfigError: the grid is none.
    """
    refuse_many_processes()
    grown(root, grid)  # which refuses what is wrong before anything is written
    # Several calls may begin at once, each with more methods: none may overwrite what another has added.
    with file_lock(root / LOCKS_NAME / f"{GRID_NAME}.lock"):
        grid = grown(root, grid)
        content, path = json.dumps(dataclasses.asdict(grid), indent=1).encode(), root / GRID_NAME
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    return Sweep(root, grid, token)


def grown(root: Path, grid: Grid) -> Grid:
    """Merge a folder's grid with this one; nothing is written.

    Raises:
        SweepError: the folder holds a sweep of other settings, or something else.
        ConfigError: the grid is none, or the folder's names code that this one does not.
    """
    nodes_of(grid)
    # Listed before it is looked for: another call may be about to write it.
    held = [path.name for path in root.iterdir()] if root.is_dir() else []
    if (root / GRID_NAME).is_file():
        known = read_grid(root)
        trusted = [name for name, _ in code_names(grid)]
        for name, flag in code_names(known):
            refuse_unnamed_code(flag, name, trusted)
        plain = []
        for one in (known, grid):  # Through a configuration: one of an older version lacks the younger settings.
            sections = RunConfig.from_dict({name: dict(section) for name, section in one.settings.items()}).to_dict()
            plain.append(sections | {"method": dict(one.method_settings)})
        if changes := differences(*plain):
            told = "; ".join(changes[:4])
            raise SweepError(f"{root} holds a comparison with other settings ({told}); give another --out")
        grid = merged([known, grid])
        nodes_of(grid)
    elif any(name != LOCKS_NAME and ".tmp-" not in name for name in held):
        raise SweepError(f"{root} is not empty and holds no comparison (no {GRID_NAME}); give another --out")
    return grid


def read_grid(root: Path) -> Grid:
    """Read the grid of a folder.

    Raises:
        SweepError: it holds no comparison, or its file is corrupt.
    """
    path = root / GRID_NAME
    try:
        grid = Grid.from_dict(parse(read_file(path), "grid"))
        if not any(flag == METHODS_FLAG for _, flag in code_names(grid)):
            nodes_of(grid)  # which refuses unknown methods and wrong settings of theirs
        return grid
    except FileNotFoundError as error:
        told = f"{root} holds no comparison (no {GRID_NAME}); give --methods, --ratios and --seeds"
        raise SweepError(told) from error
    except (OSError, ValueError, ConfigError) as error:
        raise SweepError(f"{path} is corrupt ({reason(error)}); restore it, or give another --out") from error


def code_names(grid: Grid) -> list[tuple[str, str]]:
    """Names of the user's own code in a grid, each with the flag that gives it."""
    found = [(str((grid.settings.get(name) or {}).get("name", "")), f"--{name}") for name in ("model", "data")]
    found.append((str(grid.method_settings.get("criterion", "")), "--method.criterion"))
    for name, own in map(parse_method, grid.methods):
        found += [(name, METHODS_FLAG), (str(own.get("criterion", "")), "--method.criterion")]
    return [(name, flag) for name, flag in found if is_code(name, CODE_FLAGS[flag])]


def refuse_methods_of_file(grid: Grid) -> None:
    """Refuse a grid read from a file that names a method of the user's own: to list its runs would import it.

    Raises:
        ConfigError: it does.
    """
    for name, flag in code_names(grid):
        if flag == METHODS_FLAG:
            raise ConfigError(
                f"method {name!r} of this comparison is code that runs only when you name it; give the comparison's "
                "whole command again"
            )


def with_precision(grid: Grid, spec: NetworkSpec, precision: str | None = None) -> Grid:
    """Settle `precision: auto` once for all runs of a grid, by the given value or by measuring.

    Runs that answered it one by one might be compared in different numbers.
    """
    config = any_config(grid)
    settings = config.training
    if settings.precision != "auto":
        return grid
    if precision is None:
        shape = (settings.batch_size, *spec.example_input().shape[1:])
        precision = choose_precision("auto", spec.build(0), shape, choose_device(settings.device))
    training = {**grid.settings.get("training", {}), "precision": precision}
    return dataclasses.replace(grid, settings={**grid.settings, "training": training})


def any_config(grid: Grid) -> RunConfig:
    """Configuration of the grid's first node; model, data and training are those of all."""
    return nodes_of(grid)[0].config


def check_methods(grid: Grid, spec: NetworkSpec) -> None:
    """Refuse a grid with methods that cannot handle the network, naming all of them.

    Raises:
        MethodError: which, and why.
    """
    model, refusals = spec.build(0), {}
    example = torch.zeros(2, *spec.example_input().shape[1:])
    for node in nodes_of(grid):
        if node.label not in refusals:
            try:
                check_network(node.config.method, model, example)
            except MethodError as error:
                refusals[node.label] = str(error)
    if refusals:
        raise MethodError("; ".join(refusals.values()) + "; leave them out of --methods")


def work(sweep: Sweep, on_event: Callable[[RunNode, str], None] | None = None, *, quiet: bool = True) -> None:
    """Execute nodes until none is left, here or elsewhere; `on_event` hears "started", "finished" or "failed" of each.

    Raises:
        Terminated: a signal asked to stop; the state is saved.
    """
    while left := [node for node in sweep.needed() if sweep.state(node) == "open"]:
        if not any(attempt(sweep, node, on_event, quiet=quiet) for node in left):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # All that is left is being done elsewhere, or waits for that.


def attempt(
    sweep: Sweep, node: RunNode, on_event: Callable[[RunNode, str], None] | None = None, *, quiet: bool = True
) -> bool:
    """Execute an open node if its needs are done and nobody has it; False if nothing changed (see `work`)."""
    on_event = on_event or (lambda node, event: None)
    states = {need.id: sweep.state(need) for need in sweep.nodes if need.id in node.needs}
    broken = [name for name, state in states.items() if state == "failed"]
    if not broken and any(state != "done" for state in states.values()):
        return False
    with node_lock(sweep.root, node) as holder:
        if holder or sweep.state(node) != "open":
            return False
        if broken:
            fail(sweep.root, node, sweep.token, SweepError(f"{broken[0]} failed, from which it starts"))
            on_event(node, "failed")
            return True
        on_event(node, "started")
        on_event(node, "finished" if execute(sweep.root, node, sweep.token, quiet=quiet) == "done" else "failed")
        return True


def failures(sweep: Sweep) -> dict[str, str]:
    """Errors by id of the nodes that failed since this call began."""
    return {node.id: error_of(sweep.root, node) for node in sweep.nodes if sweep.state(node) == "failed"}


def unfinished(sweep: Sweep) -> list[str]:
    """Ids of nodes that were asked for and are neither done nor failed."""
    return [node.id for node in sweep.nodes if node.is_asked and sweep.state(node) == "open"]
