"""JSON schemas of the files that runs leave, and the one check of such a file when it is read. Loads no torch."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from earlybird.atomic import json_object

_LONGEST = 160
_PARTS = (("correct", "samples"), ("kept", "weights"), ("kept", "dense"), ("epoch", "total_epochs"))


def parse(text: str | bytes, schema: str, version: int | None = None) -> dict[str, Any]:
    """Object in a JSON file, as its schema ("record", "grid" or "search") wants it.

    Args:
        version: its `schema_version`, where it has one.

    Raises:
        ValueError: it is no strict JSON object, or not as the schema wants it; one line with the place.
    """
    values = json_object(text)
    if version is not None and values.get("schema_version") != version:
        raise ValueError(f"it has schema_version {values.get('schema_version')!r}; this version reads {version}")
    check(values, schema)
    return values


def check(values: dict[str, Any], schema: str) -> None:
    """Raise `ValueError` with the place and what is expected there, unless `values` are as the schema wants them."""
    from jsonschema.exceptions import best_match

    try:
        error = best_match(_validator(schema).iter_errors(values))
    except RecursionError as deep:
        raise ValueError("it is nested too deeply") from deep
    if error is not None:
        what = " ".join(error.message.split())
        what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}..."
        raise ValueError(f"{error.json_path.removeprefix('$.').removeprefix('$') or 'the file'}: {what}")
    if schema == "record":
        _check_parts(values)


def _check_parts(record: dict[str, Any]) -> None:
    """Raise `ValueError` where a part of a record is more than its whole, which no schema can say."""
    places = {name: record.get(name) or {} for name in ("test", "uncut_test", "weight_mask", "ticket")}
    cost = record["cost"]
    for name, phase in cost["phases"].items():
        for part in ("images", "macs"):
            if phase[part] > cost["total"][part]:
                told = f"is more than cost.total.{part}, {cost['total'][part]}"
                raise ValueError(f"cost.phases.{name}.{part}: {phase[part]} {told}")
    places |= {f"layers[{i}]": layer for i, layer in enumerate(record.get("layers") or ())}
    for place, found in places.items():
        for part, whole in _PARTS:
            if part in found and whole in found and found[part] > found[whole]:
                raise ValueError(f"{place}.{part}: {found[part]} is more than {place}.{whole}, {found[whole]}")


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    text = files("earlybird.runs").joinpath(f"{schema}.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
