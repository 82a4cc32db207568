"""`earlybird search`: tickets only, any number of ratios in one dense training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from earlybird.cli.options import Parser, default_out, parse_run
from earlybird.errors import ConfigError
from earlybird.methods.early_bird import EarlyBirdTraining

_DESCRIPTION = (
    "Search tickets: train dense, watch the masks, write a ticket file for each ratio. `retrain` goes on from one."
)


def command(argv: Sequence[str]) -> int:
    """Search and print one line per ticket."""
    config, parsed = parse_run("search", _DESCRIPTION, argv, _add_ratios)
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which searches nothing; give early_bird")
    ratios = sorted(parsed.ratios or [config.method.prune_ratio])
    # The first ratio stands in the configuration: the folder is then refused to a search of others.
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, prune_ratio=ratios[0]))
    from earlybird.runs.run import run_search

    out = parsed.out or default_out(config) + "-search"
    for ratio, path in run_search(config, ratios, out, force=parsed.force, quiet=parsed.quiet).items():
        print(f"p = {ratio:g}: {path if path else 'ticket: none (the rule never fired)'}")
    return 0


def _add_ratios(parser: Parser) -> None:
    parser.add_setting("--ratios", list[float] | None, None, "several ratios at once: [0.3,0.5,0.7]")
