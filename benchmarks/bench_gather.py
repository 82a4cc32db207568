"""Ways to gather channels in channels_last on the CPU, forward and backward, as a share of the BatchNorm that follows.

    python benchmarks/bench_gather.py

`index_select` along the last dimension; `matmul` with a matrix of ones and zeros; `gather` with the index expanded;
in bf16 also `gather` of the same bits as integers. `slimming/selection.py` takes `gather`, and in bf16 the product up
to 64 channels and integers beyond. Ways are interleaved round by round; CPU seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.cli.main import keep_freed_memory
from earlybird.slimming.selection import _TakeBits

# Channels, kept, side.
SHAPES = [(64, 48, 32), (64, 24, 32), (16, 8, 32), (96, 48, 16), (128, 80, 16), (256, 160, 8), (256, 77, 8)]
BATCH_SIZE, ROUNDS = 64, 9


def select(x: Tensor, index: Tensor) -> Tensor:
    return x.movedim(1, -1).index_select(-1, index).movedim(-1, 1)


def product(x: Tensor, index: Tensor) -> Tensor:
    one_hot = functional.one_hot(index, x.shape[1]).to(x.dtype).t()
    return torch.matmul(x.movedim(1, -1), one_hot).movedim(-1, 1)


def gather(x: Tensor, index: Tensor) -> Tensor:
    rows = x.movedim(1, -1)
    return rows.gather(-1, index.expand(*rows.shape[:-1], -1)).movedim(-1, 1)


def seconds(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    y = way(x)  # of this pass the gradient is made like the output
    gradient = torch.ones_like(y)
    del y
    start = time.process_time()
    way(x).backward(gradient)
    took = time.process_time() - start
    x.grad = None
    return took


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"index_select": select, "matmul": product, "gather": gather}
    print(f"batch {BATCH_SIZE}, {torch.get_num_threads()} threads; medians, as a share of BatchNorm over all channels")
    header = "".join(f"{name:>14}" for name in (*ways, "as integers"))
    print(f"{'dtype':10}{'channels':>10}{'kept':>6}{'side':>6}{header}{'BatchNorm ms':>14}")
    for dtype in (torch.bfloat16, torch.float32):
        for channels, kept, side in SHAPES:
            x = torch.randn(BATCH_SIZE, channels, side, side, dtype=dtype)
            x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
            index = torch.randperm(channels)[:kept].sort().values
            runs = {name: lambda x, way=way, index=index: way(x, index) for name, way in ways.items()}
            if dtype == torch.bfloat16:
                runs["as integers"] = lambda x, index=index: _TakeBits.apply(x.movedim(1, -1), index).movedim(-1, 1)
            runs["norm"] = nn.BatchNorm2d(channels)
            times: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(ROUNDS + 2):
                for name, way in runs.items():
                    took = seconds(way, x)
                    if number > 1:
                        times[name].append(took)
            median = {name: statistics.median(values) for name, values in times.items()}
            norm = median.pop("norm")
            cells = "".join(f"{taken / norm:14.2f}" for taken in median.values())
            cells = cells if len(median) == len(ways) + 1 else f"{cells}{'':14}"
            print(f"{str(dtype)[6:]:10}{channels:10}{kept:6}{side:6}{cells}{1e3 * norm:14.2f}")


if __name__ == "__main__":
    main()
