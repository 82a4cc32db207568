"""Seconds of a training step that a layer table predicts, against those measured, for random masks of four networks.

    python benchmarks/bench_layer_table.py [--threads 1] [--batch 32] [--precision fp32]

Prints the ratio T(slim) / T(dense) of each mask, predicted and measured, and the median and worst relative error. The
networks are small, so that it takes minutes; seconds are CPU seconds, masks of one network take turns with the dense.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from earlybird import ChannelMask, channel_groups, draw_mask, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.core import ChannelGroups
from earlybird.cost import TrainingStep, count_cost
from earlybird.cost.layer_table import LayerTable, measure_layer_table
from earlybird.cost.layer_timing import interleaved_seconds, placed, work_seconds
from earlybird.models import build_model

NETWORKS = {"vgg16": 0.25, "resnet18": 0.25, "preresnet20": 1.0, "torchvision:mobilenet_v2": 1.0}
MASKS, ROUNDS, ROUND_TO = 12, 5, 8
RATIOS = (0.3, 0.5, 0.7)


def random_masks(groups: ChannelGroups, generator: torch.Generator) -> list[ChannelMask]:
    """Masks of three ratios, of random scores whose size differs from layer to layer, as after training."""
    masks = []
    for number in range(MASKS):
        scores = {}
        for name, units in groups.unit_of.items():
            level = torch.exp(0.7 * torch.randn((), generator=generator))
            scores[name] = level * torch.rand(units.numel(), generator=generator)
        masks.append(draw_mask(scores, RATIOS[number % len(RATIOS)], groups, round_to=ROUND_TO, min_channels=ROUND_TO))
    return masks


def errors_of(name: str, width: float, images: Tensor, precision: str) -> list[float]:
    """Relative errors of the predicted step ratio of each mask."""

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    dense = build_model(name, num_classes=10, width=width)
    groups = channel_groups(dense, images[:2])
    timer = work_seconds(images.device)
    tables: list[LayerTable] = []
    took = timer(lambda: tables.append(measure_layer_table(dense, groups, images, autocast=autocast)))
    table = tables[0]
    masks = random_masks(groups, torch.Generator().manual_seed(0))
    model = placed(dense, images)
    nets: list[nn.Module] = [model, *(slim(model, mask, images[:2], groups, check=False) for mask in masks)]
    steps = {number: TrainingStep(net, images, autocast).run for number, net in enumerate(nets)}
    first, *measured = interleaved_seconds(steps, timer, ROUNDS)
    macs = [count_cost(net, tuple(images.shape[1:])).train_macs for net in nets]
    predicted_first = table.predict([block.size for block in groups.blocks])
    constant = table.cost.constant_seconds / table.dense_seconds
    print(f"\n{name} x {width:g}: table in {took:.0f} CPU s, dense step {1e3 * first:.0f} ms")
    print(f"  factor {table.factor:.2f}, constant {constant:.2f} of the dense step")
    errors = []
    for mask, seconds, of_macs in zip(masks, measured, macs[1:], strict=True):
        predicted, real = table.predict(mask) / predicted_first, seconds / first
        errors.append(predicted / real - 1)
        print(f"  MACs {of_macs / macs[0]:.3f}  predicted {predicted:.3f}  measured {real:.3f}  {errors[-1]:+.1%}")
    sizes = [abs(error) for error in errors]
    print(f"  median error {statistics.median(sizes):.1%}, worst {max(sizes):.1%}", flush=True)
    return errors


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
