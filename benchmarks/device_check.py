"""One check of a device: the training step in every form, the loop, bits, resume, joules and memory; a table and JSON.

    python benchmarks/device_check.py [--out device-check.json]      # at most four minutes on a GPU
    python benchmarks/device_check.py --small                        # in miniature, also on a CPU

Parts: `steps` (`step_forms.py`: networks, forms and widths in turns, medians), `loop`, `bits` and `resume`
(`run_checks.py`). The time that is left after the other parts goes to compiling; what does not fit is named.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from device_tables import text
from run_checks import Plan, check_bits, check_loop, check_resume
from step_forms import FORMS, RATIO, Effort, Subject, measure_forms

from earlybird.cli.main import keep_freed_memory
from earlybird.energy import EnergyCounter, find_counter
from earlybird.errors import EarlyBirdError, first_line
from earlybird.runs.record import device_facts
from earlybird.training.compute import Compute, choose_device

SUBJECTS = (
    Subject("vgg16", 256), Subject("preresnet101", 256), Subject("resnet18", 256),
    Subject("torchvision:resnet50", 128, side=224, classes=1000),
)  # fmt: skip
SMALL_SUBJECTS = (Subject("vgg11", 8, width=1 / 16), Subject("preresnet20", 8), Subject("resnet18", 8, width=1 / 16))
EFFORT, SMALL_EFFORT = Effort(rounds=3, block_seconds=0.3, multiple=16), Effort(rounds=2, block_seconds=0.0, multiple=2)
PLAN = Plan("whole", 50_000, 5, 0.25, 2_000, 100, 12, 50)
SMALL_PLAN = Plan("few", 40, 3, 1 / 16, 24, 8, 8, 12)
PARTS = ("loop", "bits", "resume", "steps")
# Python and PyTorch have taken some seconds before anything here is timed.
SECONDS = 225.0


def check(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the parts asked for; plain values."""
    began = time.monotonic()
    end = began + arguments.seconds
    device = choose_device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # The process that is killed is forked, which threads would not survive.
    compute = Compute(device, "bf16" if device.type == "cuda" else "fp32")
    subjects = [s for s in (SMALL_SUBJECTS if arguments.small else SUBJECTS) if s.name in _names(arguments)]
    effort, plan = (SMALL_EFFORT, SMALL_PLAN) if arguments.small else (EFFORT, PLAN)
    counter = find_counter(device)
    found: dict[str, Any] = {
        "device": device_facts(device), "torch": torch.__version__, "cuda": torch.version.cuda,
        "python": platform.python_version(), "precision": compute.precision, "small": arguments.small,
        "ratio": RATIO, "seconds_allowed": arguments.seconds, "energy_method": counter.method,
    }  # fmt: skip
    first = subjects[0]
    with tempfile.TemporaryDirectory() as folder:
        checks = {
            "loop": lambda: check_loop(first, compute, plan, effort, counter, Path(folder)),
            "bits": lambda: [check_bits(subject, compute, plan) for subject in subjects if subject.side == first.side],
            "resume": lambda: check_resume(first, compute, plan, Path(folder)),
            "steps": lambda: _steps(subjects, compute, arguments.forms, effort, end, counter),
        }
        for part in [part for part in PARTS if part in arguments.parts]:
            found[part] = _checked(checks[part])
            _say(f"{part}: {time.monotonic() - began:.0f} s so far")
    return found | {"energy_notes": list(counter.notes), "seconds_taken": time.monotonic() - began}


def _names(arguments: argparse.Namespace) -> Sequence[str]:
    every = [subject.name for subject in (SMALL_SUBJECTS if arguments.small else SUBJECTS)]
    if unknown := set(arguments.networks or every) - set(every):
        raise EarlyBirdError(f"--networks has {', '.join(sorted(unknown))}; give some of {', '.join(every)}")
    return arguments.networks or every


def _checked(part: Any) -> Any:
    """What a part found, or its error in one line: one that fails must not cost the others."""
    try:
        return part()
    except Exception as error:
        return {"error": first_line(error)}


def _steps(
    subjects: Sequence[Subject], compute: Compute, forms: Sequence[Any], effort: Effort, end: float,
    counter: EnergyCounter,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of all subjects; each may take an equal share of the time that is left."""
    rows: list[dict[str, Any]] = []
    for number, subject in enumerate(subjects):
        now = time.monotonic()
        rows += measure_forms(subject, compute, forms, effort, now + (end - now) / (len(subjects) - number), counter)
        _say(f"{subject.name}: {time.monotonic() - now:.0f} s")
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny networks and few steps")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all parts")
    parser.add_argument("--networks", type=several, help="some of the networks, with commas")
    parser.add_argument("--forms", type=several, default=list(FORMS), help="some of eager,captured,compiled")
    parser.add_argument("--parts", type=several, default=list(PARTS), help="some of loop,bits,resume,steps")
    parser.add_argument("--out", type=Path, default=Path("device-check.json"), help="where the JSON goes")
    parsed = parser.parse_args(argv)
    for flag, given, legal in (("--forms", parsed.forms, FORMS), ("--parts", parsed.parts, PARTS)):
        if unknown := set(given) - set(legal):
            parser.error(f"{flag} has {', '.join(sorted(unknown))}; give some of {', '.join(legal)}")
    parsed.forms = [form for form in FORMS if form in parsed.forms]  # compiling comes last
    return parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Check, print the tables, write the JSON; 2 where a flag is wrong."""
    keep_freed_memory()  # as `earlybird train` does
    warnings.simplefilter("ignore")
    arguments = _arguments(argv)
    try:
        found = check(arguments)
    except EarlyBirdError as error:
        print(f"device_check: {error}", file=sys.stderr)
        return 2
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
