"""`earlybird retrain`: from a ticket file to a trained small network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from earlybird.cli.options import Parser, expand_short_flags, parse_run, value_of
from earlybird.errors import ConfigError
from earlybird.methods.catalog import method_class
from earlybird.runs.config import refuse_unnamed_code

_DESCRIPTION = (
    "Cut the network by a ticket and train what is left, or what a control makes of it (--method). Settings are those "
    "of the search that drew it (config.yaml beside the ticket); flags win over them."
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
    if beside.is_file() and value_of("--config", arguments) is None:
        _refuse_code_of_file(beside, arguments)
        arguments = ["--config", str(beside), *arguments]
    name = value_of("--method.name", arguments)
    if "prune_ratio" in {field.name for field in dataclasses.fields(method_class(name or "early_bird"))}:
        arguments += ["--method.prune_ratio", str(ticket.prune_ratio)]
    config, parsed = parse_run("retrain", _DESCRIPTION, arguments, _add_ticket)
    label = "retrain" if name in (None, "early_bird") else name.rpartition(":")[2]
    out = parsed.out or str(path.parent / f"{label}-p{ticket.prune_ratio:g}")
    record = run(config, out, ticket=path, force=parsed.force, quiet=parsed.quiet)
    finish_run(record, out)
    return 0


def _refuse_code_of_file(path: Path, arguments: Sequence[str]) -> None:
    """Raise where a file that lies beside a ticket names code: it is not the user's own word."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return  # The parser says what is wrong with it.
    for short, long in (("--model", "model.name"), ("--data", "data.name"), ("--method", "method.name"),
                        ("--method.criterion", "method.criterion")):  # fmt: skip
        section, _, key = long.partition(".")
        found = (content.get(section) or {}).get(key) if isinstance(content, dict) else None
        refuse_unnamed_code(short, str(found or ""), [value_of(f"--{long}", arguments) or ""])


def _add_ticket(parser: Parser) -> None:
    parser.add_setting("--ticket", str | None, None, "ticket file that `search` or `train` wrote")


def _ticket_path(arguments: Sequence[str]) -> Path:
    path = value_of("--ticket", arguments)
    if not path:
        raise ConfigError("--ticket is missing; give the file to cut by, e.g. --ticket runs/s/ticket-p0.5.safetensors")
    return Path(path)
