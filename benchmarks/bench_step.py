"""A training step, dense against slim: whole and layer by layer, in every layout and precision, measured in one run.

    python benchmarks/bench_step.py [RUN_FOLDER]

The slim network has the kept widths of a finished VGG run (`record.json`; default: one of those packed in
`docs/results`), and, from its `scales.npz`, the same ticket's exact widths before rounding to multiples of 8. Variants
are interleaved round by round, so that what else the machine does falls on all of them; ratios are of medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pack_results import unpack
from torch import Tensor, nn
from torch.nn import functional
from trials import Trial

from earlybird import ChannelMask, draw_mask, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.cost import count_cost
from earlybird.methods.hooks import HoldHooks
from earlybird.models import build_model
from earlybird.settings.run import TrainingSettings
from earlybird.training.compute import Compute

DEFAULT_STUDY, DEFAULT_RUN = "cifar10-vgg16", "scaled-s0"
BATCH_SIZE, ROUNDS, STEPS = 128, 7, 3
SETTINGS = [(bf16, layout) for bf16 in (False, True) for layout in (torch.contiguous_format, torch.channels_last)]


def networks(run: Path) -> dict[str, nn.Module]:
    """The dense network, the ticket's, and the ticket's before rounding."""
    record = json.loads((run / "record.json").read_text())
    dense = build_model(record["config"]["model"]["name"], num_classes=10, width=record["config"]["model"]["width"])
    example = torch.zeros(1, 3, 32, 32)
    # Which channels stay does not matter for time, only how many.
    snapped = {x["name"]: torch.arange(x["dense"]) < x["kept"] for x in record["layers"]}
    nets = {"dense": dense, "slim": slim(dense, ChannelMask(snapped), example)}
    with np.load(run / "scales.npz") as scales:
        scores = {name: torch.from_numpy(scales[name][-1]) for name in snapped}
    nets["slim, exact widths"] = slim(dense, draw_mask(scores, record["ticket"]["prune_ratio"]), example)
    return nets


class Step:
    """One training step of one network in one setting."""

    def __init__(self, model: nn.Module, bf16: bool, layout: torch.memory_format) -> None:
        self.model = build_copy(model).to(memory_format=layout).train()
        self.bf16 = bf16
        self.x = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=layout)
        self.y = torch.randint(10, (BATCH_SIZE,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.model(self.x)
        functional.cross_entropy(logits.float(), self.y).backward()
        self.optimizer.step()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self()

    def seconds(self) -> float:
        start = time.perf_counter()
        self.run(STEPS)
        return (time.perf_counter() - start) / STEPS


def build_copy(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model)


def whole_steps(nets: dict[str, nn.Module]) -> None:
    torch.manual_seed(0)
    steps = {(name, s): Step(net, *s) for name, net in nets.items() for s in SETTINGS}
    times: dict[tuple[str, tuple[bool, torch.memory_format]], list[float]] = {key: [] for key in steps}
    for round_number in range(1 + ROUNDS):
        for key, step in steps.items():
            seconds = step.seconds()
            if round_number:  # the first warms up
                times[key].append(seconds)
    median = {key: statistics.median(values) for key, values in times.items()}
    reference = median["dense", SETTINGS[0]]
    macs = {name: count_cost(net, (3, 32, 32)).macs for name, net in nets.items()}
    print(
        f"\nms per step of {BATCH_SIZE} (in brackets: time as a share of dense, same setting; speed against dense fp32)"
    )
    print(f"{'':22}{'MACs':>8} " + "".join(f"{label(s):>28}" for s in SETTINGS))
    for name in nets:
        cells = []
        for s in SETTINGS:
            share, speed = median[name, s] / median["dense", s], reference / median[name, s]
            cells.append(f"{1e3 * median[name, s]:.1f} ({share:.2f}; {speed:.2f}x)")
        print(f"{name:22}{macs[name] / macs['dense']:8.3f} " + "".join(f"{cell:>28}" for cell in cells))


def own_steps(nets: dict[str, nn.Module]) -> None:
    """CPU seconds of the step that a run takes, as a ratio to the bare one above."""
    print("\nthe step of a run (sums, penalty, checks) / the bare step, CPU time, channels_last")
    for bf16 in (False, True):
        for name, net in nets.items():
            bare = Step(net, bf16, torch.channels_last)
            settings, compute = TrainingSettings(lr=0.01), Compute(torch.device("cpu"), "bf16" if bf16 else "fp32")
            own = Trial(net, compute, settings, bare.x, bare.y, lambda model: HoldHooks(model, penalty=1e-4))
            ratios = []
            for _ in range(1 + ROUNDS):
                times = [time.process_time()]
                for run in (bare.run, own.run):
                    run(STEPS)
                    times.append(time.process_time())
                ratios.append((times[2] - times[1]) / (times[1] - times[0]))
            print(f"{name:22}{'bf16' if bf16 else 'fp32'}{statistics.median(ratios[1:]):8.3f}")


def label(setting: tuple[bool, torch.memory_format]) -> str:
    bf16, layout = setting
    return f"{'bf16' if bf16 else 'fp32'} {'channels_last' if layout == torch.channels_last else 'contiguous'}"


def by_layer(nets: dict[str, nn.Module]) -> None:
    """Forward plus backward of each layer alone, on the input it really gets, in bf16 channels_last."""
    x = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    rows: dict[str, list[tuple[str, float]]] = {name: [] for name in nets}
    for name, net in nets.items():
        net = build_copy(net).to(memory_format=torch.channels_last).train()
        value: Tensor = x
        with torch.autocast("cpu", torch.bfloat16):
            for layer in net.features:  # type: ignore[union-attr]
                seconds, value = layer_seconds(layer, value)
                rows[name].append((type(layer).__name__, seconds))
    print("\nms per layer, forward and backward alone, bf16 channels_last")
    print(f"{'layer':>5} {'kind':<14}" + "".join(f"{name:>22}" for name in nets))
    for i, (kind, _) in enumerate(rows["dense"]):
        cells = "".join(f"{1e3 * rows[name][i][1]:22.2f}" for name in nets)
        print(f"{i:5d} {kind:<14}" + cells)
    print("\nby kind, ms (share of the network's sum)")
    for kind in dict.fromkeys(kind for kind, _ in rows["dense"]):
        cells = ""
        for name in nets:
            part, total = (sum(s for k, s in rows[name] if k in (kind, *also)) for also in ((), KINDS))
            cells += f"{1e3 * part:14.1f} ({100 * part / total:3.0f} %)"
        print(f"{kind:<20}" + cells)


KINDS = ("Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d")


def layer_seconds(layer: nn.Module, value: Tensor) -> tuple[float, Tensor]:
    seconds = []
    for _ in range(1 + ROUNDS):
        leaf = value.detach().clone().requires_grad_(True)
        start = time.perf_counter()
        out = layer(leaf * 1 if isinstance(layer, nn.ReLU) else leaf)  # an in-place ReLU may not change a leaf
        out.backward(torch.ones_like(out))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), out.detach()


def main() -> None:
    keep_freed_memory()  # as `earlybird train` does
    with tempfile.TemporaryDirectory() as folder:
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        nets = networks(given or unpack(DEFAULT_STUDY, Path(folder)) / DEFAULT_RUN)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    whole_steps(nets)
    own_steps(nets)
    by_layer(nets)


if __name__ == "__main__":
    main()
