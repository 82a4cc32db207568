"""`earlybird train`: the whole job."""

from __future__ import annotations

from collections.abc import Sequence

from earlybird.cli.options import Parser, default_out, parse_run

_DESCRIPTION = (
    "Train a network as an Early-Bird ticket, dense, or by any other method. Give the same command again after a kill: "
    "it goes on."
)


def command(argv: Sequence[str]) -> int:
    """Run, then print where the record and the pictures are."""
    config, parsed = parse_run("train", _DESCRIPTION, argv, _add_dense_run)
    from earlybird.cli.finish import finish_run
    from earlybird.runs.run import run

    out = parsed.out or default_out(config)
    record = run(config, out, dense_run=parsed.dense_run, force=parsed.force, quiet=parsed.quiet)
    finish_run(record, out)
    return 0


def _add_dense_run(parser: Parser) -> None:
    parser.add_setting(
        "--dense-run", str | None, None,
        "lottery_ticket, thinet: start from this finished dense run instead of training it again; it is charged",
    )  # fmt: skip
