"""What keeping freed memory saves of a training step: CPU time and page faults, default against kept, in turns.

Each measurement is a process of its own, because the setting cannot be taken back. Ratios are of medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

ROUNDS = 3

STEP = """
import json, resource, sys, time
how, model_name, width, classes = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
if how == "kept":
    from earlybird.cli.main import keep_freed_memory
    assert keep_freed_memory()
import torch
from torch.nn import functional
from earlybird.models import build_model
model = build_model(model_name, num_classes=classes, width=width).to(memory_format=torch.channels_last)
x = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
y = torch.randint(classes, (128,))
def step():
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.cross_entropy(model(x).float(), y)
    loss.backward()
    model.zero_grad(set_to_none=True)
for _ in range(2): step()
faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
for _ in range(5): step()
seconds = (time.process_time() - start) / 5
print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / 5]))
"""


def measure(how: str, network: tuple[str, str, str]) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", STEP, how, *network], capture_output=True, text=True, check=True)
    seconds, faults = json.loads(done.stdout)
    return seconds, faults


def main() -> None:
    for network in (("vgg16", "0.25", "10"), ("preresnet20", "1.0", "100")):
        results: dict[str, list[tuple[float, float]]] = {"default": [], "kept": []}
        for _ in range(ROUNDS):
            for how, values in results.items():
                values.append(measure(how, network))
        median = {how: [statistics.median(v[i] for v in values) for i in (0, 1)] for how, values in results.items()}
        ratio = median["kept"][0] / median["default"][0]
        print(f"{network[0]} width {network[1]}: CPU ms a step {1e3 * median['default'][0]:.0f} -> ", end="")
        print(f"{1e3 * median['kept'][0]:.0f} ({ratio:.2f}), ", end="")
        print(f"page faults a step {median['default'][1]:.0f} -> {median['kept'][1]:.0f}")


if __name__ == "__main__":
    main()
