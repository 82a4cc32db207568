"""Ways to gather channels in channels_last on the CPU, forward and backward, as a share of the BatchNorm that follows.

    python benchmarks/bench_gather.py

`index_select` along the last dimension is what PyTorch offers; `matmul` multiplies by a matrix of ones and zeros, which
is exact. `slimming/selection.py` takes the second for bf16 on the CPU. Ways are interleaved round by round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.cli.main import keep_freed_memory

SHAPES = [(64, 48, 32), (16, 8, 32), (128, 80, 16), (256, 160, 8)]  # channels, kept, image size
BATCH_SIZE, ROUNDS = 128, 9


def select(x: Tensor, index: Tensor) -> Tensor:
    return x.movedim(1, -1).index_select(-1, index).movedim(-1, 1)


def product(x: Tensor, index: Tensor) -> Tensor:
    one_hot = functional.one_hot(index, x.shape[1]).to(x.dtype).t()
    return torch.matmul(x.movedim(1, -1), one_hot).movedim(-1, 1)


def seconds(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    y = way(x)
    y.backward(torch.ones_like(y))
    x.grad = None
    return time.perf_counter() - start


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"batch {BATCH_SIZE}, {torch.get_num_threads()} threads; medians, as a share of BatchNorm over all channels")
    print(f"{'dtype':10}{'channels':>10}{'kept':>6}{'size':>6}{'index_select':>14}{'matmul':>9}{'BatchNorm ms':>14}")
    for dtype in (torch.bfloat16, torch.float32):
        for channels, kept, size in SHAPES:
            x = torch.randn(BATCH_SIZE, channels, size, size, dtype=dtype)
            x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
            index = torch.randperm(channels)[:kept].sort().values
            norm = nn.BatchNorm2d(channels)
            ways: dict[str, Callable[[Tensor], Tensor]] = {
                "select": lambda x, i=index: select(x, i),
                "product": lambda x, i=index: product(x, i),
                "norm": norm,
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for round_number in range(ROUNDS + 2):
                for name, way in ways.items():
                    took = seconds(way, x)
                    if round_number > 1:
                        times[name].append(took)
            t = {name: statistics.median(values) for name, values in times.items()}
            row = f"{str(dtype)[6:]:10}{channels:10}{kept:6}{size:6}"
            print(f"{row}{t['select'] / t['norm']:14.2f}{t['product'] / t['norm']:9.2f}{1e3 * t['norm']:14.2f}")


if __name__ == "__main__":
    main()
