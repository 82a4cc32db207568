"""Facts of one record, and the names that titles and tables give to its network, data, method and device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earlybird.settings.presets import method_label as name_of_settings
from earlybird.settings.presets import own_name


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
    if "preset" not in record:  # of an older version
        return name_of_settings(settings)
    return record["preset"] or own_name(settings)


def scheduled_epochs(record: Mapping[str, Any]) -> int:
    """Epochs T of the schedule, the length of one dense training."""
    return int(record["config"].get("training", {}).get("epochs", 0))


def seed_of(record: Mapping[str, Any]) -> int | None:
    """Seed that all others follow from; None if the record does not say."""
    places = (record.get("seeds") or {}, record["config"], record["config"].get("training", {}))
    return next((int(place["seed"]) for place in places if place.get("seed") is not None), None)


def drawn_ticket(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Ticket of a run that drew one; None for a dense run and for a search that found none."""
    ticket: Mapping[str, Any] | None = record.get("ticket")
    return None if not ticket or ticket.get("none") else ticket


def requested_ratio(record: Mapping[str, Any]) -> float | None:
    """Fraction p of the prunable channels that the run was to remove, in [0, 1); None for a run that prunes none."""
    configured, notes = record["config"].get("method", {}), record.get("notes") or {}
    ratio = (drawn_ticket(record) or {}).get("prune_ratio", configured.get("prune_ratio", notes.get("prune_ratio")))
    return None if ratio is None else float(ratio)


def realised_ratio(record: Mapping[str, Any]) -> float | None:
    """Fraction of the prunable channels, or single weights, that the run did remove; None for one that prunes none."""
    ratio = (drawn_ticket(record) or record.get("weight_mask") or {}).get("realised_ratio")
    return None if ratio is None else float(ratio)


def is_cut(record: Mapping[str, Any]) -> bool:
    """True if any layer ended narrower than it began."""
    return any(layer["kept"] < layer["dense"] for layer in record.get("layers") or [])


def device_label(record: Mapping[str, Any]) -> str:
    """Device that the run was timed on."""
    device = record.get("device") or {}
    parts = [str(device[key]) for key in ("type", "name") if device.get(key)]
    return " ".join(dict.fromkeys(parts)) or "unknown device"
