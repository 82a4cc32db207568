"""`earlybird list`: what there is."""

from __future__ import annotations

from collections.abc import Sequence

from earlybird.cli.options import Parser
from earlybird.methods.catalog import METHODS
from earlybird.methods.presets import PRESETS


def command(argv: Sequence[str]) -> int:
    """Print models, data sets and methods."""
    Parser("list", "List models, data sets and methods.").parse_args(list(argv))
    from earlybird.data import data_names
    from earlybird.models import model_names

    print("models:  " + ", ".join(model_names()))
    print("data:    " + ", ".join(data_names()))
    print("methods: " + ", ".join(METHODS))
    print("presets: " + ", ".join(PRESETS))
    return 0
