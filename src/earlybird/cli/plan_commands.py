"""`earlybird cost`, `inspect` and `list`: what a training will cost, what can be cut, what there is.

Nothing is trained here. `cost --paper` recomputes the paper's own totals.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from earlybird.cli import options
from earlybird.cli.options import JSON, NETWORK, Flags, Parser, expand_short_flags, section_flags
from earlybird.errors import ConfigError, require
from earlybird.report.table import Column, Table, named_columns, print_lines, to_terminal
from earlybird.runs.record_file import record_of
from earlybird.settings.catalog import METHODS, PRESETS, method_names, summary_of
from earlybird.settings.method import ROUND_TO
from earlybird.settings.run import DataConfig, TrainingSettings

if TYPE_CHECKING:
    from earlybird.forecast.calibration import Calibration
    from earlybird.forecast.run import Drawn, Networks, Scenario

_COST = (
    "What a training will cost before it is run, side by side for the paper's methods or those of --methods: MACs as "
    "executed, FLOPs in the paper's count, energy by a published table, and with --calibrate seconds on this machine."
)
PAPER = ("table3", "table2", "figure5")
# Enough that no turn of a calibration comes to the end of an epoch, where a checkpoint is written.
IMAGES_IN_BATCHES = 40
PICTURES = (".svg", ".png", ".pdf")
DEFAULTS: dict[str, Any] = {
    "epochs": 160.0, "batch_size": 128, "ratio": 0.5, "precision": "fp32", "policy": "auto", "round_to": 8,
}  # fmt: skip
_WIDTHS = "uniform, a run folder or a ticket file; without it bracketed. A run's settings are the defaults"
_COST_FLAGS: Flags = {
    "--paper": (str | None, None, f"recompute a table of the paper instead: {', '.join(PAPER)}"),
    "--picture": (str | None, None, "with --paper figure5: draw it into this file (.svg, .png)"),
    "--epochs": (float | None, None, "T, epochs of one dense training; default 160"),
    "--batch-size": (int | None, None, "images per optimizer step; default 128"),
    "--ratio": (float | None, None, "fraction of prunable channels to remove; default 0.5"),
    "--precision": (str | None, None, "fp32 (default) or bf16"),
    "--widths": (str | None, None, _WIDTHS),
    "--ticket-epoch": (float | None, None, "e, when the ticket is drawn; without it bracketed"),
    "--methods --method": (str | None, None, "as in `compare`: dense,lottery_ticket:rounds=2; without it the paper's"),
    "--policy": (str | None, None, "residual policy: auto (default), inner, tie or select"),
    "--round-to": (int | None, None, "kept widths are multiples of this; default 8"),
    "--budget": (str, "", "what a run may cost: time=0.5 or macs=0.5, a share of the dense training"),
    "--calibrate": ("store_true", False, "measure steps here; add seconds and kWh"),
    "--calibration-steps": (int, 60, "steps to measure of each network"),
    "--device": (str, "auto", "where to measure: auto, cpu, cuda or cuda:N"),
    "--watts": (float | None, None, "power of the machine while it trains, for kWh"),
    "--price-per-hour": (float | None, None, "what an hour of the machine costs"),
    **JSON,
}
_INSPECT_FLAGS: Flags = {
    "--ratio": (float, 0.5, "fraction of the prunable channels to remove"),
    "--policy": (str, "auto", "residual policy: auto, inner, tie or select"),
    "--round-to": (int, 1, "kept widths are multiples of this"),
    "--min-channels": (int, 1, "channels that stay in every layer"),
    "--keep": (list[str], [], "names or patterns of layers to leave whole"),
    "--criterion": (str, "bn_scale", "bn_scale or filter_l1"),
    "--batch-size": (int, 8, "images in the measured training step and its layers; 0: no timing"),
    **JSON,
}


def cost_command(argv: Sequence[str]) -> None:
    """Print a forecast, or a table of the paper."""
    arguments = expand_short_flags(argv, NETWORK)
    widths = options.value_of("--widths", arguments)
    record = record_of(Path(widths)) if widths and Path(widths).is_dir() else None
    flags = {**section_flags(NETWORK, record["config"] if record else {}), **_COST_FLAGS}
    parsed = Parser("cost", _COST, flags).parse_args(arguments)
    if parsed.paper is not None:
        given = [flag.partition("=")[0] for flag in arguments if flag.startswith("--")]
        if foreign := [flag for flag in given if flag not in ("--paper", "--picture", "--json")]:
            raise ConfigError(f"{foreign[0]} says nothing of --paper, whose numbers are the paper's; leave it out")
        _print_paper(parsed)
        return
    from earlybird.forecast.facts import Prices, check_against, forecast_facts, planned_methods
    from earlybird.forecast.run import networks_of
    from earlybird.report.forecast import print_forecast

    scenario = _scenario(parsed, arguments, record)
    prices = Prices(parsed.watts, parsed.price_per_hour)
    needed = {"--widths": scenario.widths, "--ticket-epoch": scenario.ticket_epoch}
    missing = [flag for flag, value in needed.items() if value is None]
    if parsed.calibrate and missing:
        raise ConfigError(f"--calibrate predicts one training: give {' and '.join(missing)} too")
    for flag, value in (("--watts", prices.watts), ("--price-per-hour", prices.per_hour)):
        if value is not None and not parsed.calibrate:
            raise ConfigError(f"{flag} is {value:g}, but no seconds are predicted; give --calibrate too")
    networks = networks_of(scenario)
    calibration = _calibration(parsed, scenario, networks, record) if parsed.calibrate else None
    names = [name.strip() for name in (parsed.methods or "").strip("[]").split(",") if name.strip()]
    methods = planned_methods(names, scenario, record)
    facts = forecast_facts(scenario, networks, methods, calibration, prices)
    if record is not None and calibration is not None:
        facts["check"] = check_against(record, facts)
    if parsed.json:
        print(json.dumps(facts, indent=1))
    else:
        print_forecast(facts)


def _print_paper(parsed: Namespace) -> None:
    require("--paper", parsed.paper, parsed.paper in PAPER, f"one of {', '.join(PAPER)}")
    from earlybird.paper import figure5, table2, table3

    if (picture := parsed.picture) is not None:
        require("--picture", picture, parsed.paper == "figure5", "it with --paper figure5, the only one drawn")
        require("--picture", picture, Path(picture).suffix in PICTURES, "a file that ends in .svg, .png or .pdf")
        print(f"drawn: {figure5.plot_figure5(picture)}", file=sys.stderr)
    recomputed = {"table3": table3, "table2": table2, "figure5": figure5}[parsed.paper].recompute()
    if parsed.json:
        print(recomputed.as_json())
    else:
        recomputed.show()


def _scenario(parsed: Namespace, argv: Sequence[str], record: dict[str, Any] | None) -> Scenario:
    from earlybird.cost import PlannedData
    from earlybird.forecast.run import Scenario, settings_of_run
    from earlybird.runs.record import matched_budget

    drawn = _drawn(parsed)
    # A run may be longer or shorter than the search behind its ticket.
    from_ticket = {"ratio": drawn.prune_ratio, "epochs": None if record else drawn.epochs}
    known = {name: value for name, value in from_ticket.items() if value is not None}
    settings: dict[str, Any] = {**DEFAULTS, **(settings_of_run(record) if record else {}), **known}
    device = settings.pop("device", "cpu")  # of the run; --device says where to measure
    settings |= {name: value for name in settings if (value := getattr(parsed, name)) is not None}
    require("--precision", settings["precision"], settings["precision"] in ("fp32", "bf16"), "fp32 or bf16")
    spec, sizes = options.planned_network(parsed, argv, record)
    trained = record["config"]["training"] if record else {}
    evaluated = trained.get("eval_batch_size", TrainingSettings().eval_batch_size)
    images = sizes.train_images, sizes.test_images, settings.pop("batch_size"), sizes.val_images
    return Scenario(
        spec,
        PlannedData(*images, evaluated),
        prune_ratio=settings.pop("ratio"),
        widths=parsed.widths,
        ticket_epoch=drawn.ticket_epoch if parsed.ticket_epoch is None else parsed.ticket_epoch,
        budget_macs=matched_budget(record) if record else None,
        budget=parsed.budget or (trained.get("budget") or ""),
        step_seconds=(record["resolved"] if record else {}).get("dense_step_seconds"),
        device=device,
        **settings,
    )


def _calibration(
    parsed: Namespace, scenario: Scenario, networks: Networks, record: dict[str, Any] | None
) -> Calibration:
    """Measured steps of the scenario's dense and slim network, on noise, augmented as the run or the flags say."""
    from earlybird.energy import find_counter
    from earlybird.forecast.calibration import calibrate, noise_bundle
    from earlybird.runs.inputs import resolve_augment
    from earlybird.training.compute import Compute, choose_device

    compute = Compute(choose_device(parsed.device), "bf16" if scenario.precision == "bf16" else "fp32")
    micro_batches = record["config"]["training"].get("micro_batches", 1) if record else 1
    settings = TrainingSettings(batch_size=scenario.data.batch_size, micro_batches=micro_batches)
    images = min(scenario.data.train_images, IMAGES_IN_BATCHES * scenario.data.batch_size)
    bundle = noise_bundle(scenario.image_shape, scenario.spec.num_classes, images)
    data = DataConfig(**parsed.data.as_dict())
    recorded = record["resolved"]["augment"] if record and options.has_data_of(record, data) else None
    return calibrate(
        {"dense": networks.dense, "slim": next(iter(networks.slim.values()))}, bundle, settings, compute,
        augment=recorded or resolve_augment(data, bundle), steps=parsed.calibration_steps,
        counter=find_counter(compute.device),
    )  # fmt: skip


def _drawn(parsed: Namespace) -> Drawn:
    """Epochs and ratio of the ticket behind --widths; refuse a flag that contradicts it."""
    from earlybird.forecast.run import UNIFORM, Drawn, drawn_by

    if parsed.widths in (None, UNIFORM) or not Path(parsed.widths).exists():
        return Drawn(None, None, None)
    drawn = drawn_by(parsed.widths)
    told = [("--ratio", parsed.ratio, drawn.prune_ratio, "leave it out")]
    if parsed.ticket_epoch is None:
        cure = "leave it out, or say with --ticket-epoch when it is drawn"
        told.append(("--epochs", parsed.epochs, drawn.epochs, cure))
    for flag, given, theirs, cure in told:
        if given is not None and theirs is not None and given != theirs:
            raise ConfigError(f"{flag} is {given:g}, but the ticket of {parsed.widths} is of {theirs:g}; {cure}")
    return drawn


def inspect_command(argv: Sequence[str]) -> None:
    """Print the groups of a network as a table, and what a cut would save, or JSON."""
    arguments = expand_short_flags(argv, NETWORK)
    flags = {**section_flags(NETWORK, {}), **_INSPECT_FLAGS}
    description = "Show what can be cut from a network, and what the cut would save."
    parsed = Parser("inspect", description, flags).parse_args(arguments)
    criterion, images, legal = parsed.criterion, parsed.batch_size, ("bn_scale", "filter_l1")
    require("--ratio", parsed.ratio, 0 <= parsed.ratio < 1, "a number in [0, 1)")
    require("--criterion", criterion, criterion in legal, f"{' or '.join(legal)} (others need gradients)")
    require("--batch-size", images, images == 0 or images >= 2, "2 or more, or 0 for no timing")
    facts = _facts(parsed, arguments)
    if parsed.json:
        print(json.dumps(facts, indent=1))
        return
    to_terminal(_groups_table(facts))
    if not facts["units"]:
        said = "Nothing can be cut: the table says why, layer by layer."
    elif facts["after"] is None:
        said = f"{facts['criterion']} scores none of the {facts['units']} units that can go; try another criterion."
    else:
        said = (
            f"At ratio {facts['requested_ratio']:g} (realised {facts['realised_ratio']:.3f} of the "
            f"{facts['scored_units']} units that {facts['criterion']} scores), untrained, which says little about a "
            "trained network's widths:"
        )
    print_lines([said])
    if facts["after"] is not None:
        to_terminal(_savings_table(facts))
    if facts.get("layer_seconds"):
        to_terminal(_layers_table(facts["layer_seconds"]))


def _facts(parsed: Namespace, argv: Sequence[str]) -> dict[str, Any]:
    import torch

    from earlybird.core import bn_scale, draw_mask, filter_l1
    from earlybird.core.drawing import realised_ratio, scored_groups
    from earlybird.cost import count_cost, step_seconds
    from earlybird.cost.layer_timing import layer_seconds
    from earlybird.slimming import channel_groups, slim
    from earlybird.slimming.groups import inspect_groups
    from earlybird.training.compute import Compute

    spec, sizes = options.planned_network(parsed, argv)
    model, shape = spec.build(seed=0), sizes.image_shape
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    groups = channel_groups(model, example, parsed.policy, keep=parsed.keep)
    facts: dict[str, Any] = {
        "model": spec.name,
        "image_shape": list(shape),
        "policy": groups.policy,
        "units": groups.num_units,
        "groups": [asdict(row) for row in inspect_groups(groups)],
        "criterion": parsed.criterion,
        "requested_ratio": parsed.ratio,
        "before": asdict(count_cost(model, shape)),
        "after": None,
    }
    if not groups.num_units:
        return facts
    scores = (bn_scale if parsed.criterion == "bn_scale" else filter_l1)(model)
    scored = scored_groups(scores, groups)
    facts["scored_units"] = scored.num_units
    if not scored.num_units:
        return facts
    mask = draw_mask(scores, parsed.ratio, groups, min_channels=parsed.min_channels, round_to=parsed.round_to)
    small = slim(model, mask, example, groups)
    facts["realised_ratio"] = realised_ratio(mask, scored)
    facts["after"] = asdict(count_cost(small, shape))
    if parsed.batch_size:
        # As a run on a CPU has them.
        layout = Compute(torch.device("cpu")).memory_format if len(shape) == 3 else torch.preserve_format
        images = torch.randn(parsed.batch_size, *shape).contiguous(memory_format=layout)
        facts["step_seconds"] = step_seconds({"before": model, "after": small}, images)
        facts["layer_seconds"] = [row.facts() for row in layer_seconds(model, mask, groups, images)]
    return facts


def _groups_table(facts: dict[str, Any]) -> Table:
    """Groups of layers that are cut together, with the reasons of the channels that stay."""
    shape = "x".join(map(str, facts["image_shape"]))
    rows = []
    for row in facts["groups"]:
        more = f" and {len(row['layers']) - 3} more" if len(row["layers"]) > 3 else ""
        why = "; ".join(f"{count}: {reason}" for reason, count in row["protected"].items())
        rows.append((", ".join(row["layers"][:3]) + more, row["channels"], row["units"], why))
    columns = [*named_columns("layers cut together", "channels", "units"), Column("stay, and why", "left")]
    title = f"{facts['model']} on {shape}, policy {facts['policy']}: {facts['units']} units can go"
    return Table(columns, rows, title)


def _savings_table(facts: dict[str, Any]) -> Table:
    """Sizes and, where they were measured, seconds before and after the cut."""
    before, after = facts["before"], facts["after"]
    counted = {"parameters": "params", "MACs per image": "macs", "MACs per training image": "train_macs"}
    rows = [(name, f"{before[key]:,}", f"{after[key]:,}", after[key] / before[key]) for name, key in counted.items()]
    if seconds := facts.get("step_seconds"):
        before, after = seconds["before"], seconds["after"]
        rows.append(("seconds per training step, measured", f"{before:.4f}", f"{after:.4f}", after / before))
    return Table([*named_columns("", "before", "after"), Column("ratio", form=".2f")], rows)


def _layers_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Measured milliseconds of each layer, dense and cut, and of the cut widths at the next multiples."""
    rows = []
    for row in layers:
        widths = (f"{read}->{made}" for read, made in (row["dense_widths"], row["slim_widths"]))
        dense, slim, rounded = (None if s is None else 1e3 * s for s in (row["dense"], row["slim"], row["rounded"]))
        at_multiples = None if rounded is None else f"{rounded:.2f}{' slow!' if row['is_slow'] else ''}"
        rows.append((row["name"], *widths, dense, slim, row["slim"] / row["dense"], at_multiples))
    columns = [
        Column("layer", "left", fold_after=22),
        *named_columns("channels", "cut"),
        *(Column(name, form=".2f") for name in ("dense\nms", "cut\nms", "ratio")),
        Column(f"multiples\nof {ROUND_TO}, ms"),
    ]
    total = sum(row["slim"] for row in layers) / sum(row["dense"] for row in layers)
    told = f"CPU time of each layer with its norm and activation: {total:.2f} of dense"
    slow = [f"slow!: the cut's widths cost more than the next multiples of {ROUND_TO}"]
    return Table(columns, rows, told, notes=slow if any(row["is_slow"] for row in layers) else [])


def list_command(argv: Sequence[str]) -> None:
    """Print the names of models, data sets, methods and presets, or one line for each method and preset."""
    parser = Parser("list", "List models, data sets, methods and presets.", {})
    parser.add_argument("topic", type=str, nargs="?", help="methods: one line each, with its summary")
    topic = parser.parse_args(list(argv)).topic
    require("topic", topic, topic in (None, "methods"), "methods, or nothing for all names")
    if topic == "methods":
        width = max(map(len, method_names()))
        print("\n".join(f"{name:<{width}}  {summary_of(name)}" for name in method_names()))
        return
    from earlybird.data import data_names
    from earlybird.models.catalog import OTHER_FORMS, model_names

    methods = [*METHODS, "pkg.mod:Class", "file.py:Class"]
    names = {"models": [*model_names(), OTHER_FORMS], "data": data_names(), "methods": methods, "presets": PRESETS}
    for what, found in names.items():
        print(f"{what + ':':<8} {', '.join(found)}")
