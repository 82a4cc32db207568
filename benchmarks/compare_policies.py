"""Residual policies at equal MACs on CIFAR-10: `inner`, `tie` and `select` on PreResNet20 and the CIFAR ResNet18.

    python benchmarks/compare_policies.py train NETWORK --data hf:FOLDER --runs FOLDER [--seeds 0 1 2]
    python benchmarks/compare_policies.py table --runs FOLDER

`train` trains the dense network, searches each policy over a grid of ratios, and goes on from the ticket whose MACs
come closest to half of dense; call it again after a kill and it goes on. `table` reads the records (those of
`docs/results` once they are unpacked: `python benchmarks/pack_results.py unpack policies`) and writes
`docs/results/policies.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from earlybird import Ticket, channel_groups, draw_mask, slim
from earlybird.core import ChannelGroups, ChannelMask
from earlybird.cost import count_cost
from earlybird.models import build_model
from earlybird.runs.run import run, run_search
from earlybird.settings.catalog import Dense
from earlybird.settings.method import EarlyBirdTraining, TicketRequest, requests_of
from earlybird.settings.run import DataConfig, ModelConfig, RunConfig, TrainingSettings

SHAPE = (3, 32, 32)
WIDTH, EPOCHS, IMAGES, TARGET = 0.25, 20, 10_000, 0.5
NETWORKS, POLICIES = ("preresnet20", "resnet18"), ("inner", "tie", "select")
GRID = tuple(round(0.05 + 0.025 * step, 3) for step in range(37))
# Global ranking moves a ticket's MACs away from those of uniform widths; the grid has to reach the target anyway.
MARGIN = 0.12
PAGE = Path(__file__).parents[1] / "docs" / "results" / "policies.md"


class Cutter:
    """The dense network of one policy, and what its masks leave of the MACs."""

    def __init__(self, name: str, policy: Any) -> None:
        self.dense = build_model(name, num_classes=10, width=WIDTH)
        self.example = torch.zeros(2, *SHAPE)
        self.groups: ChannelGroups = channel_groups(self.dense, self.example, policy=policy)
        self.macs = count_cost(self.dense, SHAPE).macs

    def kept(self, mask: ChannelMask) -> float:
        """MACs of the slim network over those of the dense one."""
        small = slim(self.dense, mask, self.example, self.groups, check=False)
        return count_cost(small, SHAPE).macs / self.macs

    def ratios(self) -> list[float]:
        """Ratios worth watching: those whose uniform mask comes near the target."""
        even = {name: torch.ones(len(units)) for name, units in self.groups.unit_of.items()}
        kept = {ratio: self.kept(draw_mask(even, ratio, self.groups)) for ratio in GRID}
        return [ratio for ratio in GRID if abs(kept[ratio] - TARGET) <= MARGIN]


def train(name: str, data: str, runs: Path, seeds: Sequence[int]) -> None:
    """Every run of one network; what is finished already is not repeated."""
    for seed in seeds:
        config = RunConfig(
            ModelConfig(name, WIDTH),
            DataConfig(name=data, train_images=IMAGES),
            Dense(),
            TrainingSettings(epochs=EPOCHS, seed=seed),
        )
        record = run(config, runs / f"{name}-dense-s{seed}", quiet=True)
        print(name, seed, "dense", record["test"], flush=True)
        for policy in POLICIES:
            cutter = Cutter(name, policy)
            ratios = cutter.ratios()
            method = EarlyBirdTraining(policy=policy, round_to=1, prune_ratio=ratios[0])
            config = dataclasses.replace(config, method=method)
            folder = runs / f"{name}-{policy}-s{seed}"
            paths = run_search(config, requests_of(ratios), folder / "search", quiet=True)
            kept = {r.prune_ratio: cutter.kept(Ticket.load(path).mask) for r, path in paths.items() if path is not None}
            best = min(kept, key=lambda ratio: abs(kept[ratio] - TARGET))
            config = dataclasses.replace(config, method=dataclasses.replace(method, prune_ratio=best))
            record = run(config, folder / "retrain", ticket=paths[TicketRequest(best)], quiet=True)
            print(name, seed, policy, best, f"{kept[best]:.3f} of", sorted(kept.items()), record["test"], flush=True)


def table(runs: Path) -> str:
    """The page, from the records."""
    lines = [
        "# Residual policies at equal MACs",
        "",
        "CIFAR-10, 10,000 fixed training images, 20 epochs, batch 128, width 0.25, clock `scaled`, exact widths",
        "(`round_to` 1), three seeds. Each policy searches a grid of ratios and goes on from the ticket whose MACs",
        "come closest to half of dense. Test accuracy after the last epoch, mean ± sample standard deviation;",
        "differences are paired by seed. `auto` is `select` on PreResNet20 and `tie` on ResNet18.",
        "",
        "| network | policy | accuracy, % | per seed | minus dense | minus `auto` | prune ratio | units | MACs "
        "| params | drawn at |",
        "|---|---|---:|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name in NETWORKS:
        dense = {seed: _record(runs / f"{name}-dense-s{seed}") for seed in range(3)}
        slim_runs = {
            policy: {seed: _record(runs / f"{name}-{policy}-s{seed}" / "retrain") for seed in range(3)}
            for policy in POLICIES
        }
        default = slim_runs[Cutter(name, "auto").groups.policy]
        lines.append(_row(name, "dense", dense, dense, default))
        lines += [_row(name, policy, records, dense, default) for policy, records in slim_runs.items()]
    command = "python benchmarks/compare_policies.py"
    lines += ["", f"Trained by `{command} train {'|'.join(NETWORKS)} --data hf:PATH --runs FOLDER`."]
    unpacking = "python benchmarks/pack_results.py unpack policies"
    lines += [f"Written from those records by `{unpacking}` and", f"`{command} table --runs runs/policies`.", ""]
    return "\n".join(lines)


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return record


Records = dict[int, dict[str, Any]]


def _accuracies(records: Records) -> list[float]:
    return [100 * record["test"]["accuracy"] for record in records.values()]


def _minus(records: Records, other: Records) -> str:
    return _spread([a - b for a, b in zip(_accuracies(records), _accuracies(other), strict=True)])


def _row(name: str, policy: str, records: Records, dense: Records, default: Records) -> str:
    accuracies = _accuracies(records)
    cells = [name, policy, _spread(accuracies), ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)]
    tickets = [record["ticket"] for record in records.values() if record["ticket"]]
    if not tickets:
        return "| " + " | ".join([*cells, "", _minus(records, default), "", "", "1", "1", ""]) + " |"
    shares = [
        statistics.mean(record["final"][key] / record["dense"][key] for record in records.values())
        for key in ("macs", "params")
    ]
    units = Cutter(name, policy).groups.num_units
    ratios = ", ".join(f"{ticket['prune_ratio']:g}" for ticket in tickets)
    drawn = statistics.mean(ticket["fraction_of_schedule"] for ticket in tickets)
    cells += [
        _minus(records, dense),
        "" if records is default else _minus(records, default),
        ratios,
        str(units),
        *(f"{share:.3f}" for share in shares),
        f"{100 * drawn:.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("network", choices=NETWORKS)
    training.add_argument("--data", required=True)
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    writing = commands.add_parser("table")
    for command in (training, writing):
        command.add_argument("--runs", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.network, arguments.data, arguments.runs, arguments.seeds)
    else:
        PAGE.write_text(table(arguments.runs))
        print(PAGE.read_text(), end="")


if __name__ == "__main__":
    main()
