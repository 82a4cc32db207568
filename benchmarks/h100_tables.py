"""The tables of measured steps in `docs/results/h100.md`, from `step-bench.json` of its records.

python benchmarks/pack_results.py unpack h100 && python benchmarks/h100_tables.py runs/h100
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "vgg16": "VGG16, 32x32", "preresnet101": "PreResNet101, policy `select`, 32x32",
    "resnet18c": "ResNet18 for CIFAR, 32x32", "torchvision:resnet50": "ResNet50, 224x224",
}  # fmt: skip
FORMS = ("dense", "slim p.5 r1", "slim p.5 r8")
MODES = {"fp32": "fp32 eager", "bf16": "bf16 eager", "graph": "bf16 captured"}


def tables(folder: Path) -> str:
    """Milliseconds of a step and millijoules of an image, dense / exact widths / multiples of 8."""
    steps: dict[tuple[str, int], dict[tuple[str, str], dict[str, Any]]] = {}
    for step in json.loads((folder / "step-bench.json").read_text()):
        steps.setdefault((step["net"], step["batch"]), {})[step["form"], step["mode"]] = step
    lines = [
        f"| network | batch | {' | '.join(MODES.values())} | captured / eager, dense | slim of 8 / dense, captured |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (network, batch), found in steps.items():
        captured = found["dense", "graph"]["ms"]
        ratios = captured / found["dense", "bf16"]["ms"], found["slim p.5 r8", "graph"]["ms"] / captured
        cells = [*_cells(found, "ms", 1), *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(f"| {NAMES[network]} | {batch} | {' | '.join(cells)} |")
    lines += ["", "Millijoules of one image in the same steps:", ""]
    lines += [f"| network | {' | '.join(MODES.values())} |", "|---|---:|---:|---:|"]
    for (network, _), found in steps.items():
        lines.append(f"| {NAMES[network]} | {' | '.join(_cells(found, 'joule_per_img', 1000))} |")
    return "\n".join(lines) + "\n"


def _cells(found: dict[tuple[str, str], dict[str, Any]], key: str, scale: float) -> list[str]:
    return [" / ".join(f"{scale * found[form, mode][key]:.1f}" for form in FORMS) for mode in MODES]


if __name__ == "__main__":
    print(tables(Path(sys.argv[1])), end="")
