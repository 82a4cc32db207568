"""`earlybird retrain`: from a ticket file to a trained small network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from earlybird.cli.options import Parser, expand_short_flags, parse_run
from earlybird.errors import ConfigError

_DESCRIPTION = (
    "Cut the network by a ticket and train what is left. Settings are those of the search that drew it "
    "(config.yaml beside the ticket); flags win over them."
)


def command(argv: Sequence[str]) -> int:
    """Retrain, then print where the record and the pictures are."""
    arguments = expand_short_flags(argv)
    if {"-h", "--help"} & set(arguments):
        parse_run("retrain", _DESCRIPTION, arguments, _add_ticket)
    path = _ticket_path(arguments)
    from earlybird.cli.finish import finish_run
    from earlybird.core import Ticket
    from earlybird.runs.run import run

    ticket = Ticket.load(path)
    beside = path.parent / "config.yaml"
    if beside.is_file() and not any(a.split("=")[0] == "--config" for a in arguments):
        arguments = ["--config", str(beside), *arguments]
    arguments += ["--method.prune_ratio", str(ticket.prune_ratio)]
    config, parsed = parse_run("retrain", _DESCRIPTION, arguments, _add_ticket)
    out = parsed.out or str(path.parent / f"retrain-p{ticket.prune_ratio:g}")
    record = run(config, out, ticket=path, force=parsed.force, quiet=parsed.quiet)
    finish_run(record, out)
    return 0


def _add_ticket(parser: Parser) -> None:
    parser.add_argument("--ticket", type=str, help="ticket file that `search` or `train` wrote")


def _ticket_path(arguments: Sequence[str]) -> Path:
    for flag, value in zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, joined = flag.partition("=")
        if option == "--ticket":
            return Path(joined if equals else value)
    raise ConfigError(
        "--ticket is missing; give the ticket file to cut by, e.g. --ticket runs/s/ticket-p0.5.safetensors"
    )
