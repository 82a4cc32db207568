"""Peak memory of a training step, dense against slim: what the slim phase of a run needs less of.

    python benchmarks/bench_memory.py

Each network has a process of its own, which loads nothing else and takes three training steps of batch 128 (fp32,
channels_last). Two measures: bytes of tensors alive at once, added up from the allocator's events (exact), and the
growth of the resident set from before the network is loaded to the high-water mark (with workspaces of kernels).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from trials import allocated_at_once, draw_scales_, slim_networks

from earlybird.cli.main import keep_freed_memory
from earlybird.cost import count_cost
from earlybird.models import build_model

BATCH_SIZE, STEPS = 128, 3
NETWORKS = [("vgg16", 0.25), ("resnet18", 0.25)]
RATIO, ROUND_TO = 0.5, 8


def resident_bytes() -> int:
    """Resident set of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def child(file: str) -> None:
    """Train the network in `file` for a few steps and print its two peaks as JSON."""
    keep_freed_memory()  # as `earlybird train` does
    before = resident_bytes()
    model = torch.load(file, weights_only=False).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=True)
    x = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.arange(BATCH_SIZE) % 10

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(STEPS - 1):
        step()
    grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    held = [*model.parameters(), *model.buffers(), *(s["momentum_buffer"] for s in optimizer.state.values()), x, y]
    optimizer.zero_grad(set_to_none=True)  # so that what is alive before the step is known
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    print(json.dumps([sum(t.nbytes for t in held) + allocated_at_once(profiler), grown]))


def main() -> None:
    if len(sys.argv) > 1:
        child(sys.argv[1])
        return
    print(f"peak MB of a training step of {BATCH_SIZE}, fp32, dense and slim (p = {RATIO}, multiples of {ROUND_TO})")
    print(f"{'network':<16}{'MACs':>6}{'tensors: dense, slim, ratio':>30}{'resident set: dense, slim, ratio':>36}")
    for name, width in NETWORKS:
        torch.manual_seed(0)
        dense = build_model(name, num_classes=10, width=width)
        draw_scales_(dense)
        networks = (dense, slim_networks(dense, RATIO, {"slim": ROUND_TO}, (3, 32, 32))["slim"])
        peaks = [measured(network) for network in networks]
        macs = [count_cost(network, (3, 32, 32)).macs for network in networks]
        print(f"{f'{name} {width:g}':<16}{macs[1] / macs[0]:6.2f}", end="")
        for wide, narrow in zip(*peaks, strict=True):
            print(f"{wide / 1e6:16.1f}{narrow / 1e6:9.1f}{narrow / wide:7.2f}", end="")
        print()


def measured(network: nn.Module) -> list[float]:
    """Both peaks of a network, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt"
        torch.save(network, file)
        command, quiet = [sys.executable, __file__, str(file)], {**os.environ, "KINETO_LOG_LEVEL": "5"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
    peaks: list[float] = json.loads(done.stdout.splitlines()[-1])
    return peaks


if __name__ == "__main__":
    main()
