"""`earlybird train`: the whole job."""

from __future__ import annotations

from collections.abc import Sequence

from earlybird.cli.options import default_out, parse_run

_DESCRIPTION = (
    "Train a network as an Early-Bird ticket, or dense. Give the same command again after a kill: it goes on."
)


def command(argv: Sequence[str]) -> int:
    """Run, then print where the record and the pictures are."""
    config, parsed = parse_run("train", _DESCRIPTION, argv)
    from earlybird.cli.finish import finish_run
    from earlybird.runs.run import run

    out = parsed.out or default_out(config)
    record = run(config, out, force=parsed.force, quiet=parsed.quiet)
    finish_run(record, out)
    return 0
