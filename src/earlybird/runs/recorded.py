"""What the record of a finished run says that it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recorded_training_macs(record: Mapping[str, Any]) -> int:
    """MACs of a finished run, search included and without its final evaluation: every run pays its own.

    Args:
        record: as `record.json` holds it.
    """
    evaluation = record["cost"]["phases"].get("evaluate") or {}
    return int(record["cost"]["total"]["macs"]) - int(evaluation.get("macs", 0))
