"""`earlybird retrain`: from a ticket file to a trained small network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from earlybird.cli.options import Parser, expand_short_flags, parse_run, value_of
from earlybird.cli.train_command import show_finished_run
from earlybird.errors import ConfigError
from earlybird.settings.catalog import method_class
from earlybird.settings.run import SECTIONS, refuse_unnamed_code

_DESCRIPTION = (
    "Cut the network by a ticket and train what is left, or what a control makes of it (--method). Settings are those "
    "of the search that drew it (config.yaml beside the ticket); flags win over them."
)

# Short flag, section and key of each setting that may name code.
_CODE = (
    ("--model", "model", "name"),
    ("--data", "data", "name"),
    ("--method", "method", "name"),
    ("--method.criterion", "method", "criterion"),
)


def command(argv: Sequence[str]) -> int:
    """Retrain, then show the finished run."""
    arguments = expand_short_flags(argv)
    if {"-h", "--help"} & set(arguments):
        parse_run("retrain", _DESCRIPTION, arguments, _add_ticket)
    path = _ticket_path(arguments)
    from earlybird.core import Ticket
    from earlybird.runs.run import run

    ticket = Ticket.load(path)
    beside, name = path.parent / "config.yaml", value_of("--method.name", arguments)
    if beside.is_file() and value_of("--config", arguments) is None:
        settings = _settings_beside(beside, arguments)
        arguments = [f"--config={yaml.safe_dump(settings, sort_keys=False)}", *arguments]
        name = name or settings.get("method", {}).get("name")
    takes_ratio = "prune_ratio" in {field.name for field in dataclasses.fields(method_class(name or "early_bird"))}
    if takes_ratio and value_of("--method.prune_ratio", arguments) is None:
        arguments += ["--method.prune_ratio", str(ticket.prune_ratio)]
    config, parsed = parse_run("retrain", _DESCRIPTION, arguments, _add_ticket)
    label = "retrain" if name in (None, "early_bird") else name.rpartition(":")[2]
    out = parsed.out or str(path.parent / f"{label}-p{ticket.prune_ratio:g}")
    record = run(config, out, ticket=path, force=parsed.force, quiet=parsed.quiet)
    show_finished_run(record, out)
    return 0


def _settings_beside(path: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Settings in a file beside a ticket. The user has not named what it holds, so no code of it is run.

    Raises:
        ConfigError: it holds something else than plain sections, or names code that the arguments do not.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({' '.join(str(error).split())}); give --config") from error
    known = {*SECTIONS, "resolved"}
    # Dotted keys and a `config` of its own would be read by the parser, past what is looked at here.
    plain = isinstance(content, dict) and set(content) <= known
    if not plain or not all(isinstance(v, dict) and not any("." in str(k) for k in v) for v in content.values()):
        raise ConfigError(f"{path} holds no settings of a run ({', '.join(SECTIONS)}); give --config with your own")
    for short, section, key in _CODE:
        found = str(content.get(section, {}).get(key) or "")
        refuse_unnamed_code(short, found, [value_of(f"--{section}.{key}", arguments) or ""])
    return {name: content[name] for name in SECTIONS if name in content}


def _add_ticket(parser: Parser) -> None:
    parser.add_setting("--ticket", str | None, None, "ticket file that `search` or `train` wrote")


def _ticket_path(arguments: Sequence[str]) -> Path:
    if not (path := value_of("--ticket", arguments)):
        raise ConfigError("--ticket is missing; give the file to cut by, e.g. --ticket runs/s/ticket-p0.5.safetensors")
    return Path(path)
