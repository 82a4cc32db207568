"""Where `paper` fires at each interval between draws, and how far soft filter pruning's mask moves; digits, one thread.

    python benchmarks/measure_masks.py draws [RATE]
    python benchmarks/measure_masks.py soft

`draws`: VGG11, width 0.125, batch 64, p = 0.5: one training for each (epochs, seed) gives all intervals, as a draw
changes nothing. "Moved": mean change of a score since the first draw by the mean score.
`soft`: width 0.25, p = 0.3, zeroed at the start: zeroed filters that are zeroed in the end too.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch.nn import functional

from earlybird import EarlyBird, Ticket, channel_groups
from earlybird.core import bn_l1_subgradient_, mask_distance
from earlybird.data import load_data, train_batches
from earlybird.methods.soft_filter_pruning import filter_mask
from earlybird.models import build_model
from earlybird.runs.inputs import network_and_data
from earlybird.runs.run import run
from earlybird.settings.method import EarlyBirdTraining
from earlybird.settings.run import RunConfig, TrainingSettings
from earlybird.training.loop import learning_rate

INTERVALS = (1, 2, 3, 4, 5, 8)
SEARCHES = ((10, 0), (10, 1), (17, 0), (28, 0), (28, 1))
SOFT = (("vgg11", 6, 0.1), ("preresnet20", 12, 0.1), ("resnet18", 12, 0.1), ("resnet18", 12, 0.01))


def one_search(epochs: int, seed: int, rate: float) -> dict[int, tuple[float, ...] | None]:
    """Interval -> where the rule fires: step, accuracy of its epoch so far, moved share, distance to the last mask."""
    torch.manual_seed(seed)
    model, settings = (
        build_model("vgg11", num_classes=10, in_channels=1, width=0.125),
        TrainingSettings(epochs=epochs, lr=rate),
    )
    batches = train_batches(load_data("digits"), batch_size=64, seed=seed, augment="none", device="cpu")
    steps = epochs * batches.steps_per_epoch
    penalty = EarlyBirdTraining().clock_of(batches.steps_per_epoch, steps).penalty(EarlyBirdTraining().penalty)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=settings.weight_decay)
    detectors = {every: EarlyBird(0.5, channel_groups(model, torch.zeros(2, 1, 32, 32))) for every in INTERVALS}
    first, fired, step = {}, {}, 0
    for epoch in range(epochs):
        hits = seen = 0
        for x, y in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps, settings)
            optimizer.zero_grad()
            logits = model(x)
            functional.cross_entropy(logits, y).backward()
            bn_l1_subgradient_(model, penalty)
            optimizer.step()
            step, hits, seen = step + 1, hits + int((logits.argmax(1) == y).sum()), seen + len(y)
            for every, detector in detectors.items():
                if step % every == 0 and every not in fired:
                    ticket = detector.update(model)
                    if detector.last_scores is None:  # All scores are equal still.
                        continue
                    now = torch.cat(list(detector.last_scores.values()))
                    first.setdefault(every, now)
                    if ticket:
                        moved = float((now - first[every]).abs().mean() / first[every].mean())
                        fired[every] = (step, hits / seen, moved, ticket.mask)
    last = detectors[1].draw(model, 0.5).mask
    return {e: (*fired[e][:3], mask_distance(fired[e][3], last)) if e in fired else None for e in INTERVALS}


def draws(rate: float = 0.1) -> None:
    found = [one_search(*search, rate) for search in SEARCHES]
    print(
        "| every | fires | at step | training accuracy | moved | masks that still change |\n|---:|---:|---|---|---|---|"
    )
    for every in INTERVALS:
        rows = [result[every] for result in found if result[every]]
        spans = [f"{min(c):.3g}-{max(c):.3g} (median {statistics.median(c):.3g})" for c in zip(*rows, strict=True)]
        print(f"| {every} | {len(rows)} of {len(found)} | {' | '.join(spans)} |", flush=True)


def soft() -> None:
    print("| network | rate | zeroed filters | zeroed in the end too | test accuracy |\n|---|---:|---:|---:|---:|")
    for name, epochs, rate in SOFT:
        config = RunConfig.from_dict(
            {
                "model": {"name": name, "width": 0.25},
                "data": {"name": "digits"},
                "method": {"name": "soft_filter_pruning", "prune_ratio": 0.3, "round_to": 1},
                "training": {"epochs": epochs, "batch_size": 64, "lr": rate, "precision": "fp32"},
            }
        )
        spec, _, model = network_and_data(config)
        first = filter_mask(config.method, model, channel_groups(model, spec.example_input()))
        with tempfile.TemporaryDirectory() as folder:
            record = run(config, Path(folder) / "run", quiet=True)
            last = Ticket.load(Path(folder) / "run" / "ticket.safetensors").mask
        zeroed, both = (~first.flat()).sum(), (~first.flat() & ~last.flat(first)).sum()
        print(f"| {name} | {rate} | {zeroed} | {both} | {record['test']['accuracy']:.4f} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"draws": draws, "soft": soft}[sys.argv[1]](*map(float, sys.argv[2:]))
