"""Paired differences of the three-seed comparisons of `docs/results/compare-cifar10.md`, with Holm's correction.

python benchmarks/compare_seeds.py
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import mean, stdev

RUNS = Path(__file__).parents[1] / "docs" / "results" / "compare-cifar10" / "runs.csv"
# Method, and True for its run at the cost of `early_bird`; those that cost that by themselves have no second run.
Side = tuple[str, bool]
RESTART, EARLY_BIRD, DENSE = ("early_bird_restart", True), ("early_bird", False), ("dense", False)
COMPARISONS: list[tuple[Side, Side]] = [
    (RESTART, EARLY_BIRD),
    (RESTART, ("uniform", False)),
    (RESTART, ("network_slimming", True)),
    (RESTART, DENSE),
    (("reinit", True), RESTART),
    (("reinit", True), EARLY_BIRD),
    (("reinit", False), EARLY_BIRD),
    (("uniform", False), EARLY_BIRD),
    (("shuffled", False), EARLY_BIRD),
    (("network_slimming", True), EARLY_BIRD),
    (("network_slimming", False), EARLY_BIRD),
    (("network_slimming", False), DENSE),
    (DENSE, EARLY_BIRD),
]
STUDENT = {2: 12.706, 3: 4.303}  # 97.5 % quantile, by number of seeds


def accuracies(ratio: str = "0.5") -> dict[tuple[str, bool, int], float]:
    """Test accuracy, %, of each (method, at equal cost, seed) at a prune ratio."""
    with RUNS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prune_ratio"] in ("", ratio)]
    return {(r["method"], r["equal_cost"] == "True", int(r["seed"])): 100 * float(r["accuracy"]) for r in rows}


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student)."""
    count = len(differences)
    return mean(differences), STUDENT[count] * stdev(differences) / math.sqrt(count)


def probability(differences: list[float]) -> float:
    """Two-sided p of a paired t-test on three seeds; with two degrees of freedom it has a closed form."""
    t = abs(mean(differences)) / (stdev(differences) / math.sqrt(3))
    return 1 - t / math.sqrt(2 + t * t)


def holm(probabilities: list[float]) -> list[float]:
    """Probabilities corrected for their number: below 0.05, a difference stands at 5 % for the whole family."""
    corrected, largest = [0.0] * len(probabilities), 0.0
    for rank, i in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        largest = max(largest, (len(probabilities) - rank) * probabilities[i])
        corrected[i] = min(1.0, largest)
    return corrected


def table() -> str:
    """Markdown table of all comparisons."""
    found = accuracies()
    apart = [[found[*a, seed] - found[*b, seed] for seed in range(3)] for a, b in COMPARISONS]
    lines = [
        "| difference, points | seeds 0, 1, 2 | mean ± 95 % | seeds 1 and 2 alone | p | p after Holm |",
        "|---|---|---:|---:|---:|---:|",
    ]
    probabilities = [probability(differences) for differences in apart]
    for (a, b), seeds, p, corrected in zip(COMPARISONS, apart, probabilities, holm(probabilities), strict=True):
        names = " - ".join(name + (" =" if is_equal else "") for name, is_equal in (a, b))
        means = [f"{middle:+.2f} ± {half:.2f}" for middle, half in (interval(seeds), interval(seeds[1:]))]
        each = ", ".join(f"{difference:+.2f}" for difference in seeds)
        lines.append(f"| {names} | {each} | {means[0]} | {means[1]} | {p:.3f} | {corrected:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
