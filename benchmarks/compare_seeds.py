"""Paired differences in `docs/results/compare-cifar10.md` at p = 0.5: all seeds, and those after seed 0; Holm.

Seed 0 was run first: by it p = 0.5 got further seeds, and `early_bird_restart` with it. What it promoted is judged
without it.

python benchmarks/compare_seeds.py
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from earlybird.report.paired_test import holm, probability
from earlybird.report.quantities import spread_of

RUNS = Path(__file__).parents[1] / "docs" / "results" / "compare-cifar10" / "runs.csv"
PROMOTED_BY = 0  # the seed that decided what gets further seeds
# Method, and True for its run at the cost of `early_bird`; those that cost that by themselves have no second run.
Side = tuple[str, bool]
RESTART, EARLY_BIRD, DENSE = ("early_bird_restart", True), ("early_bird", False), ("dense", False)
COMPARISONS: list[tuple[Side, Side]] = [
    (RESTART, EARLY_BIRD),
    (RESTART, ("uniform", False)),
    (RESTART, DENSE),
    (("uniform", False), EARLY_BIRD),
    (DENSE, EARLY_BIRD),
    (RESTART, ("network_slimming", True)),
    (("reinit", True), RESTART),
    (("reinit", True), EARLY_BIRD),
    (("reinit", False), EARLY_BIRD),
    (("shuffled", False), EARLY_BIRD),
    (("network_slimming", True), EARLY_BIRD),
    (("network_slimming", False), EARLY_BIRD),
    (("network_slimming", False), DENSE),
    (("early_bird_as_released", False), EARLY_BIRD),
]


def accuracies(ratio: str = "0.5") -> dict[Side, dict[int, float]]:
    """Test accuracy, %, by seed, of each method at a prune ratio."""
    found: dict[Side, dict[int, float]] = {}
    with RUNS.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["prune_ratio"] in ("", ratio):
                side = row["method"], row["equal_cost"] == "True"
                found.setdefault(side, {})[int(row["seed"])] = 100 * float(row["accuracy"])
    return found


def differences(a: Side, b: Side) -> dict[int, float]:
    """Points between two methods, by seed, where both have one."""
    found = accuracies()
    return {seed: found[a][seed] - found[b][seed] for seed in sorted(found[a].keys() & found[b].keys())}


def later(by_seed: dict[int, float]) -> list[float]:
    """Differences of the seeds that promoted nothing."""
    return [difference for seed, difference in by_seed.items() if seed != PROMOTED_BY]


def cells(points: Sequence[float], corrected: float) -> tuple[str, str]:
    """Mean with its 95 % interval and n, and p after Holm."""
    spread = spread_of(points)
    return f"{spread.mean:+.2f} ± {spread.half_width:.2f} ({spread.n})", f"{corrected:.3f}"


def table() -> str:
    """Markdown table of all comparisons."""
    apart = [differences(a, b) for a, b in COMPARISONS]
    whole, fresh = [list(by_seed.values()) for by_seed in apart], [later(by_seed) for by_seed in apart]
    corrected = [holm([probability(spread_of(points)) for points in group]) for group in (fresh, whole)]
    lines = [
        "| difference, points | seeds 0, 1, 2 (3, 4) | without seed 0: mean ± 95 % (n) | p, Holm "
        "| all: mean ± 95 % (n) | p, Holm |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for i, (a, b) in enumerate(COMPARISONS):
        names = " - ".join(name + (" =" if is_equal else "") for name, is_equal in (a, b))
        each = ", ".join(f"{difference:+.2f}" for difference in apart[i].values())
        row = [names, each, *cells(fresh[i], corrected[0][i]), *cells(whole[i], corrected[1][i])]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
