"""`earlybird search`: tickets only, any number of ratios in one dense training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from earlybird.cli.options import Parser, default_out, parse_run
from earlybird.errors import ConfigError
from earlybird.settings.early_bird import EarlyBirdTraining, check_requests, requests_of

_DESCRIPTION = (
    "Search tickets: train dense, watch the masks, write a ticket file for each ratio. `retrain` goes on from one."
)


def command(argv: Sequence[str]) -> int:
    """Search and print one line per ticket."""
    config, parsed = parse_run("search", _DESCRIPTION, argv, _add_ratios)
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which searches nothing; give early_bird")
    ratios = sorted(parsed.ratios or [config.method.prune_ratio])
    requests = requests_of(ratios, parsed.draws or [config.method.draw_at])
    check_requests(requests)
    # The first ratio stands in the configuration: the folder is then refused to a search of others.
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, prune_ratio=ratios[0]))
    from earlybird.runs.run import run_search

    out = parsed.out or default_out(config) + "-search"
    for request, path in run_search(config, requests, out, force=parsed.force, quiet=parsed.quiet).items():
        when = "" if request.draw_at == "rule" else f", draw {request.draw_at}"
        print(f"p = {request.prune_ratio:g}{when}: {path if path else 'ticket: none (the rule never fired)'}")
    return 0


def _add_ratios(parser: Parser) -> None:
    parser.add_setting("--ratios", list[float] | None, None, "several ratios at once: [0.3,0.5,0.7]")
    parser.add_setting(
        "--draws", list[int | Literal["rule", "last"]] | None, None,
        "when tickets are drawn, several at once: [rule,0,5,last]; default: when the stop rule fires",
    )  # fmt: skip
