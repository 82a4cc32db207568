"""`earlybird retrain`: from a ticket file to a trained small network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from earlybird.cli.options import Parser, expand_short_flags, parse_run, value_of
from earlybird.errors import ConfigError
from earlybird.runs.config import refuse_unnamed_code

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
    given = [value_of(flag, arguments) or "" for flag in ("--model.name", "--data.name")]
    beside = path.parent / "config.yaml"
    is_implied = beside.is_file() and value_of("--config", arguments) is None
    if is_implied:
        arguments = ["--config", str(beside), *arguments]
    if value_of("--method.name", arguments) in (None, "early_bird"):
        arguments += ["--method.prune_ratio", str(ticket.prune_ratio)]
    config, parsed = parse_run("retrain", _DESCRIPTION, arguments, _add_ticket)
    if is_implied:  # A file that lies beside a ticket is not the user's own word.
        refuse_unnamed_code("--model", config.model.name, given)
        refuse_unnamed_code("--data", config.data.name, given)
    out = parsed.out or str(path.parent / f"retrain-p{ticket.prune_ratio:g}")
    record = run(config, out, ticket=path, force=parsed.force, quiet=parsed.quiet)
    finish_run(record, out)
    return 0


def _add_ticket(parser: Parser) -> None:
    parser.add_setting("--ticket", str | None, None, "ticket file that `search` or `train` wrote")


def _ticket_path(arguments: Sequence[str]) -> Path:
    path = value_of("--ticket", arguments)
    if not path:
        raise ConfigError("--ticket is missing; give the file to cut by, e.g. --ticket runs/s/ticket-p0.5.safetensors")
    return Path(path)
