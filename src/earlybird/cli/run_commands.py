"""`earlybird train`, `search` and `retrain`: a run, its search alone, and what goes on from a ticket file."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from earlybird.cli.options import SHORT_FLAGS, Flags, default_out, expand_short_flags, parse_run, value_of
from earlybird.errors import ConfigError
from earlybird.settings.catalog import method_class
from earlybird.settings.method import EarlyBirdTraining, check_requests, requests_of
from earlybird.settings.run import CODE_FLAGS, SECTIONS, refuse_unnamed_code

_TRAIN = (
    "Train a network as an Early-Bird ticket, dense, or by any other method. Give the same command again after a kill: "
    "it goes on."
)
_DENSE_RUN = "lottery_ticket, thinet: start from this finished dense run instead of training it again; it is charged"
_SEARCH = (
    "Search tickets: train dense, watch the masks, write a ticket file for each ratio. `retrain` goes on from one."
)
_DRAWS = "when tickets are drawn, several at once: [rule,0,5,last]; default: when the stop rule fires"
_REQUESTS: Flags = {
    "--ratios": (list[float] | None, None, "several ratios at once: [0.3,0.5,0.7]"),
    "--draws": (list[int | Literal["rule", "last"]] | None, None, _DRAWS),
}
_RETRAIN = (
    "Cut the network by a ticket and train what is left, or what a control makes of it (--method). Settings are those "
    "of the search that drew it (config.yaml beside the ticket); flags win over them."
)
_TICKET: Flags = {"--ticket": (str | None, None, "ticket file that `search` or `train` wrote")}


def train_command(argv: Sequence[str]) -> None:
    """Train, then show the finished run."""
    config, parsed = parse_run("train", _TRAIN, argv, {"--dense-run": (str | None, None, _DENSE_RUN)})
    from earlybird.runs.run import run

    out = parsed.out or default_out(config)
    show_finished_run(run(config, out, dense_run=parsed.dense_run, **_how(parsed)), out)


def _how(parsed: Namespace) -> dict[str, Any]:
    """Arguments that every command which trains hands on."""
    return {name: getattr(parsed, name) for name in ("force", "quiet", "wait")}


def show_finished_run(record: Mapping[str, Any], out: str) -> None:
    """Draw the figures, print the table and name the folder."""
    from earlybird.report.comparison import print_comparison
    from earlybird.report.plots import plot_run

    pictures = plot_run(record, out)
    print_comparison([record])
    print(f"{out}: record.json, model.safetensors, {', '.join(picture.name for picture in pictures)}")


def search_command(argv: Sequence[str]) -> None:
    """Search and print one line per ticket."""
    config, parsed = parse_run("search", _SEARCH, argv, _REQUESTS)
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which searches nothing; give early_bird")
    ratios = sorted(parsed.ratios or [config.method.prune_ratio])
    requests = requests_of(ratios, parsed.draws or [config.method.draw_at])
    check_requests(requests)
    # The first ratio stands in the configuration: the folder is then refused to a search of others.
    config = dataclasses.replace(config, method=dataclasses.replace(config.method, prune_ratio=ratios[0]))
    from earlybird.runs.run import run_search

    out = parsed.out or default_out(config) + "-search"
    for request, path in run_search(
        config, requests, out, force=parsed.force, quiet=parsed.quiet, wait=parsed.wait
    ).items():
        when = "" if request.draw_at == "rule" else f", draw {request.draw_at}"
        print(f"p = {request.prune_ratio:g}{when}: {path if path else 'ticket: none (the rule never fired)'}")


def retrain_command(argv: Sequence[str]) -> None:
    """Retrain, then show the finished run."""
    arguments = expand_short_flags(argv)
    if {"-h", "--help"} & set(arguments):
        parse_run("retrain", _RETRAIN, arguments, _TICKET)
    if not (given := value_of("--ticket", arguments)):
        raise ConfigError("--ticket is missing; give the file to cut by, e.g. --ticket runs/s/ticket-p0.5.safetensors")
    from earlybird.core import Ticket
    from earlybird.runs.run import run

    path = Path(given)
    ticket = Ticket.load(path)
    beside, name = path.parent / "config.yaml", value_of("--method.name", arguments)
    if beside.is_file() and value_of("--config", arguments) is None:
        settings = _settings_beside(beside, arguments)
        arguments = [f"--config={yaml.safe_dump(settings, sort_keys=False)}", *arguments]
        name = name or settings.get("method", {}).get("name")
    takes_ratio = "prune_ratio" in {field.name for field in dataclasses.fields(method_class(name or "early_bird"))}
    if takes_ratio and value_of("--method.prune_ratio", arguments) is None:
        arguments += ["--method.prune_ratio", str(ticket.prune_ratio)]
    config, parsed = parse_run("retrain", _RETRAIN, arguments, _TICKET)
    label = "retrain" if name in (None, "early_bird") else name.rpartition(":")[2]
    out = parsed.out or str(path.parent / f"{label}-p{ticket.prune_ratio:g}")
    show_finished_run(run(config, out, ticket=path, **_how(parsed)), out)


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
    for flag in CODE_FLAGS:
        long = SHORT_FLAGS.get(flag, flag)
        section, _, key = long.removeprefix("--").partition(".")
        refuse_unnamed_code(flag, str(content.get(section, {}).get(key) or ""), [value_of(long, arguments) or ""])
    return {name: content[name] for name in SECTIONS if name in content}
