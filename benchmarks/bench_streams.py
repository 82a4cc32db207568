"""A training step of pre-activation networks in every way to read a stream that keeps its width, as shares of dense.

    python benchmarks/bench_streams.py [--precision fp32 | bf16] [--networks preresnet20,...] [--round-to 8]

The columns, all cut by masks of the same random scores:

    before       gather with `index_select`, then norm, activation and convolution at the kept width
    select       the same with the gather of `slimming/selection.py`: what `slim` makes
    full norm    norm at the stream's width, then gather: where the authors' released code has its selection
    full read    no gather: norm, activation and the next convolution at the stream's width, removed scales at zero
    tie          policy `tie`: the stream itself is narrowed

The first four compute the same. All take turns in one process; CPU seconds, one thread, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# More networks than oneDNN and its wrapper keep kernels for by default; a training has one, and makes none anew.
os.environ |= {"LRU_CACHE_CAPACITY": "16384", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16384"}

import torch
from bench_layer_table import random_scores
from torch import Tensor, nn
from torch.nn import functional

from earlybird import ChannelMask, channel_groups, draw_mask, masked, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.copying import copied
from earlybird.cost import TrainingStep, count_cost
from earlybird.cost.layer_timing import placed, work_seconds
from earlybird.models import build_model
from earlybird.slimming import selection
from earlybird.slimming.selection import GatheringNorm

NETWORKS, BATCH_SIZE, SHAPE = ("preresnet20", "preresnet56", "preresnet110"), 32, (3, 32, 32)
RATIOS, ROUNDS = (0.3, 0.5, 0.7), 7
FORMS = ("before", "select", "full norm", "full read", "tie")


def by_index_select(x: Tensor, index: Tensor) -> Tensor:
    """The gather as it was: along the last dimension in channels_last, by a matrix of ones and zeros in bf16."""
    if x.stride(1) != 1:
        return x.index_select(1, index)
    rows = x.movedim(1, -1)
    if x.dtype == torch.bfloat16:
        return torch.matmul(rows, functional.one_hot(index, x.shape[1]).to(x.dtype).t()).movedim(-1, 1)
    return rows.index_select(-1, index).movedim(-1, 1)


class FullNorm(nn.BatchNorm2d):
    """Norm over the whole stream, then the gather."""

    def __init__(self, dense: nn.BatchNorm2d, index: Tensor) -> None:
        super().__init__(dense.num_features)
        self.load_state_dict(dense.state_dict())
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return selection.gather_channels(super().forward(x), self.index)


def networks(dense: nn.Module, ratio: float, round_to: int, example: Tensor) -> dict[str, nn.Module]:
    """Form -> network, all of the same function but `tie`."""
    nets: dict[str, nn.Module] = {}
    for policy in ("select", "tie"):
        groups = channel_groups(dense, example, policy)
        scores = random_scores(groups, torch.Generator().manual_seed(0))
        mask = draw_mask(scores, ratio, groups, round_to=round_to, min_channels=8)
        nets[policy] = slim(dense, mask, example, groups)
        if policy == "select":
            gathering = {name: m.index for name, m in nets[policy].named_modules() if isinstance(m, GatheringNorm)}
            whole = {name: torch.ones_like(keep) if name in gathering else keep for name, keep in mask.items()}
            nets["full read"] = slim(masked(dense, mask), ChannelMask(whole), example, groups)
    nets["full norm"] = copied(nets["select"])
    for name, index in gathering.items():
        nets["full norm"].set_submodule(name, FullNorm(dense.get_submodule(name), index))
    return {"dense": dense, "before": nets["select"], **{form: nets[form] for form in FORMS[1:]}}


def measure(name: str, ratio: float, round_to: int, autocast: Callable[[], AbstractContextManager[object]]) -> None:
    """Print one line: shares of the dense step."""
    torch.manual_seed(0)
    images = torch.randn(BATCH_SIZE, *SHAPE).contiguous(memory_format=torch.channels_last)
    nets = networks(build_model(name, num_classes=10), ratio, round_to, images[:2])
    timer, steps = work_seconds(images.device), {}
    with torch.no_grad():
        outputs = {form: placed(net, images)(images) for form, net in nets.items()}
    apart = max(float((outputs[form] - outputs["before"]).abs().max()) for form in FORMS[:-1])
    apart /= float(outputs["before"].abs().max())
    for form, net in nets.items():
        steps[form] = TrainingStep(placed(net, images), images, autocast).run
    times: dict[str, list[float]] = {form: [] for form in nets}
    for number in range(1 + ROUNDS):
        for form, step in steps.items():
            selection.gather_channels = by_index_select if form == "before" else NOW
            took = timer(step)
            if number:  # the first warms up
                times[form].append(took)
    median = {form: statistics.median(values) for form, values in times.items()}
    macs = {form: count_cost(net, SHAPE).train_macs for form, net in nets.items()}
    cells = [f"{median[form] / median['dense']:.2f} ({macs[form] / macs['dense']:.2f})" for form in FORMS]
    dense = f"{1e3 * median['dense']:.0f}"
    print(f"| {name} | {ratio} | {dense} | {' | '.join(cells)} | {apart:.0e} |", flush=True)


NOW = selection.gather_channels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--round-to", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="prune_ratio=")  # What must stay: known, and the MACs are printed.
    keep_freed_memory()

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if arguments.precision == "bf16" else nullcontext()

    print(f"{arguments.precision}, widths in multiples of {arguments.round_to}: time (training MACs)\n")
    print(f"| network | p | dense ms | {' | '.join(FORMS)} | apart |\n|---|---:|---:|---|---|---|---|---|---:|")
    for name in arguments.networks.split(","):
        for ratio in RATIOS:
            measure(name, ratio, arguments.round_to, autocast)


if __name__ == "__main__":
    main()
