"""Step times asked for and measured: how near a budget of the dense network's seconds is hit, and what that takes.

    python benchmarks/bench_step_budgets.py [--networks vgg16,resnet18] [--threads 1] [--batch 64] [--precision fp32]

As `wide_start` does: the layers once, with 32 images; then widths by allocation `uniform` and `time` for .5, .6 and .7,
measured by a run's steps in turns with the dense network's and corrected at most twice. Prints what was asked, what
decided and, in another measurement, what it comes to anew; the networks tried; and CPU seconds. Scores are random.
"""

from __future__ import annotations

import argparse
import time

import torch

from earlybird import channel_groups, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.core import ChannelMask, allocate_measured
from earlybird.core.drawing import rank_units
from earlybird.cost import measure_layer_table
from earlybird.data import train_batches
from earlybird.errors import ConfigError
from earlybird.forecast.calibration import noise_bundle
from earlybird.models import build_model
from earlybird.settings.run import TrainingSettings
from earlybird.training.compute import Compute
from earlybird.training.timing import step_times

TARGETS, ALLOCATIONS = (0.5, 0.6, 0.7), ("uniform", "time")
WIDTH, SHAPE, TABLE_IMAGES = 0.25, (3, 32, 32), 32


def bench(name: str, batch: int, compute: Compute) -> None:
    """Print a line for each allocation and target."""
    dense = compute.place(build_model(name, num_classes=10, width=WIDTH))
    example = torch.zeros(2, *SHAPE)
    groups = channel_groups(dense, example)
    train = train_batches(
        noise_bundle(SHAPE, 10, 20 * batch), batch_size=batch, seed=0, augment="crop_flip", device=compute.device,
        workers=0, memory_format=compute.memory_format,
    )  # fmt: skip
    images, _ = next(iter(train.epoch(0)))
    generator = torch.Generator().manual_seed(0)
    scores = {layer: torch.rand(units.numel(), generator=generator) for layer, units in groups.unit_of.items()}
    ranking = rank_units(scores, groups)
    began = time.process_time()
    table = measure_layer_table(dense, groups, images[:TABLE_IMAGES], autocast=compute.autocast, passes=1)
    print(f"{name} x {WIDTH}, batch {batch}: layers in {time.process_time() - began:.1f} CPU s", flush=True)
    tried: list[ChannelMask] = []

    def share(mask: ChannelMask) -> float:
        tried.append(mask)
        small = slim(dense, mask, example, groups, check=False)
        times = step_times({"dense": dense, "slim": small}, train, TrainingSettings(batch_size=batch), compute)
        return times["slim"].cpu / times["dense"].cpu

    for allocation in ALLOCATIONS:
        for target in TARGETS:
            tried.clear()
            began = time.process_time()
            try:
                found = allocate_measured(
                    ranking, table.cost, target, share, known=[(table.dense_seconds, 1.0)], corrections=2,
                    allocation=allocation, floor=0.25, fit="nearest",
                )  # fmt: skip
            except ConfigError as error:
                print(f"  {allocation:8} {target:.2f}  refused: {error}", flush=True)
                continue
            took, networks = time.process_time() - began, len(tried)
            told = f"{allocation:8} {target:.2f}  decided {found.seconds:.3f} ({found.seconds / target - 1:+.1%})"
            anew = share(found.mask)
            print(
                f"  {told}  anew {anew:.3f} ({anew / target - 1:+.1%})  {networks} networks, {took:.1f} CPU s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", default="vgg16,resnet18")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    compute = Compute(torch.device("cpu"), arguments.precision, step="eager", layout="channels_last")
    for name in arguments.networks.split(","):
        bench(name, arguments.batch, compute)


if __name__ == "__main__":
    main()
