"""A training step of pre-activation networks in every way to read a stream that keeps its width, as shares of dense.

    python benchmarks/bench_streams.py [--precision fp32 | bf16] [--networks preresnet20,...] [--round-to 8]
    python benchmarks/bench_streams.py --device cuda --precision bf16 --networks preresnet101 --batch 256 --round-to 16

The columns, all cut by masks of the same random scores:

    index_select  `index_select` (bf16 on a CPU: product with ones and zeros), then norm, activation and convolution
    gather        the same with `torch.gather` (bf16 on a CPU beyond 64 channels: as integers)
    full norm     norm at the stream's width, then gather: where the authors' released code has its selection
    full read     no gather: norm, activation and the next convolution at the stream's width, removed scales at zero
    tie           policy `tie`: the stream itself is narrowed
    kernel        on CUDA: gather, norm and activation in kernels of `stream_kernel.py`

All but `tie` compute the same. They take turns in one process, medians: CPU seconds of one thread; on CUDA wall seconds
of the step captured in a graph (not yet run there).
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
from earlybird.models.cifar import PreActBottleneck
from earlybird.slimming import selection
from earlybird.slimming.selection import GatheringNorm
from earlybird.training.graphs import graphs_of

NETWORKS, SHAPE = ("preresnet20", "preresnet56", "preresnet110"), (3, 32, 32)
RATIOS, ROUNDS = (0.3, 0.5, 0.7), 7
FORMS = ("index_select", "gather", "full norm", "full read", "tie")
NOW = selection.gather_channels


def by_index_select(x: Tensor, index: Tensor) -> Tensor:
    """Along the last dimension in channels_last; in bf16 on a CPU by a matrix of ones and zeros."""
    if x.stride(1) != 1:
        return x.index_select(1, index)
    rows = x.movedim(1, -1)
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return torch.matmul(rows, functional.one_hot(index, x.shape[1]).to(x.dtype).t()).movedim(-1, 1)
    return rows.index_select(-1, index).movedim(-1, 1)


def by_gather(x: Tensor, index: Tensor) -> Tensor:
    """What `slim` makes on a CPU; the plain `torch.gather` elsewhere."""
    if x.stride(1) != 1 or x.device.type == "cpu":
        return NOW(x, index)
    rows = x.movedim(1, -1)
    return rows.gather(-1, index.expand(*rows.shape[:-1], -1)).movedim(-1, 1)


class FullNorm(nn.BatchNorm2d):
    """Norm over the whole stream, then the gather."""

    def __init__(self, dense: nn.BatchNorm2d, index: Tensor) -> None:
        super().__init__(dense.num_features)
        self.load_state_dict(dense.state_dict())
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return selection.gather_channels(super().forward(x), self.index)


class KernelNorm(nn.BatchNorm2d):
    """Gather, norm and ReLU of `stream_kernel.py`, with the statistics of the batch."""

    def __init__(self, norm: GatheringNorm, width: int) -> None:
        from stream_kernel import GatherNormReLU, place_of

        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict({name: value for name, value in norm.state_dict().items() if name != "index"})
        self.register_buffer("index", norm.index)
        self.register_buffer("place", place_of(norm.index, width))
        self.fused = GatherNormReLU

    def forward(self, x: Tensor) -> Tensor:
        y, mean, variance = self.fused.apply(x, self.index, self.place, self.weight, self.bias, self.eps)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return y


class KernelBlock(PreActBottleneck):
    """A block whose first norm has its ReLU inside."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.bn2(self.conv1(self.bn1(x)))))
        out = self.conv3(self.relu(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(x))


def with_kernels(small: nn.Module, dense: nn.Module) -> nn.Module:
    """A copy in which the norms of blocks that gather are kernels."""
    net = copied(small)
    for name, block in net.named_modules():
        if isinstance(block, PreActBottleneck) and isinstance(block.bn1, GatheringNorm):
            block.bn1 = KernelNorm(block.bn1, dense.get_submodule(name).bn1.num_features)
            block.__class__ = KernelBlock
    return net


def networks(dense: nn.Module, ratio: float, round_to: int, example: Tensor) -> dict[str, nn.Module]:
    """Form -> network; all but `tie` are the same function."""
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
    nets |= {"dense": dense, "index_select": nets["select"], "gather": nets["select"]}
    return {form: nets[form] for form in ("dense", *FORMS)}


def step_of(form: str, net: nn.Module, images: Tensor, autocast: Callable[[], AbstractContextManager[object]]):
    """A step of one form, which a graph replays on CUDA."""
    step = TrainingStep(placed(net, images), images, autocast)

    def run() -> None:
        selection.gather_channels = by_index_select if form == "index_select" else by_gather
        step.run()
        selection.gather_channels = NOW

    if images.device.type == "cpu":
        return run
    graphs = graphs_of(images.device)
    with graphs.warm_up():
        for _ in range(3):
            run()
    return graphs.capture(run)


def measure(name: str, arguments: argparse.Namespace, ratio: float) -> None:
    """Print one line: shares of the dense step."""
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, *SHAPE).contiguous(memory_format=torch.channels_last)
    dense = build_model(name, num_classes=10)
    nets, forms = networks(dense, ratio, arguments.round_to, images[:2]), list(FORMS)
    macs = {form: count_cost(net, SHAPE).train_macs for form, net in nets.items()}
    images = images.to(arguments.device)
    if images.device.type == "cuda":
        nets["kernel"], macs["kernel"] = with_kernels(nets["gather"], dense), macs["gather"]
        forms.append("kernel")
    with torch.no_grad():
        outputs = {form: placed(net, images)(images) for form, net in nets.items()}
    apart = max(float((outputs[form] - outputs["gather"]).abs().max()) for form in forms if form != "tie")
    apart /= float(outputs["gather"].abs().max())
    bf16 = arguments.precision == "bf16"
    # Weights that are cast once for several steps would be constants of a graph.
    context = lambda: torch.autocast(images.device.type, torch.bfloat16, cache_enabled=images.device.type == "cpu")  # noqa: E731
    steps = {form: step_of(form, net, images, context if bf16 else nullcontext) for form, net in nets.items()}
    timer, times = work_seconds(images.device), {form: [] for form in nets}
    for number in range(1 + ROUNDS):
        for form, step in steps.items():
            took = timer(step)
            if number:  # the first warms up
                times[form].append(took)
    median = {form: statistics.median(values) for form, values in times.items()}
    cells = [f"{median[form] / median['dense']:.2f} ({macs[form] / macs['dense']:.2f})" for form in forms]
    print(f"| {name} | {ratio} | {1e3 * median['dense']:.1f} | {' | '.join(cells)} | {apart:.0e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.filterwarnings("ignore", message="prune_ratio=")  # What must stay: known, and the MACs are printed.
    forms = [*FORMS, "kernel"] if arguments.device == "cuda" else FORMS
    print(f"{arguments.precision}, widths in multiples of {arguments.round_to}: time (training MACs)\n")
    print(f"| network | p | dense ms | {' | '.join(forms)} | apart |\n|---|---:|---:|{'---|' * len(forms)}---:|")
    for name in arguments.networks.split(","):
        for ratio in RATIOS:
            measure(name, arguments, ratio)


if __name__ == "__main__":
    main()
