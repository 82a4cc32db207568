"""Seconds of a training step that a layer table predicts, against those measured, for random masks of four networks.

    python benchmarks/bench_layer_table.py [--threads 1] [--batch 32] [--precision fp32]

Prints the ratio T(slim) / T(dense) of each mask, predicted and measured, and the median and worst relative error; the
same for the networks that allocation `time` gives for budgets of the dense seconds, as predicted and then corrected by
the real step. The networks are small, so that it takes minutes. Seconds are CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
from torch import Tensor, nn

from earlybird import ChannelMask, channel_groups, draw_mask, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.core import ChannelGroups, allocate, allocate_measured
from earlybird.core.drawing import rank_units
from earlybird.cost import TrainingStep, count_cost
from earlybird.cost.layer_chains import Autocast
from earlybird.cost.layer_table import LayerTable, first_units, measure_layer_table
from earlybird.cost.layer_timing import Timer, interleaved_seconds, placed, work_seconds
from earlybird.errors import ConfigError
from earlybird.models import build_model

NETWORKS = {"vgg16": 0.25, "resnet18": 0.25, "preresnet20": 1.0, "torchvision:mobilenet_v2": 1.0}
MASKS, ROUNDS, LAYERS_AT_ONCE = 12, 15, 150
RATIOS, BUDGETS = (0.3, 0.5, 0.7), (0.5, 0.6, 0.7)


def random_scores(groups: ChannelGroups, generator: torch.Generator) -> dict[str, Tensor]:
    """Random scores whose size differs from layer to layer, as after training."""
    levels = {name: torch.exp(0.7 * torch.randn((), generator=generator)) for name in groups.unit_of}
    return {
        name: levels[name] * torch.rand(units.numel(), generator=generator) for name, units in groups.unit_of.items()
    }


def errors_of(name: str, width: float, images: Tensor, precision: str) -> list[float]:
    """Relative errors of the predicted step ratio of each mask."""

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    dense = build_model(name, num_classes=10, width=width)
    groups = channel_groups(dense, images[:2])
    timer = work_seconds(images.device)
    tables: list[LayerTable] = []
    took = timer(lambda: tables.append(measure_layer_table(dense, groups, images, autocast=autocast)))
    table, generator = tables[0], torch.Generator().manual_seed(0)
    masks = {}
    for number in range(MASKS):
        ratio, scores = RATIOS[number % len(RATIOS)], random_scores(groups, generator)
        masks[f"mask {number}, p = {ratio}"] = draw_mask(scores, ratio, groups, round_to=8, min_channels=8)
    ranking = rank_units(scores, groups)
    model = placed(dense, images)

    def measure(mask: ChannelMask) -> float:
        net = slim(model, mask, images[:2], groups, check=False)
        return shares(model, {"net": net}, images, timer, autocast)[1]["net"] * table.dense_seconds

    for share in BUDGETS:
        with suppress(ConfigError):  # Where streams keep their width, a quarter of the rest may cost more.
            masks[f"budget {share}"] = allocate(ranking, table.cost, share * table.dense_seconds)
            found = allocate_measured(ranking, table.cost, share * table.dense_seconds, measure)
            masks[f"{share}, {found.corrections} corrected"] = found.mask
    for label, counts in zip(("half", "quarter"), table.slim_counts, strict=True):
        masks[f"{label} width"] = first_units(groups, counts)
    nets = {label: slim(model, mask, images[:2], groups, check=False) for label, mask in masks.items()}
    of_macs, of_seconds = shares(model, nets, images, timer, autocast)
    constant = table.cost.constant_seconds / table.dense_seconds
    print(f"\n{name} x {width:g}: table in {took:.0f} CPU s, factor {table.factor:.2f}, constant {constant:.2f}")
    print(f"  dense step {1e3 * table.dense_seconds:.0f} ms")
    errors = []
    for label, mask in masks.items():
        predicted = table.predict(mask) / table.dense_seconds
        errors.append(predicted / of_seconds[label] - 1)
        ratios = f"MACs {of_macs[label]:.3f}  predicted {predicted:.3f}  measured {of_seconds[label]:.3f}"
        print(f"  {label:18} {ratios}  {errors[-1]:+.1%}")
    sizes = [abs(error) for error in errors[:MASKS]]
    print(f"  of the masks: median error {statistics.median(sizes):.1%}, worst {max(sizes):.1%}", flush=True)
    return errors[:MASKS]


def shares(
    dense: nn.Module, nets: dict[str, nn.Module], images: Tensor, timer: Timer, autocast: Autocast
) -> tuple[dict[str, float], dict[str, float]]:
    """MACs and measured seconds of a step of each network, as shares of the dense one's.

    A few take turns with the dense one at a time: of more oneDNN does not keep the kernels (1,024), and each step would
    make them anew, which no training does.
    """
    shape = tuple(images.shape[1:])
    at_once = max(1, LAYERS_AT_ONCE // sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in dense.modules()))
    whole, first = count_cost(dense, shape).train_macs, TrainingStep(dense, images, autocast).run
    macs = {label: count_cost(net, shape).train_macs / whole for label, net in nets.items()}
    seconds: dict[str, float] = {}
    for start in range(0, len(nets), at_once):
        labels = list(nets)[start : start + at_once]
        steps = {label: TrainingStep(nets[label], images, autocast).run for label in labels}
        before, *after = interleaved_seconds({"dense": first, **steps}, timer, ROUNDS)
        seconds |= {label: taken / before for label, taken in zip(labels, after, strict=True)}
    return macs, seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    print(f"batch {arguments.batch}, {arguments.precision} channels_last, {arguments.threads} threads, {MASKS} masks")
    errors = []
    for name in arguments.networks.split(","):
        errors += errors_of(name, NETWORKS[name], images, arguments.precision)
    sizes = [abs(error) for error in errors]
    print(f"\nall: median error {statistics.median(sizes):.1%}, worst {max(sizes):.1%}")


if __name__ == "__main__":
    main()
