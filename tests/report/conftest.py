"""Records as finished runs write them: the numbers are made up, the shape is that of schema version 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_KEPT = (40, 64, 120, 128, 248, 240, 232, 312, 160, 88, 72, 80, 256)


def vgg_layers() -> list[dict[str, Any]]:
    """13 layers of which half of the channels stay."""
    pairs = zip(VGG_WIDTHS, VGG_KEPT, strict=True)
    return [{"name": f"features.{3 * i + 1}", "dense": d, "kept": k} for i, (d, k) in enumerate(pairs)]


def preresnet_layers() -> list[dict[str, Any]]:
    """100 layers: three norms in each of 33 blocks, and the last one."""
    layers = []
    for stage, width in enumerate((16, 32, 64)):
        for block in range(11):
            for norm, dense in (("bn1", 4 * width), ("bn2", width), ("bn3", width)):
                kept = max(1, round(dense * (0.35 + 0.3 * math.sin(stage + 0.7 * block) ** 2)))
                layers.append({"name": f"stages.{stage}.{block}.{norm}", "dense": dense, "kept": kept})
    return [*layers, {"name": "norm", "dense": 256, "kept": 171}]


def early_bird_ticket(total_epochs: int = 20) -> dict[str, Any]:
    """A ticket of the clock `scaled`: draw 17 of 160, distances falling below 0.1 from the twelfth on."""
    distances = [0.31 * math.exp(-0.11 * k) + 0.012 * math.sin(2.2 * k) for k in range(16)]
    distances[11:] = [0.094, 0.088, 0.091, 0.079, 0.073]
    per_draw = total_epochs / 160
    return {
        "prune_ratio": 0.5,
        "realised_ratio": 0.503,
        "draw": 17,
        "step": 831,
        "epoch": 17 * per_draw,
        "total_epochs": total_epochs,
        "fraction_of_schedule": 17 / 160,
        "rule": "paper",
        "epsilon": 0.1,
        "window": 5,
        "flags": [],
        "distances": distances,
        "distance_epochs": [(k + 2) * per_draw for k in range(16)],
        "mask_digest": "3c1f9a",
    }


def metrics_rows(total_epochs: int, cut: float | None, *, with_val: bool) -> list[dict[str, Any]]:
    """One row per completed epoch and phase; an epoch that the cut divides has a row in both phases."""
    rows = []
    for epoch in range(1, total_epochs + 1):
        drop = 0.03 * (epoch > total_epochs / 2) + 0.015 * (epoch > 0.75 * total_epochs)
        train = 0.82 - 0.52 * math.exp(-0.26 * epoch) + drop
        phases = ["retrain"] if cut is None or epoch - 1 >= cut else ["search"]
        if cut is not None and epoch - 1 < cut < epoch:
            phases = ["search", "retrain"]
        for phase in phases:
            done = min(epoch, cut) if phase == "search" and cut is not None else epoch
            val = train - 0.04 - 0.02 * math.sin(epoch) if with_val else None
            rows.append({"phase": phase, "epoch": done, "step": round(391 * done), "train_loss": 2.3 * (1 - train),
                         "train_accuracy": train, "val_accuracy": val, "lr": 0.1, "wall_seconds": 21.0})  # fmt: skip
    return rows


def cost_of(train_macs: float, wall_seconds: float, *, search_share: float) -> dict[str, Any]:
    """A ledger of one search and one retraining that add up to the total given."""

    def phase(name: str, share: float) -> dict[str, Any]:
        return {"phase": name, "images": int(1e6 * share), "macs": int(train_macs * share),
                "paper_flops": 2.02 * train_macs * share, "wall_seconds": wall_seconds * share,
                "cpu_seconds": 1.9 * wall_seconds * share, "peak_bytes": 812_000_000, "joules": None,
                "energy_method": "none"}  # fmt: skip

    shares = {"search": search_share, "retrain": 1 - search_share}
    return {"phases": {name: phase(name, share) for name, share in shares.items() if share}, "total": phase("total", 1)}


def build_record(
    method: str = "early_bird",
    *,
    seed: int = 0,
    accuracy: float = 0.8493,
    train_macs: float = 3.6e13,
    wall_seconds: float = 340.0,
    total_epochs: int = 20,
    ticket: dict[str, Any] | None = None,
    layers: list[dict[str, Any]] | None = None,
    with_val: bool = False,
    model: str = "vgg16",
    width: float = 0.25,
    data: str = "cifar10",
) -> dict[str, Any]:
    """A record; `dense` has neither ticket nor layers, every other method has both unless told."""
    is_dense = method == "dense"
    ticket = None if is_dense else ticket or early_bird_ticket(total_epochs)
    found = ticket is not None and not ticket.get("none")
    layers = (vgg_layers() if found else []) if layers is None else layers
    method_config = {"name": method} if is_dense else {"name": method, "prune_ratio": 0.5}
    size = {"params": 922_138, "macs": 19_750_000, "paper_gflops": 0.04}
    return {
        "schema_version": 1,
        "run_id": f"{model}-{data}-{method}-s{seed}",
        "status": "finished",
        "created_at": "2026-01-05T10:00:00Z",
        "versions": {"python": "3.11.7", "torch": "2.10.0", "earlybird": "0.1.0"},
        "device": {"type": "cpu", "name": "2 cores"},
        "config": {
            "model": {"name": model, "width": width},
            "data": {"name": data},
            "method": method_config,
            "training": {"epochs": total_epochs, "batch_size": 128, "lr": 0.1, "seed": seed},
        },
        "resolved": {"precision": "bf16", "round_to": 8, "clock": "scaled", "penalty": 4e-4, "total_steps": 7820},
        "seeds": {"seed": seed},
        "ticket": ticket,
        "layers": layers,
        "dense": size,
        "final": size if not found else {"params": 260_043, "macs": 11_790_000, "paper_gflops": 0.02},
        "metrics": metrics_rows(total_epochs, ticket["epoch"] if ticket and found else None, with_val=with_val),
        "test": {"accuracy": accuracy, "top5_accuracy": None, "loss": 0.49,
                 "correct": int(accuracy * 10_000), "samples": 10_000},
        "cost": cost_of(train_macs, wall_seconds, search_share=0.17 if found else 0.0),
    }  # fmt: skip


@pytest.fixture
def make_record() -> Callable[..., dict[str, Any]]:
    """`build_record`, as a fixture, since test files do not import each other."""
    return build_record


@pytest.fixture
def hundred_layers() -> list[dict[str, Any]]:
    """The layers of PreResNet101."""
    return preresnet_layers()
