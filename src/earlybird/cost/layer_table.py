"""`LayerTable`: seconds of a training step at any widths, predicted from measured layers (`docs/method.md`).

Each layer is timed at a few widths a side and interpolated; layers of one shape are timed once. What no module shows
(adds, the loss, data) comes in by one factor and one constant, fitted to two whole steps, dense and half as wide.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.atomic import sealed_json, unsealed_json, write_atomically
from earlybird.core import ChannelGroups, ChannelMask
from earlybird.core.allocation import CostTerm, StepCost, kept_of_blocks
from earlybird.core.drawing import nearest_count
from earlybird.cost.layer_chains import Autocast, LayerChain, find_chains
from earlybird.cost.layer_timing import Timer, chain_seconds, interleaved_seconds, placed, work_seconds
from earlybird.cost.meter import TrainingStep
from earlybird.errors import ModelError
from earlybird.slimming import slim

FORMAT = 1
# Layers alone explain a step up to such a factor; beyond it the machine did something else meanwhile.
_PLAUSIBLE = (0.4, 2.5)


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Predicted seconds of a training step.

    Attributes:
        groups: what may be cut.
        cost: seconds by units kept of each block, fitted to whole steps: what `allocate` takes.
        dense_seconds: measured step of the dense network.
        slim_seconds: measured step of the network that keeps `slim_counts`.
        slim_counts: units kept of each block in the second step of the fit.
        factor: whole step over sum of layers, where both change.
    """

    groups: ChannelGroups
    cost: StepCost
    dense_seconds: float
    slim_seconds: float
    slim_counts: tuple[int, ...]
    factor: float

    def predict(self, kept: ChannelMask | Sequence[int]) -> float:
        """Seconds of a training step under a mask, or with so many units kept of each block (`groups.blocks`).

        Raises:
            MaskError: the mask does not fit the groups.
        """
        counts = kept_of_blocks(kept, self.groups) if isinstance(kept, ChannelMask) else kept
        return self.cost.seconds(counts)

    def fitted(self, dense_seconds: float, slim_seconds: float) -> LayerTable:
        """The same layers, fitted to other measured steps of the same two networks: those of a run's own loop.

        Raises:
            ModelError: the two steps contradict the layers.
        """
        layers = [replace(term, grid=term.grid / self.factor) for term in self.cost.terms]
        return _fitted(self.groups, layers, dense_seconds, slim_seconds, self.slim_counts)


def measure_layer_table(
    model: nn.Module,
    groups: ChannelGroups,
    images: Tensor,
    *,
    autocast: Autocast = nullcontext,
    round_to: int = 8,
    cache: Path | None = None,
    timer: Timer | None = None,
    rounds: int = 5,
) -> LayerTable:
    """Measure the layers and two whole steps of a network, or read them from the cache.

    Args:
        model: the dense network; it is left as it is.
        groups: what may be cut; for `allocate` those of its ranking (`ranking.groups`).
        images: a batch as in training, `[n, c, h, w]`, on the device and in the layout of the run.
        autocast: the run's precision.
        round_to: multiples at which layers are measured.
        cache: folder for a file named by device, threads, precision, layout and shapes; None: measure anew.
        timer: seconds of a piece of work; by default CPU seconds on a CPU, wall seconds on a GPU.
        rounds: readings of each, of which the median counts; two more of the whole steps.

    Raises:
        SlimError, ModelError: the network cannot be cut, does not run on these images, or its steps contradict its
            layers.
    """
    dense = placed(model, images)
    counts = tuple(nearest_count(block.size // 2, block.size, round_to) for block in groups.blocks)
    small = slim(dense, _first_units(groups, counts), images[:2], groups, check=False)
    chains = find_chains(dense, small, groups, images, autocast)
    key = {**_circumstances(images), "counts": list(counts), "chains": [chain.key for chain in chains]}
    key["round_to"] = round_to
    file = None if cache is None else cache / f"layer-table-{_digest(key)}.json"
    if file is None or not file.exists():
        timer = timer or work_seconds(images.device)
        grids = _measured_grids(chains, images.device, timer, autocast, round_to, rounds)
        steps = {"dense": TrainingStep(dense, images, autocast), "slim": TrainingStep(small, images, autocast)}
        works: dict[object, Any] = {name: step.run for name, step in steps.items()}
        seconds = interleaved_seconds(works, timer, rounds + 2)
        measured = {"format": FORMAT, "key": key, "grids": grids, "dense": seconds[0], "slim": seconds[1]}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, sealed_json(measured))
    else:
        measured = _read(file)
    terms = [_term(chain, measured["grids"][chain.key], round_to) for chain in chains]
    return _fitted(groups, terms, measured["dense"], measured["slim"], counts)


def _first_units(groups: ChannelGroups, counts: Sequence[int]) -> ChannelMask:
    keep = torch.zeros(groups.num_units, dtype=torch.bool)
    for block, count in zip(groups.blocks, counts, strict=True):
        keep[torch.from_numpy(block[:count])] = True
    return groups.mask_of(keep)


def _measured_grids(
    chains: Sequence[LayerChain],
    device: torch.device,
    timer: Timer,
    autocast: Autocast,
    round_to: int,
    rounds: int,
) -> dict[str, list[list[float]]]:
    """Key of a chain -> seconds `[read widths, made widths]`."""
    grids: dict[str, list[list[float]]] = {}
    for chain in chains:
        if chain.key not in grids:
            reads, makes = _widths(chain, round_to)
            if chain.made_per_read:
                pairs = [(made // chain.made_per_read, made) for made in makes]
            else:
                pairs = list(product(reads, makes))
            seconds = chain_seconds(chain, pairs, device, timer, autocast, rounds)
            grids[chain.key] = np.reshape(seconds, (len(reads), len(makes))).tolist()
    return grids


def _widths(chain: LayerChain, round_to: int) -> tuple[list[int], list[int]]:
    """Widths of a chain's grid; of one that makes what it reads, by what it makes alone."""
    makes = chain.makes.measured_widths(round_to)
    return ([chain.reads.total] if chain.made_per_read else chain.reads.measured_widths(round_to)), makes


def _term(chain: LayerChain, grid: list[list[float]], round_to: int) -> CostTerm:
    reads, makes = _widths(chain, round_to)
    read_by = {} if chain.made_per_read else chain.reads.per_unit
    return CostTerm(
        chain.name, read_by, chain.makes.per_unit, chain.reads.always, chain.makes.always,
        np.array(reads, dtype=np.float64), np.array(makes, dtype=np.float64), np.array(grid),
    )  # fmt: skip


def _fitted(
    groups: ChannelGroups, layers: Sequence[CostTerm], dense: float, slim_seconds: float, counts: tuple[int, ...]
) -> LayerTable:
    """Scale the layers and add a constant, so that both steps come out as measured."""
    alone = StepCost(layers)
    whole, cut = alone.seconds([block.size for block in groups.blocks]), alone.seconds(counts)
    factor = (dense - slim_seconds) / (whole - cut) if whole > cut else float("nan")
    if not _PLAUSIBLE[0] < factor < _PLAUSIBLE[1]:
        told = f"steps of {dense:.4g} s (dense) and {slim_seconds:.4g} s (half as wide) do not fit layers of"
        cure = "measure again on an idle machine, or with a larger batch"
        raise ModelError(f"{told} {whole:.4g} s and {cut:.4g} s (factor {factor:.2f}); {cure}")
    terms = [replace(term, grid=term.grid * factor) for term in layers]
    cost = StepCost(terms, dense - factor * whole)
    return LayerTable(groups, cost, dense, slim_seconds, counts, factor)


def _circumstances(images: Tensor) -> dict[str, Any]:
    device = images.device
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability()
    return {
        "device": f"{device.type} {platform.machine()} {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": list(images.shape),
    }


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _read(file: Path) -> dict[str, Any]:
    try:
        values = unsealed_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); delete it to measure the layers again") from error
    if values.get("format") != FORMAT:
        raise ModelError(f"{file} has format {values.get('format')!r}; delete it to measure the layers again")
    return values
