"""`earlybird list`: names of models, data sets, methods and presets."""

from __future__ import annotations

from collections.abc import Sequence

from earlybird.cli.options import Parser
from earlybird.errors import require
from earlybird.settings.catalog import METHODS, PRESETS, method_names, summary_of


def command(argv: Sequence[str]) -> int:
    """Print all names, or one line for each method and preset."""
    parser = Parser("list", "List models, data sets, methods and presets.")
    parser.add_argument("topic", type=str, nargs="?", help="methods: one line each, with its summary")
    topic = parser.parse_args(list(argv)).topic
    require("topic", topic, topic in (None, "methods"), "methods, or nothing for all names")
    if topic == "methods":
        width = max(map(len, method_names()))
        print("\n".join(f"{name:<{width}}  {summary_of(name)}" for name in method_names()))
        return 0
    from earlybird.data import data_names
    from earlybird.models import model_names

    print("models:  " + ", ".join(model_names()))
    print("data:    " + ", ".join(data_names()))
    print("methods: " + ", ".join(METHODS))
    print("presets: " + ", ".join(PRESETS))
    return 0
