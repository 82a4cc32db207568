"""`earlybird compare` and the flags of a grid: sections of every run, settings of methods, methods x ratios x seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from earlybird.cli.options import (
    CONFIG,
    RECIPE,
    SHORT_FLAGS,
    Flags,
    Parser,
    expand_short_flags,
    named_recipe,
    section_flags,
)
from earlybird.errors import ConfigError, require
from earlybird.grids.grid import Block, Grid, at_early_birds_cost, nodes_of, read_value
from earlybird.settings.fields import fits
from earlybird.settings.recipes import PAPER, recipe_settings, refuse_another_recipe
from earlybird.settings.run import read_yaml, refuse_unknown

_DESCRIPTION = (
    "Compare methods over ratios and seeds. Each run is a folder below --out and is done once, also when workers are "
    "killed: give the same command again. What runs share (a dense search, the dense training) is run once and charged "
    "in full to each. A grid may grow: further methods, ratios and seeds go into the same --out."
)
_SECTIONS = ("model", "data", "training")
_ENGINES = ("local", "ray")
_OF_ONE_RUN = {"--training.seed": "--seeds", "--method.name": "--methods", "--method.prune_ratio": "--ratios"}
_FLAGS: Flags = {
    **CONFIG,
    **RECIPE,
    "--out": (str, "runs/compare", "folder of the comparison"),
    "--methods": (
        Any, None,
        "methods and presets (`earlybird list`), pkg.mod:Class, file.py:Class; with settings of its own: "
        "early_bird:draw_at=7",
    ),
    "--ratios": (Any, 0.5, "prune ratios: 0.3,0.5,0.7"),
    "--seeds": (Any, 0, "seeds of whole runs: 0,1,2"),
    "--budgets": (Any, None, "what each run may cost, search included: time=0.5,time=0.7 (see --training.budget)"),
    "--grid": (str | None, None, "YAML list of {methods, ratios, seeds, budgets}, instead of the four flags"),
    "--equal-cost": (
        Any, None,
        "methods to run a second time, their schedule set so that the total cost is early_bird's; all = every one that "
        "costs something else",
    ),
    "--reference": (str | None, None, "method that differences are formed against; default early_bird, else dense"),
    "--workers": (int, 1, "processes of this machine, one run each"),
    "--engine": (str, "local", f"what runs them: {', '.join(_ENGINES)} (extra `ray`)"),
    "--ray-address": (str | None, None, "with ray: cluster to join; default: one on this machine"),
    "--cpus-per-run": (float, 1.0, "with ray: CPU cores that a run is given"),
    "--gpus-per-run": (float, 0.0, "with ray: GPUs that a run is given"),
    "--retries": (int, 3, "with ray: how often a run whose process died is started again"),
    "--dry-run": ("store_true", False, "print the runs and their hours; run nothing"),
    "--quiet": ("store_true", False, "print the tables only"),
    "--method.KEY": (Any, None, "a setting of every method that has it: --method.penalty 1e-5"),
}  # fmt: skip


def compare_command(argv: Sequence[str]) -> int:
    """Run what is not done yet, then print and write the tables.

    Returns:
        0, or 1 where a run failed.
    """
    grid, parsed = parse_grid(argv)
    require("--workers", parsed.workers, parsed.workers >= 1, "an integer >= 1")
    require("--engine", parsed.engine, parsed.engine in _ENGINES, " or ".join(_ENGINES))
    from earlybird.cli.comparison import compare

    return compare(grid, parsed)


def parse_grid(argv: Sequence[str]) -> tuple[Grid | None, Namespace]:
    """Parse the grid (None if no methods are named) and the flags.

    Raises:
        ConfigError: a flag, key, type or value is wrong; one line with the legal values.
    """
    arguments, method_settings = _without_method_settings(expand_short_flags(argv))
    recipe = named_recipe(arguments)
    settings_flags = section_flags(_SECTIONS, {"training": recipe_settings(recipe or PAPER)})
    parsed = Parser("compare", _DESCRIPTION, {**_FLAGS, **settings_flags}).parse_args(arguments)
    blocks = _blocks(parsed)
    plain = parsed.as_dict()
    settings = {name: dict(plain[name] or {}) for name in _SECTIONS}
    del settings["training"]["seed"]  # each run has its own
    if recipe is not None:
        refuse_another_recipe(recipe, settings["training"])
    if not blocks:
        return None, parsed
    equal_cost = [str(method) for method in listed(parsed.equal_cost)]
    if equal_cost == ["all"]:
        methods = dict.fromkeys(method for block in blocks for method in block.methods)
        equal_cost = [method for method in methods if not at_early_birds_cost(method)]
    return Grid(settings, tuple(blocks), method_settings, tuple(equal_cost)), parsed


def listed(value: Any) -> list[Any]:
    """List of `[a, b]`, `a,b`, `[a,b]` or `a`; words are read as YAML, so numbers become numbers."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [entry for part in value for entry in listed(part)]
    if not isinstance(value, str):
        return [value]
    words = [word.strip() for word in value.strip().strip("[]").split(",")]
    return [read_value(word) if ":" not in word else word for word in words if word]


def _without_method_settings(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--method.KEY VALUE` out of the flags: which keys there are depends on the methods."""
    rest, settings = [], {}
    flags = iter(argv)
    for flag in flags:
        name, equals, value = flag.partition("=")
        if cure := _OF_ONE_RUN.get(name):
            short = next((short for short, long in SHORT_FLAGS.items() if long == name), name)
            raise ConfigError(f"{short} is of one run; compare takes {cure}")
        if not name.startswith("--method.") or name == "--method.KEY":
            rest.append(flag)
            continue
        given = value if equals else next(flags, None)
        if given is None:
            raise ConfigError(f"{name} stands without its value")
        settings[name.removeprefix("--method.")] = read_value(given)
    return rest, settings


def _blocks(parsed: Namespace) -> list[Block]:
    methods = [str(method) for method in listed(parsed.methods)]
    if parsed.grid is None:
        return (
            [_block({"methods": methods, "ratios": parsed.ratios, "seeds": parsed.seeds, "budgets": parsed.budgets})]
            if methods
            else []
        )
    if methods:
        raise ConfigError("--grid and --methods both say what to compare; give one of them")
    path, content = parsed.grid, read_yaml(parsed.grid)
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise ConfigError(f"--grid {path} holds no list of blocks; give entries of methods, ratios, seeds")
    blocks = []
    for number, block in enumerate(content, 1):
        try:
            blocks.append(_block(block))
            nodes_of(Grid({}, (blocks[-1],)))  # which refuses unknown methods and wrong settings of theirs
        except ConfigError as error:
            raise ConfigError(f"--grid {path}, block {number}: {error}") from error
    return blocks


def _block(plain: dict[str, Any]) -> Block:
    refuse_unknown("key in a block of --grid", plain, ("methods", "ratios", "seeds", "budgets"))
    methods = [str(method) for method in listed(plain.get("methods"))]
    ratios, seeds = listed(plain.get("ratios", 0.5)), listed(plain.get("seeds", 0))
    require("--ratios", ratios, fits(ratios, list[float]), "numbers in [0, 1), such as 0.3,0.5")
    require("--seeds", seeds, fits(seeds, list[int]), "integers, such as 0,1,2")
    budgets = [str(budget or "") for budget in listed(plain.get("budgets"))] or [""]
    return Block(tuple(methods), tuple(float(ratio) for ratio in ratios), tuple(seeds), tuple(budgets))
