"""A training step of the networks that tickets give, beside the dense one, in bf16 channels_last, measured in one run.

    python benchmarks/compare_ticket_steps.py MODEL CLASSES TICKET [TICKET ...]

Networks take turns round by round, so that what else the machine does falls on all of them; ratios are of medians.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

from earlybird import Ticket, channel_groups, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.cost import count_cost
from earlybird.models import build_model

BATCH_SIZE, ROUNDS, STEPS = 128, 9, 2


class Step:
    def __init__(self, model: nn.Module, classes: int) -> None:
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
        self.x = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(classes, (BATCH_SIZE,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def seconds(self) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.model(self.x)
            functional.cross_entropy(logits.float(), self.y).backward()
            self.optimizer.step()
        return (time.perf_counter() - start) / STEPS


def main(name: str, classes: int, tickets: list[str]) -> None:
    keep_freed_memory()
    dense = build_model(name, num_classes=classes)
    x = torch.zeros(2, 3, 32, 32)
    nets = {"dense": dense}
    for path in tickets:
        ticket = Ticket.load(path)
        groups = channel_groups(dense, x, ticket.policy)
        nets[f"p={ticket.prune_ratio:g}"] = slim(dense, ticket.mask, x, groups, check=False)
    steps = {label: Step(net, classes) for label, net in nets.items()}
    times: dict[str, list[float]] = {label: [] for label in nets}
    for round_number in range(ROUNDS + 1):
        for label, step in steps.items():
            seconds = step.seconds()
            if round_number:
                times[label].append(seconds)
    median = {label: statistics.median(values) for label, values in times.items()}
    macs = {label: count_cost(net, (3, 32, 32)).train_macs for label, net in nets.items()}
    print(f"{name}, batch {BATCH_SIZE}, bf16 channels_last, {torch.get_num_threads()} threads")
    for label in nets:
        shares = f"{macs[label] / macs['dense']:6.3f} of the MACs {median[label] / median['dense']:6.3f} of the time"
        print(f"{label:8} {shares}  ({1e3 * median[label]:.0f} ms)")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
