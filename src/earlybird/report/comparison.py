"""Comparison of runs: a row each, groups of equal settings over seeds, a table for each model, data, schedule, recipe.

The dense partner of a run is the record of method `dense` with the same model, data, epochs, recipe and seed. Ratios
are formed inside such a pair and only then averaged, so that a slow machine or an easy seed does not enter twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earlybird.report import quantities
from earlybird.report.quantities import Row, RunGroup, rows_of
from earlybird.report.table import Table, to_terminal
from earlybird.settings.catalog import WideStart, own_name, preset_of
from earlybird.settings.method import MIN_DRAW_STEPS
from earlybird.settings.recipes import recipe_of

if TYPE_CHECKING:
    from rich.console import Console

# The seed, where data lie and how often to save change no result in kind: such runs are one experiment.
NOT_A_SETTING = frozenset({"seed", "root", "cache", "download", "workers", "checkpoint_every", "eval_batch_size"})
# Settings that records of older versions lack, and the value as which that counts.
YOUNGER = {
    "budget": "", "budget_macs": 0, "min_draw_steps": MIN_DRAW_STEPS, "step": "auto", "tf32": "conv", "nesterov": False,
    "ema": 0, "low_resolution": 0,
}  # fmt: skip
_NO_BUDGET = {"budget": "", "budget_macs": 0}

_HOW_TO_READ = (
    "Mean ± sample standard deviation over n seeds (no ± where all agree). In brackets: divided by the dense run of "
    "the same model, data, epochs, recipe and seed; below 1.00 is saved. Training cost counts search, training and "
    "evaluation."
)


def print_comparison(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the tables with quantities down and methods across, so that a terminal of 80 letters is enough."""
    from rich.console import Console

    console = console or Console()
    for table in comparison_tables(records):
        for part in table.across(console.width):
            to_terminal(part, console)
        console.print()


def print_run(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print one run as a row, and at most two notes, each cut to a line of the terminal."""
    from rich.console import Console

    console = console or Console()
    [((model, data, epochs, _), [group])] = group_rows(comparison_rows([record])).items()
    pruned = "" if group.rows[0]["prune_ratio"] is None else f", p {quantities.prune_ratio_cell(group)}"
    cells: quantities.Cells = {
        "method": lambda group: group.name,
        "test accuracy %": quantities.accuracy_cell,
        "ticket at epoch": quantities.emergence_cell,
        **{name: cell for name, cell in quantities.COST_CELLS.items() if "FLOPs" not in name},
    }
    table = quantities.table_of(cells, [group], f"{model} on {data}, {epochs} epochs{pruned}", ())
    to_terminal(table, console, frame="rule")
    brackets = "In brackets: divided by the dense network's. `earlybird report` says more."
    for note in (*quantities.flag_notes(group), brackets):
        console.print(note, style="dim", markup=False, highlight=False, no_wrap=True, overflow="ellipsis")


def comparison_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table per model, data set, schedule and recipe, a row for each method; the records may be any mixture."""
    tables = []
    for (model, data, epochs, recipe), groups in group_rows(comparison_rows(records)).items():
        cells: quantities.Cells = {
            "method": lambda group: group.name,
            "p asked / realised": quantities.prune_ratio_cell,
            "test accuracy %": quantities.accuracy_cell,
            "ticket at epoch (of schedule)": quantities.emergence_cell,
            **quantities.COST_CELLS,
            **quantities.energy_columns(rows_of(groups)),
            "n": lambda group: str(len(group.rows)),
        }
        title = f"{model} on {data}, {epochs} epochs, recipe {recipe}"
        tables.append(quantities.table_of(cells, groups, title, _notes(groups)))
    return tables


def _notes(groups: Sequence[RunGroup]) -> list[str]:
    rows = rows_of(groups)
    notes = [_HOW_TO_READ, "Timed on: " + ", ".join(sorted({row["device"] for row in rows})) + "."]
    notes += quantities.energy_notes(rows)
    for group in groups:
        ratio = group.spread("wall_seconds_ratio")
        if ratio is not None and group.rows[0]["method"] != "dense" and ratio.mean >= 0.995:
            notes.append(f"{group.name} saves no time here: {ratio.mean:.2f} of the dense seconds.")
        notes += quantities.flag_notes(group)
    if all(row["dense_run_id"] is None for row in rows):
        missing = "No dense run of this model, data, schedule, recipe and seed"
        notes.append(f"{missing} is among the records: no training-cost ratios.")
    return notes


def comparison_rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One flat row per record, in the order given.

    Fractions and accuracies lie in [0, 1]. A ratio is this run divided by its dense partner (sizes: by its own dense
    network), so 0.6 means 60 % of dense and 1.2 means dearer; it is None without a partner, and the ratio of seconds
    is None as well between different devices or numbers of threads. `train_macs` are MACs as executed, evaluation
    included; `train_paper_flops` follow the paper's convention, or are None.

    Example:
        >>> comparison_rows(records)[1]["wall_seconds_ratio"]  # doctest: +SKIP
        0.81
    """
    return [row_of(record, _dense_partner(record, records)) for record in records]


def group_rows(rows: Iterable[Row]) -> dict[tuple[str, str, int, str], list[RunGroup]]:
    """(model, data, epochs, recipe) -> groups over seeds: the dense one first, then by method and ratio."""
    topics: dict[tuple[str, str, int, str], dict[str, list[Row]]] = {}
    for row in rows:
        groups = topics.setdefault((row["model"], row["data"], row["epochs"], row["recipe"]), {})
        groups.setdefault(json.dumps(row["settings"]), []).append(row)
    return {topic: _named(sorted(groups.values(), key=_rank)) for topic, groups in sorted(topics.items())}


def row_of(record: Mapping[str, Any], dense: Mapping[str, Any] | None) -> Row:
    """Row of one record beside its dense partner, if there is one (see `comparison_rows`)."""
    ticket, metrics = drawn_ticket(record) or {}, record["metrics"]
    precision = (record.get("resolved") or {}).get("precision")  # that `auto` became
    row: Row = {
        "run_id": record["run_id"],
        "model": model_label(record),
        "data": data_label(record),
        "epochs": scheduled_epochs(record),
        "recipe": recipe_label(record),
        "method": method_label(record),
        "seed": seed_of(record),
        "device": device_label(record),
        "settings": {
            **_flat(record["config"]),
            "precision": precision,
            "step": _step(record),
            "device": device_label(record),
        },
        "prune_ratio": requested_ratio(record),
        "realised_ratio": (ticket or record.get("weight_mask") or {}).get("realised_ratio"),  # channels, or weights
        "searched_in_vain": bool((record.get("ticket") or {}).get("none")),
        "flags": tuple(dict.fromkeys([*(ticket.get("flags") or ()), *(record.get("flags") or ())])),
        "accuracy": record["test"].get("accuracy"),
        "top5_accuracy": record["test"].get("top5_accuracy"),
        "test_images": record["test"].get("samples"),
        "uncut_accuracy": (record.get("uncut_test") or {}).get("accuracy"),
        "emergence_epoch": ticket.get("epoch"),
        "emergence_share": ticket.get("fraction_of_schedule"),
        "trained_epochs": float(metrics[-1]["epoch"] if metrics else scheduled_epochs(record)),
        "dense_run_id": dense["run_id"] if dense else None,
        "is_timed_alike": None if dense is None else _timed_alike(record, dense),
    }
    total, dense_total = record["cost"]["total"], dense["cost"]["total"] if dense else {}
    sizes = {key: (record["final"][key], record["dense"][key]) for key in ("params", "macs")}
    costs = {f"train_{key}": (total.get(key), dense_total.get(key)) for key in ("macs", "paper_flops")}
    seconds = {key: (total.get(key), dense_total.get(key)) for key in ("wall_seconds", "cpu_seconds")}
    row |= (energy := quantities.energy_facts(record))
    joules = quantities.energy_pairs(energy, quantities.energy_facts(dense) if dense else {})
    for key, (value, partner) in (sizes | costs | seconds | joules).items():
        row |= {key: value, f"{key}_ratio": value / partner if value is not None and partner else None}
    if row["is_timed_alike"] is False:
        # Seconds and measured joules of two machines, or of one and two threads, are no measure of a method.
        row |= {f"{key}_ratio": None for key in (*seconds, *joules) if key != quantities.ESTIMATED}
    return row


def _timed_alike(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two runs were timed on the same device, in the same form and, on a CPU, with as many threads."""
    threads = {(run.get("device") or {}).get("threads") for run in (record, other)} - {None}
    is_cpu = (record.get("device") or {}).get("type") == "cpu"
    is_same_form = _step(record) == _step(other)
    return device_label(record) == device_label(other) and is_same_form and not (is_cpu and len(threads) > 1)


def _step(record: Mapping[str, Any]) -> str:
    """Form of a run's training step; those of older versions ran eager."""
    return str((record.get("resolved") or {}).get("step", "eager"))


def _dense_partner(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """First dense record of the same model, data, epochs, recipe and seed; one of the same training is preferred.

    A budget may have set the length of the run's training, but not of its partner's.
    """
    if method_label(record) == "dense" and not any(_training(record).get(name) for name in _NO_BUDGET):
        return record
    key, training, device = _pair_key(record), _training(record) | _NO_BUDGET, device_label(record)
    dense = [other for other in records if method_label(other) == "dense" and _pair_key(other) == key]
    return min(
        (other for other in dense if not any(_training(other).get(name) for name in _NO_BUDGET)),
        key=lambda other: (device_label(other) != device, _training(other) | _NO_BUDGET != training),
        default=None,
    )


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    training: dict[str, Any] = record["config"].get("training") or {}
    return training


def _pair_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    settings = _flat({key: record["config"].get(key) or {} for key in ("model", "data")})
    return json.dumps(settings), scheduled_epochs(record), recipe_label(record), seed_of(record)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All settings of a configuration by their path, `training.lr`."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        if isinstance(config[key], Mapping):
            flat.update(_flat(config[key], f"{prefix}{key}."))
        elif key not in NOT_A_SETTING and (key not in YOUNGER or config[key] != YOUNGER[key]):
            flat[prefix + key] = config[key]
    return flat


def _rank(group: Sequence[Row]) -> tuple[bool, str, float, str]:
    first = group[0]
    budget = str(first["settings"].get("training.budget", ""))
    return first["method"] != "dense", first["method"], first["prune_ratio"] or 0.0, budget


def _named(groups: Sequence[list[Row]]) -> list[RunGroup]:
    """Name groups that the table would print alike (same method and p) by the settings that differ."""
    named = []
    for group in groups:
        first = group[0]
        alike = [other[0]["settings"] for other in groups if _rank(other)[:3] == _rank(group)[:3]]
        keys = sorted({key for settings in alike for key in settings})
        differing = [key for key in keys if len({json.dumps(settings.get(key)) for settings in alike}) > 1]
        told = {key.split(".")[-1]: first["settings"].get(key) for key in differing}
        # A budget names itself: time=0.5.
        texts = {key: str(value) if key == "budget" else f"{key}={value}" for key, value in told.items()}
        told_apart = ", ".join(text for key, text in texts.items() if told[key] is not None)
        named.append(RunGroup(first["method"] + (f" ({told_apart})" if told_apart else ""), tuple(group)))
    return named


def model_label(record: Mapping[str, Any]) -> str:
    """Name of the network, of a path its last part, with its width where that is not 1: `vgg16 (width 0.25)`."""
    model = record["config"].get("model", {})
    width = model.get("width", 1.0)
    name = str(model.get("name", "model")).rsplit("/", 1)[-1]
    return name if width in (None, 1, 1.0) else f"{name} (width {width:g})"


def data_label(record: Mapping[str, Any]) -> str:
    """Name of the data set, of a path its last part; with the images where not all are used: `cifar10 (900 images)`."""
    data = record["config"].get("data", {})
    name, images = str(data.get("name", "data")).rstrip("/").rsplit("/", 1)[-1], data.get("train_images")
    return f"{name} ({images:,} images)" if images else name


def method_label(record: Mapping[str, Any]) -> str:
    """Name of the method: `dense`, `early_bird`, or a preset such as `reinit`."""
    settings = record["config"].get("method", {})
    preset = record["preset"] if "preset" in record else preset_of(settings)  # not told by older versions
    return preset or own_name(settings)


def scheduled_epochs(record: Mapping[str, Any]) -> int:
    """Epochs T of the schedule, the length of one dense training."""
    return int(record["config"].get("training", {}).get("epochs", 0))


def recipe_label(record: Mapping[str, Any]) -> str:
    """Recipe of the training: `paper`, `modern`, or the nearest with what differs from it."""
    return recipe_of(_training(record))


def seed_of(record: Mapping[str, Any]) -> int | None:
    """Seed that all others follow from; None if the record does not say."""
    places = (record.get("seeds") or {}, record["config"], record["config"].get("training", {}))
    return next((int(place["seed"]) for place in places if place.get("seed") is not None), None)


def drawn_ticket(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Ticket of a run that drew one; None for a dense run and for a search that found none."""
    ticket: Mapping[str, Any] | None = record.get("ticket")
    return None if not ticket or ticket.get("none") else ticket


def requested_ratio(record: Mapping[str, Any]) -> float | None:
    """Fraction p of the prunable channels that the run was to remove, in [0, 1).

    None for a run that prunes none, and for one whose widths follow from a step time instead.
    """
    if record["config"].get("method", {}).get("name") == WideStart.name:
        return None
    configured, notes = record["config"].get("method", {}), record.get("notes") or {}
    ratio = (drawn_ticket(record) or {}).get("prune_ratio", configured.get("prune_ratio", notes.get("prune_ratio")))
    return None if ratio is None else float(ratio)


def is_cut(record: Mapping[str, Any]) -> bool:
    """True if any layer ended narrower than it began."""
    return any(layer["kept"] < layer["dense"] for layer in record.get("layers") or [])


def device_label(record: Mapping[str, Any]) -> str:
    """Device that the run was timed on."""
    device = record.get("device") or {}
    parts = [str(device[key]) for key in ("type", "name") if device.get(key)]
    return " ".join(dict.fromkeys(parts)) or "unknown device"
