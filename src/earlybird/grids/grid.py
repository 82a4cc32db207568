"""`Grid`: methods, ratios and seeds of a comparison, and its run nodes.

A run node is one folder of work: a run, or a search whose tickets several runs start from. What runs share is a node of
its own and is executed once (one dense search serves every ratio and draw); each run that starts from it is charged in
full, by its ledger. Everything here is a pure function of the grid, so every process lists the same nodes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import yaml

from earlybird.errors import ConfigError, did_you_mean, require
from earlybird.settings.budget import parse_budget
from earlybird.settings.catalog import (
    METHODS,
    PRESETS,
    Dense,
    MatchedToCost,
    MatchedToTicket,
    WideStart,
    method_class,
    preset_settings,
)
from earlybird.settings.method import EarlyBirdTraining, Method, StartsFromDense, StartsFromTicket, TicketRequest
from earlybird.settings.run import RunConfig

EARLY_BIRD = EarlyBirdTraining.name


@dataclass(frozen=True)
class Block:
    """All combinations of methods, ratios, seeds and budgets.

    Attributes:
        methods: names, each with settings of its own where it has any: `NAME[:KEY=VALUE]...`.
        ratios: prune ratios, in [0, 1).
        seeds: seeds of whole runs.
        budgets: what each run may cost (`settings.budget`), "" for what `training.budget` says.
    """

    methods: tuple[str, ...]
    ratios: tuple[float, ...] = (0.5,)
    seeds: tuple[int, ...] = (0,)
    budgets: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        for budget in self.budgets:
            parse_budget(budget)
        require("methods", list(self.methods), len(self.methods) > 0, "at least one method")
        legal = len(self.ratios) > 0 and all(0 <= ratio < 1 for ratio in self.ratios)
        require("ratios", list(self.ratios), legal, "numbers in [0, 1)")
        legal = len(self.seeds) > 0 and all(0 <= seed < 2**31 for seed in self.seeds)
        require("seeds", list(self.seeds), legal, "integers in [0, 2^31)")


@dataclass(frozen=True)
class Grid:
    """Blocks of a comparison, and the settings that all its runs share.

    Attributes:
        settings: sections `model`, `data` and `training` of every run.
        method_settings: settings of methods, for each method that has them.
        blocks: what is compared.
        equal_cost: methods that are also trained for so long that their total cost is Early-Bird's.
    """

    settings: Mapping[str, Any]
    blocks: tuple[Block, ...]
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    equal_cost: tuple[str, ...] = ()

    @property
    def methods(self) -> list[str]:
        """Methods as they were asked for, each once."""
        return list(dict.fromkeys(text for block in self.blocks for text in block.methods))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Grid:
        """The grid whose `dataclasses.asdict` went through JSON."""
        blocks = tuple(
            Block(tuple(b["methods"]), tuple(b["ratios"]), tuple(b["seeds"]), tuple(b.get("budgets") or ("",)))
            for b in plain["blocks"]
        )
        settings = {name: section or {} for name, section in plain["settings"].items()}
        RunConfig.from_dict({name: dict(section) for name, section in settings.items()})  # which refuses wrong values
        return cls(settings, blocks, plain["method_settings"], tuple(plain["equal_cost"]))


@dataclass(frozen=True)
class RunNode:
    """One folder of work: a run or a search.

    Attributes:
        id: name of the folder.
        kind: "search" leaves tickets, "run" leaves a record.
        config: of its run; epochs and budget of a node at equal cost are known when what it is matched to is done.
        label: what it is called in tables: the method as it was asked for.
        prune_ratio: p, or None for a method without one.
        seed: of the run.
        budget: of the run, "" without one.
        is_asked: the grid names it; otherwise others need it.
        requests: of a search, the tickets that it leaves.
        search: id of the search whose ticket a run starts from, if any.
        request: which ticket.
        dense_run: id of the dense run that a run starts from, if any.
        equal_to: of a run at equal cost, the ids of the full run and of the Early-Bird run.
    """

    id: str
    kind: Literal["search", "run"]
    config: RunConfig
    label: str
    prune_ratio: float | None
    seed: int
    is_asked: bool = True
    requests: tuple[TicketRequest, ...] = ()
    search: str | None = None
    request: TicketRequest | None = None
    dense_run: str | None = None
    equal_to: tuple[str, str] | None = None
    budget: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the nodes that this one starts from."""
        return tuple(need for need in (self.search, self.dense_run, *(self.equal_to or ())) if need)


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Split `NAME[:KEY=VALUE]...` into the name and the settings, values read as YAML.

    Example:
        >>> parse_method("early_bird:draw_at=7:round_to=1")
        ('early_bird', {'draw_at': 7, 'round_to': 1})
    """
    name: list[str] = []
    settings: dict[str, str] = {}
    for part in text.split(":"):
        key, equals, value = part.partition("=")
        if equals:
            settings[key] = value
        elif settings:  # A value with a colon in it: a path to code.
            settings[next(reversed(settings))] += f":{part}"
        else:
            name.append(part)
    if len(name) > 1 and name[0] in (*METHODS, *PRESETS):
        raise ConfigError(f"method {text!r}: {name[1]!r} stands without its value; write {name[0]}:{name[1]}=VALUE")
    if "name" in settings:
        raise ConfigError(f"method {text!r} sets its own name; give the other method by its name")
    return ":".join(name), {key: read_value(value) for key, value in settings.items()}


def read_value(text: str) -> Any:
    """Read a setting's value in a flag as YAML; `1e-5`, which YAML 1.1 takes as text, is a number.

    Raises:
        ConfigError: it is no YAML.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} cannot be read as YAML; give a number, text, true, false or [a, b]") from error
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def nodes_of(grid: Grid) -> list[RunNode]:
    """Run nodes of a grid, each once, after the nodes that it starts from.

    Raises:
        ConfigError: an unknown method or setting, a value out of range, or two methods that would share a folder.
    """
    return _Planner(grid).nodes()


class _Asked(NamedTuple):
    """A method as it is asked for, and the ratio (None where it takes none), seed and budget of its run."""

    text: str
    ratio: float | None
    seed: int
    budget: str = ""

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        ratio = "" if self.ratio is None else f"p{self.ratio:g}-"
        label = re.sub(r"[^\w.\-=]+", "_", _label(self.text))
        return f"{label}-{ratio}{_in_name(self.budget)}s{self.seed}"


class _Planner:
    """Collects the nodes of a grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.runs: dict[str, RunNode] = {}
        self.searches: dict[str, tuple[dict[str, Any], _Asked, dict[TicketRequest, None]]] = {}

    def nodes(self) -> list[RunNode]:
        self._refuse_settings_of_no_method()
        for asked in self._asked():
            self._add_run(asked, is_asked=True)
        for text in self.grid.equal_cost:
            for asked in self._asked():
                if asked.text == text and not asked.budget:
                    self._add_equal(asked)
        searches = {key: self._search(*found) for key, found in self.searches.items()}
        runs = [
            node if node.search is None else dataclasses.replace(node, search=searches[node.search].id)
            for node in self.runs.values()
        ]
        dense_first = sorted(runs, key=lambda node: (len(node.needs) > 0, node.equal_to is not None))
        return [*searches.values(), *dense_first]

    def _asked(self) -> Iterable[_Asked]:
        found = {
            _Asked(method, ratio if self._takes_ratio(method) else None, seed, budget)
            for block in self.grid.blocks
            for seed in block.seeds
            for budget in block.budgets
            for ratio in block.ratios
            for method in block.methods
        }
        order = self.grid.methods
        return sorted(found, key=lambda run: (run.seed, order.index(run.text), run.ratio or 0.0, run.budget))

    def _takes_ratio(self, text: str) -> bool:
        kind = _class_of(text)
        return "prune_ratio" in _fields(kind) or issubclass(kind, MatchedToTicket)

    def _add_run(self, asked: _Asked, *, is_asked: bool) -> RunNode:
        config, node_id, seed = self._config(asked), asked.folder, asked.seed
        known = self.runs.get(node_id)
        if known is not None and known.config.to_dict() != config.to_dict():
            raise ConfigError(f"two methods of the grid would share the folder {node_id!r}; name them otherwise")
        search = request = dense_run = None
        # A dense run with a budget is of another length than the first training of a method with one; one with an
        # average of its weights leaves that, and the method prunes by the weights.
        training = config.training
        is_another = training.budget_macs > 0 or bool(training.budget) or training.ema > 0
        if isinstance(config.method, StartsFromTicket):
            method = config.method.shared_search()
            if method is None:  # A control of the early_bird beside it.
                early_bird = self._config(asked._replace(text=EARLY_BIRD))
                method = early_bird.method.shared_search()  # type: ignore[attr-defined]
            request = TicketRequest(method.prune_ratio, method.draw_at)
            shared = dataclasses.asdict(method)
            del shared["prune_ratio"], shared["draw_at"]
            if shared["min_draw_steps"] == EarlyBirdTraining.min_draw_steps:  # Younger than grids that may be going on.
                del shared["min_draw_steps"]
            search = json.dumps([shared, seed, asked.budget])
            self.searches.setdefault(search, (shared, asked, {}))[2][request] = None
        elif isinstance(config.method, StartsFromDense) and config.method.starts_from_dense() and not is_another:
            dense_run = self._add_run(_Asked(Dense.name, None, seed), is_asked=False).id
        node = RunNode(
            id=node_id, kind="run", config=config, label=_label(asked.text), prune_ratio=asked.ratio, seed=seed,
            is_asked=is_asked or (known is not None and known.is_asked), search=search, request=request,
            dense_run=dense_run, budget=asked.budget,
        )  # fmt: skip
        self.runs[node_id] = node
        return node

    def _search(self, shared: dict[str, Any], asked: _Asked, tickets_asked: dict[TicketRequest, None]) -> RunNode:
        requests = tuple(sorted(tickets_asked, key=lambda request: (request.prune_ratio, str(request.draw_at))))
        first = requests[0]
        method = {"name": EARLY_BIRD, **shared, "prune_ratio": first.prune_ratio, "draw_at": first.draw_at}
        config = RunConfig.from_dict(self._sections(asked) | {"method": method})
        # The tickets are part of the name: a folder holds the search of just these.
        tickets = [[request.prune_ratio, request.draw_at] for request in requests]
        digest = hashlib.sha256(json.dumps([shared, tickets]).encode()).hexdigest()[:6]
        place = f"{_in_name(asked.budget)}s{asked.seed}"
        return RunNode(
            id=f"search-{digest}-{place}", kind="search", config=config, label="search", prune_ratio=None,
            seed=asked.seed, is_asked=False, requests=requests, budget=asked.budget,
        )  # fmt: skip

    def _add_equal(self, asked: _Asked) -> None:
        ratios = [asked.ratio] if asked.ratio is not None else sorted({r for b in self.grid.blocks for r in b.ratios})
        for p in ratios:
            full, early_bird = self.runs[asked.folder], self._add_run(_Asked(EARLY_BIRD, p, asked.seed), is_asked=False)
            node_id = f"{asked._replace(ratio=p).folder}-equal"
            self.runs[node_id] = dataclasses.replace(
                full, id=node_id, prune_ratio=p, search=None, request=None, dense_run=None, is_asked=True,
                equal_to=(full.id, early_bird.id),
            )  # fmt: skip

    def _sections(self, asked: _Asked) -> dict[str, Any]:
        sections = {name: dict(self.grid.settings.get(name) or {}) for name in ("model", "data", "training")}
        sections["training"] |= {"seed": asked.seed} | ({"budget": asked.budget} if asked.budget else {})
        return sections

    def _config(self, asked: _Asked) -> RunConfig:
        text, ratio = asked.text, asked.ratio
        name, own = parse_method(text)
        kind, preset = method_class(name), preset_settings(name)
        names = _fields(kind)
        shared = {k: v for k, v in self.grid.method_settings.items() if k in names and k not in preset}
        settings = {**preset, **shared, **own}
        if ratio is not None and "prune_ratio" in names:
            settings["prune_ratio"] = ratio
        if issubclass(kind, MatchedToCost) and "early_bird_start" not in settings:
            early_bird = cast(EarlyBirdTraining, self._config(asked._replace(text=EARLY_BIRD)).method)
            settings["early_bird_start"] = early_bird.retrain_start
        try:
            config = RunConfig.from_dict(self._sections(asked) | {"method": {**settings, "name": name}})
        except ConfigError as error:
            raise ConfigError(f"{_label(text)}: {error}") from error
        if isinstance(config.method, WideStart) and not config.training.budget:
            raise ConfigError(f"{_label(text)} spends a budget and was given none; add --budgets time=0.5")
        return config

    def _refuse_settings_of_no_method(self) -> None:
        known = _fields(EarlyBirdTraining).union(*(_fields(_class_of(text)) for text in self.grid.methods))
        for key in self.grid.method_settings:
            if key not in known:
                hint = did_you_mean(key, known)
                raise ConfigError(
                    f"no method of the grid has a setting {key!r}; {hint}theirs: {', '.join(sorted(known))}"
                )
        if self.grid.equal_cost and (self.grid.settings.get("training") or {}).get("low_resolution"):
            raise ConfigError("--equal-cost counts whole images; leave it out, or --training.low_resolution")
        for text in self.grid.equal_cost:
            if text not in self.grid.methods:
                hint = did_you_mean(text, self.grid.methods)
                raise ConfigError(f"--equal-cost names {text!r}, which is not compared; {hint}give some of --methods")
            if issubclass(_class_of(text), MatchedToTicket):
                raise ConfigError(f"--equal-cost names {text!r}, whose ticket decides its cost; leave it out")


def asked_place(grid: Grid, node: RunNode) -> tuple[bool, int, float, str, int]:
    """Sort key of a run node: full schedules first, then as the methods were named, by ratio, budget and seed."""
    labels = [_label(method) for method in grid.methods]
    place = labels.index(node.label) if node.label in labels else len(labels)
    return node.equal_to is not None, place, node.prune_ratio or 0.0, node.budget, node.seed


def at_early_birds_cost(text: str) -> bool:
    """Tell whether a method needs no second run at equal cost: it has that cost, its ticket sets it, or it is dense.

    `dense_shorter` is dense training at that cost, and `scratch_longer` is matched to the dense cost.
    """
    name, own = parse_method(text)
    kind, settings = method_class(name), preset_settings(name) | own
    if kind is EarlyBirdTraining:  # With any other setting it may cost anything.
        return settings in ({}, {"channels": "shuffled"})
    return kind is Dense or issubclass(kind, MatchedToTicket)


def _class_of(text: str) -> type[Method]:
    return method_class(parse_method(text)[0])


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _label(text: str) -> str:
    """Label of a method as it was asked for; of the user's code the name without its path."""
    name, own = parse_method(text)
    settings = "".join(f":{key}={str(value).rpartition(':')[2]}" for key, value in own.items())
    return name.rpartition(":")[2] + settings


def _in_name(budget: str) -> str:
    return f"{budget.replace('=', '')}-" if budget else ""


def merged(grids: Sequence[Grid]) -> Grid:
    """Merge grids of the same settings."""
    blocks = tuple(dict.fromkeys(block for grid in grids for block in grid.blocks))
    equal = tuple(dict.fromkeys(text for grid in grids for text in grid.equal_cost))
    return dataclasses.replace(grids[-1], blocks=blocks, equal_cost=equal)
