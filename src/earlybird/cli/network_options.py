"""Flags that name a network and its data, in the words of `earlybird train`, for commands that train nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from earlybird.cli.options import Parser, add_section, value_of
from earlybird.settings.run import DataConfig, ModelConfig, refuse_unnamed_code

if TYPE_CHECKING:
    from earlybird.data.sizes import DataSizes
    from earlybird.runs.folder import NetworkSpec

SECTIONS = {"model": ModelConfig, "data": DataConfig}


def add_network(parser: Parser, record: Mapping[str, Any] | None = None) -> None:
    """Add `--model.*` and `--data.*`; their defaults are those of `train`, or the settings of a finished run."""
    for section, kind in SECTIONS.items():
        add_section(parser, section, kind, record["config"][section] if record else None)


def planned_network(
    parsed: Namespace, argv: Sequence[str], record: Mapping[str, Any] | None = None
) -> tuple[NetworkSpec, DataSizes]:
    """Network that `train` would build by these flags, and the sizes of its data.

    Data of a finished run are taken as its record counts them, CIFAR and ImageNet as published; others are read.

    Args:
        argv: its arguments; a run's record may not name code that they do not.
        record: of the finished run whose settings were the defaults.

    Raises:
        ConfigError: a setting is out of range, or only the record names code.
        EarlyBirdError: unknown or missing data, or an unknown model.
    """
    from earlybird.forecast.run import sizes_of_run
    from earlybird.models import check_model_name
    from earlybird.runs.run import data_sizes, network_spec

    model, data = ModelConfig(**parsed.model.as_dict()), DataConfig(**parsed.data.as_dict())
    refuse_unnamed_code("--model", model.name, [value_of("--model.name", argv) or ""])
    check_model_name(model.name)
    sizes = sizes_of_run(record) if record and has_data_of(record, data) else None
    if sizes is None:
        refuse_unnamed_code("--data", data.name, [value_of("--data.name", argv) or ""])
        sizes = data_sizes(data)
    return network_spec(model, sizes), sizes


def has_data_of(record: Mapping[str, Any], data: DataConfig) -> bool:
    """Tell whether these are the data of a finished run, split and augmented as in it."""
    theirs = dataclasses.asdict(DataConfig()) | record["config"]["data"]
    return all(theirs[name] == value for name, value in dataclasses.asdict(data).items())
