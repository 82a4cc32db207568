"""`earlybird train`: the whole job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlybird.cli.options import Parser, default_out, parse_run

_DESCRIPTION = (
    "Train a network as an Early-Bird ticket, dense, or by any other method. Give the same command again after a kill: "
    "it goes on."
)


def command(argv: Sequence[str]) -> int:
    """Train, then show the finished run."""
    config, parsed = parse_run("train", _DESCRIPTION, argv, _add_dense_run)
    from earlybird.runs.run import run

    out = parsed.out or default_out(config)
    record = run(config, out, dense_run=parsed.dense_run, force=parsed.force, quiet=parsed.quiet)
    show_finished_run(record, out)
    return 0


def show_finished_run(record: Mapping[str, Any], out: str) -> None:
    """Draw the figures, print the table and name the folder."""
    from earlybird.report.comparison import print_comparison
    from earlybird.report.plots import plot_run

    pictures = plot_run(record, out)
    print_comparison([record])
    print(f"{out}: record.json, model.safetensors, {', '.join(Path(picture).name for picture in pictures)}")


def _add_dense_run(parser: Parser) -> None:
    parser.add_setting(
        "--dense-run", str | None, None,
        "lottery_ticket, thinet: start from this finished dense run instead of training it again; it is charged",
    )  # fmt: skip
