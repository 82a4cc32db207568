"""`earlybird cost`: what a training will cost, method by method; or the paper's own totals, recomputed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from earlybird.cli.network_options import SECTIONS, add_network, has_data_of, planned_network
from earlybird.cli.options import Parser, expand_short_flags, value_of
from earlybird.errors import ConfigError, require
from earlybird.settings.run import DataConfig, TrainingSettings

if TYPE_CHECKING:
    from earlybird.forecast.calibration import Calibration
    from earlybird.forecast.run import Drawn, Networks, Scenario

_DESCRIPTION = (
    "What a training will cost before it is run, for every method side by side: MACs as executed, FLOPs in the paper's "
    "count, energy by a published table, and with --calibrate seconds on this machine."
)
PAPER = ("table3", "table2", "figure5")
# Enough that no turn of a calibration comes to the end of an epoch, where a checkpoint is written.
IMAGES_IN_BATCHES = 40
PICTURES = (".svg", ".png", ".pdf")
DEFAULTS: dict[str, Any] = {
    "epochs": 160.0, "batch_size": 128, "ratio": 0.5, "precision": "fp32", "policy": "auto", "round_to": 8,
}  # fmt: skip


def command(argv: Sequence[str]) -> int:
    """Print a forecast, or a table of the paper."""
    arguments = expand_short_flags(argv, SECTIONS)
    record = _record(value_of("--widths", arguments))
    parsed = _parser(record).parse_args(arguments)
    if parsed.paper is not None:
        return _paper(parsed)
    from earlybird.forecast.facts import Prices, check_against, forecast_facts, planned_methods
    from earlybird.forecast.run import networks_of
    from earlybird.report.forecast import print_forecast

    scenario = _scenario(parsed, arguments, record)
    prices = Prices(parsed.watts, parsed.price_per_hour)
    _check(parsed, scenario)
    networks = networks_of(scenario)
    calibration = _calibration(parsed, scenario, networks, record) if parsed.calibrate else None
    methods = planned_methods(_names(parsed.method), scenario, record)
    facts = forecast_facts(scenario, networks, methods, calibration, prices)
    if record is not None and calibration is not None:
        facts["check"] = check_against(record, facts)
    if parsed.json:
        print(json.dumps(facts, indent=1))
    else:
        print_forecast(facts)
    return 0


def _check(parsed: Namespace, scenario: Scenario) -> None:
    """Refuse what would be left out in silence."""
    needed = {"--widths": scenario.widths, "--ticket-epoch": scenario.ticket_epoch}
    missing = [flag for flag, value in needed.items() if value is None]
    if parsed.calibrate and missing:
        raise ConfigError(f"--calibrate predicts one training: give {' and '.join(missing)} too")
    for flag, value in (("--watts", parsed.watts), ("--price-per-hour", parsed.price_per_hour)):
        if value is not None and not parsed.calibrate:
            raise ConfigError(f"{flag} is {value:g}, but no seconds are predicted; give --calibrate too")


def _parser(record: dict[str, Any] | None) -> Parser:
    parser = Parser("cost", _DESCRIPTION)
    add_network(parser, record)
    parser.add_setting("--paper", str | None, None, f"recompute a table of the paper instead: {', '.join(PAPER)}")
    parser.add_setting("--picture", str | None, None, "with --paper figure5: draw it into this file (.svg, .png)")
    parser.add_setting("--epochs", float | None, None, "T, epochs of one dense training; default 160")
    parser.add_setting("--batch-size", int | None, None, "images per optimizer step; default 128")
    parser.add_setting("--ratio", float | None, None, "fraction of prunable channels to remove; default 0.5")
    parser.add_setting("--precision", str | None, None, "fp32 (default) or bf16")
    parser.add_setting(
        "--widths", str | None, None,
        "uniform, a run folder or a ticket file; without it bracketed. A run's settings are the defaults",
    )  # fmt: skip
    parser.add_setting("--ticket-epoch", float | None, None, "e, when the ticket is drawn; without it bracketed")
    parser.add_setting(
        "--method", str | None, None, "only this method, or several, as in `compare`: dense,lottery_ticket:rounds=2"
    )
    parser.add_setting("--policy", str | None, None, "residual policy: auto (default), inner, tie or select")
    parser.add_setting("--round-to", int | None, None, "kept widths are multiples of this; default 8")
    parser.add_argument("--calibrate", action="store_true", help="measure steps here; add seconds and kWh")
    parser.add_argument("--calibration-steps", type=int, default=60, help="steps to measure of each network")
    parser.add_argument("--device", type=str, default="auto", help="where to measure: auto, cpu, cuda or cuda:N")
    parser.add_setting("--watts", float | None, None, "power of the machine while it trains, for kWh")
    parser.add_setting("--price-per-hour", float | None, None, "what an hour of the machine costs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _paper(parsed: Namespace) -> int:
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
        from rich.console import Console

        recomputed.show(Console())
    return 0


def _record(widths: str | None) -> dict[str, Any] | None:
    """The record of the run that --widths names, or None."""
    if not widths or not Path(widths).is_dir():
        return None
    from earlybird.runs.record_file import record_of

    return record_of(Path(widths))


def _scenario(parsed: Namespace, argv: Sequence[str], record: dict[str, Any] | None) -> Scenario:
    from earlybird.cost.plan import PlannedData
    from earlybird.forecast.run import Scenario, settings_of_run
    from earlybird.runs.record import matched_budget

    drawn = _drawn(parsed)
    # A run may be longer or shorter than the search behind its ticket.
    from_ticket = {"ratio": drawn.prune_ratio, "epochs": None if record else drawn.epochs}
    known = {name: value for name, value in from_ticket.items() if value is not None}
    settings: dict[str, Any] = {**DEFAULTS, **(settings_of_run(record) if record else {}), **known}
    settings |= {name: value for name in settings if (value := getattr(parsed, name)) is not None}
    require("--precision", settings["precision"], settings["precision"] in ("fp32", "bf16"), "fp32 or bf16")
    spec, sizes = planned_network(parsed, argv, record)
    training = record["config"]["training"] if record else {}
    return Scenario(
        spec=spec,
        data=PlannedData(
            sizes.train_images,
            sizes.test_images,
            settings["batch_size"],
            sizes.val_images,
            training.get("eval_batch_size", TrainingSettings().eval_batch_size),
        ),
        epochs=settings["epochs"],
        prune_ratio=settings["ratio"],
        precision=settings["precision"],
        widths=parsed.widths,
        ticket_epoch=drawn.ticket_epoch if parsed.ticket_epoch is None else parsed.ticket_epoch,
        policy=settings["policy"],
        round_to=settings["round_to"],
        budget_macs=matched_budget(record) if record else None,
    )


def _calibration(
    parsed: Namespace, scenario: Scenario, networks: Networks, record: dict[str, Any] | None
) -> Calibration:
    """Measured steps of the scenario's dense and slim network, on noise, augmented as the run or the flags say."""
    from earlybird.energy import find_counter
    from earlybird.forecast.calibration import calibrate, noise_bundle
    from earlybird.runs.run import resolve_augment
    from earlybird.training.compute import Compute, choose_device

    compute = Compute(choose_device(parsed.device), "bf16" if scenario.precision == "bf16" else "fp32")
    micro_batches = record["config"]["training"].get("micro_batches", 1) if record else 1
    settings = TrainingSettings(batch_size=scenario.data.batch_size, micro_batches=micro_batches)
    images = min(scenario.data.train_images, IMAGES_IN_BATCHES * scenario.data.batch_size)
    bundle = noise_bundle(scenario.image_shape, scenario.spec.num_classes, images)
    data = DataConfig(**parsed.data.as_dict())
    augment = record["resolved"]["augment"] if record and has_data_of(record, data) else resolve_augment(data, bundle)
    return calibrate(
        {"dense": networks.dense, "slim": next(iter(networks.slim.values()))}, bundle, settings, compute,
        augment=augment, steps=parsed.calibration_steps, counter=find_counter(compute.device),
    )  # fmt: skip


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").strip("[]").split(",") if name.strip()]


def _drawn(parsed: Namespace) -> Drawn:
    """Epochs and ratio of the ticket behind --widths; refuse a flag that contradicts it."""
    from earlybird.forecast.run import UNIFORM, Drawn, drawn_by

    if parsed.widths in (None, UNIFORM) or not Path(parsed.widths).exists():
        return Drawn(None, None, None)
    drawn = drawn_by(parsed.widths)
    _refuse_another("--ratio", parsed.ratio, drawn.prune_ratio, parsed.widths, "leave it out")
    if parsed.ticket_epoch is None:
        cure = "leave it out, or say with --ticket-epoch when it is drawn"
        _refuse_another("--epochs", parsed.epochs, drawn.epochs, parsed.widths, cure)
    return drawn


def _refuse_another(flag: str, given: float | None, theirs: float | None, widths: str, cure: str) -> None:
    if given is not None and theirs is not None and given != theirs:
        raise ConfigError(f"{flag} is {given:g}, but the ticket of {widths} is of {theirs:g}; {cure}")
