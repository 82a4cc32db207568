"""`earlybird evaluate`: the test accuracy of a finished run, from its files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from earlybird.cli.options import Parser


def command(argv: Sequence[str]) -> int:
    """Print accuracy and loss, or JSON."""
    parser = Parser("evaluate", "Rebuild the network of a finished run and read its test set.")
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--model", type=str | None, default=None, help="name the run's model again if it is your code")
    parser.add_argument("--data", type=str | None, default=None, help="name the run's data again if it is your code")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(list(argv))
    from earlybird.runs.run import run_evaluation

    trusted = [name for name in (parsed.model, parsed.data) if name is not None]
    result = run_evaluation(parsed.run, device=parsed.device, trusted=trusted)
    if parsed.json:
        print(json.dumps(asdict(result)))
    else:
        percent = f"{100 * result.accuracy:.2f} %"
        if result.top5_accuracy is not None:
            percent += f", top-5 {100 * result.top5_accuracy:.2f} %"
        print(f"test accuracy {percent} ({result.correct} of {result.samples}), loss {result.loss:.4f}")
    return 0
