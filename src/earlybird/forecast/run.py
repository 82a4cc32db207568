"""Cost of a planned training, for every method side by side.

The slim network has known widths (uniform, a run's, a ticket's), or stands between two extremes: the dearest channels
removed first, and the cheapest, by their cost at full width. A ranking that empties whole layers may still keep less.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from earlybird.core import STOP_RULES, ChannelMask, PolicyChoice, Ticket, draw_mask, realised_ratio
from earlybird.cost import ModelCost, PlannedData, Schedule, count_cost_and_traffic, layer_macs
from earlybird.data.images import DataSizes
from earlybird.errors import ConfigError, RunFolderError, SlimError, require
from earlybird.methods.retrain import check_notes
from earlybird.models.model_file import DESCRIPTION
from earlybird.runs.folder import NetworkSpec, load_network
from earlybird.runs.record_file import record_of
from earlybird.settings.budget import parse_budget
from earlybird.settings.method import EarlyBirdTraining
from earlybird.slimming import channel_costs, channel_groups, slim

UNIFORM, LEAST, MOST = "uniform", "dearest channels removed first", "cheapest channels removed first"


@dataclass(frozen=True)
class Scenario:
    """A planned training.

    Attributes:
        spec: the dense network.
        data: images, and how many make a step.
        epochs: T.
        prune_ratio: p, in [0, 1).
        precision: "fp32" or "bf16".
        widths: "uniform", a run folder, a ticket file, or None where they are not known.
        ticket_epoch: e, in [0, T], or None where it is not known.
        policy: residual policy.
        round_to: kept widths are multiples of this.
        budget_macs: training MACs that controls are matched to, where a finished run says them.
        budget: what a run may cost, as `training.budget`; "" for its schedule.
        step_seconds: measured seconds of a dense training step; a budget in seconds needs them.
        device: kind of device, "cpu" or "cuda".
    """

    spec: NetworkSpec
    data: PlannedData
    epochs: float
    prune_ratio: float
    precision: str = "fp32"
    widths: str | None = None
    ticket_epoch: float | None = None
    policy: PolicyChoice = "auto"
    round_to: int = 8
    budget_macs: int | None = None
    budget: str = ""
    step_seconds: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        require("--ratio", self.prune_ratio, 0 <= self.prune_ratio < 1, "a number in [0, 1)")
        one_step = math.isfinite(self.epochs) and self.data.steps(self.epochs) >= 1
        require("--epochs", self.epochs, one_step, "a number > 0, of one step or more")
        draw = self.ticket_epoch
        require("--ticket-epoch", draw, draw is None or 0 <= draw <= self.epochs, f"a number in [0, {self.epochs:g}]")
        require("--round-to", self.round_to, self.round_to >= 1, "an integer >= 1")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.spec.in_channels, self.spec.image_size, self.spec.image_size

    @property
    def ticket_epochs(self) -> tuple[float, float]:
        """e, as the earliest and the latest that it may be: the rule's first possible draw, and never."""
        if self.ticket_epoch is not None:
            return self.ticket_epoch, self.ticket_epoch
        usual = EarlyBirdTraining()
        draws = usual.clock_of(self.data.steps_per_epoch, self.data.steps(self.epochs)).draws
        return self.epochs * min(1, STOP_RULES[usual.rule].earliest(usual.window) / draws), self.epochs

    def schedule(self, network: nn.Module, dense: ModelCost, slim: ModelCost, ticket_epoch: float) -> Schedule:
        """Schedule of the dense network and a slim one by their costs, with a ticket drawn after `ticket_epoch`."""
        whole, budget = self.data.steps(self.epochs), parse_budget(self.budget)
        total = whole if budget is None else budget.dense_steps(whole, self.step_seconds)
        drawn = round(self.data.steps(ticket_epoch) * total / whole)  # at the same share of a shorter schedule
        return Schedule(
            total, self.data, dense, slim, drawn, self.spec.num_classes, network, self.image_shape, self.precision,
            self.budget_macs, None if budget is None else whole, self.device,
        )  # fmt: skip


@dataclass(frozen=True)
class Networks:
    """The networks of a scenario.

    Attributes:
        dense: as built.
        slim: label -> the network after the cut; one where the widths are known, otherwise extremes and a uniform one.
        realised_ratios: label -> share of the units that are gone, or None where the cut is not ours to see.
    """

    dense: nn.Module
    slim: dict[str, nn.Module]
    realised_ratios: dict[str, float | None]


def networks_of(scenario: Scenario) -> Networks:
    """Build the dense network and cut it.

    Raises:
        SlimError: nothing can be cut.
        RunFolderError, TicketError, MaskError: the widths are of another network, or cannot be read.
    """
    path = None if scenario.widths in (None, UNIFORM) else Path(str(scenario.widths))
    if is_run := path is not None and path.is_dir():
        final, record = _network_of_run(scenario, path), record_of(path)  # Compared before the dense one is made.
    dense = scenario.spec.build(0)
    example = torch.randn(2, *scenario.image_shape, generator=torch.Generator().manual_seed(0))
    ticket = Ticket.load(path) if path is not None and path.is_file() else None
    policy = scenario.policy if ticket is None else ticket.policy
    groups = channel_groups(dense, example, cast(PolicyChoice, policy))  # which refuses an unknown one
    if not groups.num_units:
        raise SlimError(f"nothing can be cut from {scenario.spec.name}; `earlybird inspect` says why, layer by layer")
    if path is None:
        alike = {name: torch.ones(units.numel()) for name, units in groups.unit_of.items()}
        scores = {UNIFORM: alike}
        if scenario.widths is None:  # Both extremes, too.
            costs = channel_costs(dense, example, groups, layer_macs(dense, scenario.image_shape))
            highest = max(float(cost.max()) for cost in costs.values())
            dearest_first = {name: highest - cost for name, cost in costs.items()}
            scores = {LEAST: dearest_first, UNIFORM: alike, MOST: costs}
        ratio, round_to = scenario.prune_ratio, scenario.round_to
        masks = {label: draw_mask(score, ratio, groups, round_to=round_to) for label, score in scores.items()}
    elif ticket is not None:
        masks = {f"ticket {path.name}": ticket.mask}
    elif is_run:
        if final is None:
            kept = {layer["name"]: layer["kept"] for layer in record["layers"]}
            flags = {name: torch.arange(width) < kept.get(name, width) for name, width in groups.widths().items()}
            final = slim(dense, ChannelMask(flags), example, groups, check=False)
        label = f"widths of {path.name}"
        return Networks(dense, {label: final}, {label: (record.get("ticket") or {}).get("realised_ratio")})
    else:
        raise ConfigError(f"--widths is {scenario.widths!r}; give uniform, a run folder or a ticket file")
    small = {label: slim(dense, mask, example, groups, check=False) for label, mask in masks.items()}
    return Networks(dense, small, {label: realised_ratio(mask, groups) for label, mask in masks.items()})


def cost_of(model: nn.Module, scenario: Scenario) -> ModelCost:
    """Cost of one image, with its traffic where that can be counted."""
    return count_cost_and_traffic(model, scenario.image_shape, scenario.precision)


def _network_of_run(scenario: Scenario, folder: Path) -> nn.Module | None:
    """The network that a run ended with, or None where it was not kept; refuse one of another dense network."""
    record = record_of(folder)
    if not record.get("layers"):
        said = f"drew no ticket (method {record['config']['method']['name']}), so it has no slim widths"
        raise RunFolderError(f"run {folder} {said}; give the run of a ticket, or --widths uniform")
    if os.path.lexists(folder / DESCRIPTION):
        model, spec = load_network(folder, trusted=(scenario.spec.name,))  # the user has named it
        theirs, ours = asdict(spec), asdict(scenario.spec)
    else:
        model, dense = None, scenario.spec.unmade()
        theirs = {"params": record["dense"]["params"]}
        ours = theirs if dense is None else {"params": sum(parameter.numel() for parameter in dense.parameters())}
    if theirs != ours:
        differing = ", ".join(f"{key} {theirs[key]}, not {ours[key]}" for key in theirs if theirs[key] != ours[key])
        cure = "leave --model, --width and --data out"
        raise RunFolderError(f"run {folder} is of another network ({differing}); {cure}")
    return model


def settings_of_run(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a finished run that a plan has too; what its method does not have is left out."""
    training, method, resolved = record["config"]["training"], record["config"]["method"], record["resolved"]
    found = {
        "epochs": float(training["epochs"]),
        "batch_size": training["batch_size"],
        "ratio": method.get("prune_ratio"),
        "precision": resolved["precision"],
        "policy": method.get("policy"),
        # Of "auto" what the run took it for.
        "round_to": resolved.get("round_to", method.get("round_to")),
        "device": (record.get("device") or {}).get("type"),
    }
    return {name: value for name, value in found.items() if value is not None}


def sizes_of_run(record: Mapping[str, Any]) -> DataSizes | None:
    """Sizes of a finished run's data; None of a run of a version that did not write them down."""
    if not (data := record.get("data")):
        return None
    channels, height, width = data["image_shape"]
    images = data["train_images"], data.get("val_images") or 0, record["test"]["samples"]
    return DataSizes((channels, height, width), data["classes"], *images)


@dataclass(frozen=True)
class Drawn:
    """The search that drew a ticket: epochs e of T, and p; None where the ticket does not say."""

    ticket_epoch: float | None
    epochs: float | None
    prune_ratio: float | None


def drawn_by(path: str) -> Drawn:
    """The search behind the ticket of a run folder, or of a ticket file.

    Raises:
        RunFolderError, TicketError: it cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        ticket = record_of(place).get("ticket") or {}
        return Drawn(ticket.get("epoch"), ticket.get("total_epochs"), ticket.get("prune_ratio"))
    loaded = Ticket.load(place)
    notes: Mapping[str, Any] = loaded.notes
    if not {"step", "steps_per_epoch", "total_steps", "journal"} <= set(notes):
        return Drawn(None, None, loaded.prune_ratio)
    check_notes(loaded)
    per_epoch = notes["steps_per_epoch"]
    return Drawn(notes["step"] / per_epoch, notes["total_steps"] / per_epoch, loaded.prune_ratio)
