"""`LayerTable`: seconds of a training step at any widths, predicted from measured layers (`docs/method.md`).

Each layer is timed at a few widths a side and interpolated, even and odd multiples apart; equal ones are timed once.
What no module shows (adds, the loss, data) comes in by one factor and one constant, fitted to three whole steps: dense,
of half the width, of a quarter.
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
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.atomic import read_file, sealed_json, unsealed_json, write_atomically
from earlybird.core import ChannelGroups, ChannelMask
from earlybird.core.allocation import CostTerm, StepCost, kept_of_blocks
from earlybird.core.drawing import nearest_count
from earlybird.cost.layer_chains import Autocast, LayerChain, find_chains
from earlybird.cost.layer_timing import Timer, Widths, chain_seconds, interleaved_seconds, placed, work_seconds
from earlybird.cost.meter import TrainingStep
from earlybird.errors import ModelError, reason
from earlybird.slimming import slim

FORMAT = 1
# Readings of a pass. On the two whole steps every prediction hangs.
_LAYER_ROUNDS, _STEP_ROUNDS = 2, 8
# Layers alone explain a step up to such a factor; beyond it the machine did something else meanwhile.
_PLAUSIBLE = (0.4, 2.5)


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Predicted seconds of a training step.

    Attributes:
        groups: what may be cut.
        cost: seconds by units kept of each block, fitted to whole steps: what `allocate` takes.
        dense_seconds: measured step of the dense network.
        slim_seconds: measured steps of the networks that keep `slim_counts`.
        slim_counts: units kept of each block in the other steps of the fit: about half, about a quarter.
        factor: what a step loses for each second that its layers lose.
    """

    groups: ChannelGroups
    cost: StepCost
    dense_seconds: float
    slim_seconds: tuple[float, ...]
    slim_counts: tuple[tuple[int, ...], ...]
    factor: float

    def predict(self, kept: ChannelMask | Sequence[int]) -> float:
        """Seconds of a training step under a mask, or with so many units kept of each block (`groups.blocks`).

        Raises:
            MaskError: the mask does not fit the groups.
        """
        counts = kept_of_blocks(kept, self.groups) if isinstance(kept, ChannelMask) else kept
        return self.cost.seconds(counts)

    def fitted(self, dense_seconds: float, slim_seconds: Sequence[float]) -> LayerTable:
        """The same layers, fitted to other measured steps of the same networks: those of a run's own loop.

        Args:
            dense_seconds: of the dense network; it is met exactly.
            slim_seconds: of the networks of `slim_counts`, which `first_units` makes masks of.

        Raises:
            ModelError: the steps contradict the layers.
        """
        layers = [replace(term, grid=term.grid / self.factor) for term in self.cost.terms]
        return _fitted(self.groups, layers, dense_seconds, tuple(slim_seconds), self.slim_counts)


def measure_layer_table(
    model: nn.Module,
    groups: ChannelGroups,
    images: Tensor,
    *,
    autocast: Autocast = nullcontext,
    round_to: int = 8,
    cache: Path | None = None,
    timer: Timer | None = None,
    passes: int = 3,
) -> LayerTable:
    """Measure the layers and three whole steps of a network, or read them from the cache.

    Args:
        model: the dense network; it is left as it is.
        groups: what may be cut; for `allocate` those of its ranking (`ranking.groups`).
        images: a batch as in training, `[n, c, h, w]`, on the device and in the layout of the run.
        autocast: the run's precision.
        round_to: multiples at which layers are measured.
        cache: folder for a file named by device, threads, precision, layout and shapes; None: measure anew.
        timer: seconds of a piece of work; by default CPU seconds on a CPU, wall seconds on a GPU.
        passes: times that everything is measured; of each piece the least counts, since what disturbs only adds.

    Raises:
        SlimError, ModelError: the network cannot be cut, does not run on these images, or its steps contradict its
            layers.
    """
    dense = placed(model, images)
    sizes = [block.size for block in groups.blocks]
    counts = tuple(tuple(nearest_count(size // by, size, round_to) for size in sizes) for by in (2, 4))
    small = [slim(dense, first_units(groups, kept), images[:2], groups, check=False) for kept in counts]
    chains = find_chains(dense, small[0], groups, images, autocast)
    key = _circumstances(images) | {"counts": counts, "round_to": round_to, "chains": [chain.key for chain in chains]}
    file = None if cache is None else cache / f"layer-table-{_digest(key)}.json"
    if file is None or not file.exists():
        timer = timer or work_seconds(images.device)
        works = {number: TrainingStep(net, images, autocast).run for number, net in enumerate([dense, *small])}
        measured: dict[str, Any] = {"key": key}
        for _ in range(passes):  # So that a disturbance of seconds falls on layers and on steps.
            layers = _measured_chains(chains, images.device, timer, autocast, round_to)
            steps = interleaved_seconds(works, timer, _STEP_ROUNDS)
            measured |= _least({"layers": layers, "steps": steps}, measured)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, sealed_json(measured))
    else:
        measured = _read(file, key, {chain.key: len(_pairs(chain, round_to)) for chain in chains})
    terms = [_term(chain, measured["layers"][chain.key], round_to) for chain in chains]
    return _fitted(groups, terms, measured["steps"][0], tuple(measured["steps"][1:]), counts)


def first_units(groups: ChannelGroups, counts: Sequence[int]) -> ChannelMask:
    """The mask that keeps the first units of each block: for seconds it does not matter which stay."""
    keep = torch.zeros(groups.num_units, dtype=torch.bool)
    for block, count in zip(groups.blocks, counts, strict=True):
        keep[torch.from_numpy(block[:count])] = True
    return groups.mask_of(keep)


def _measured_chains(
    chains: Sequence[LayerChain], device: torch.device, timer: Timer, autocast: Autocast, round_to: int
) -> dict[str, list[float]]:
    """Key of a chain -> seconds at its `_pairs`."""
    found: dict[str, list[float]] = {}
    for chain in chains:
        if chain.key not in found:
            pairs = _pairs(chain, round_to)
            found[chain.key] = chain_seconds(chain, pairs, device, timer, autocast, _LAYER_ROUNDS)
    return found


def _pairs(chain: LayerChain, round_to: int) -> list[Widths]:
    """Widths (read, made) at which a chain is measured: a grid, then odd multiples of one side beside all of the other.

    A chain that makes what it reads has one side.
    """
    reads, makes, odd_reads, odd_makes = _sides(chain, round_to)
    if chain.made_per_read:
        return [(made // chain.made_per_read, made) for made in (*makes, *odd_makes)]
    odd = [*((read, makes[-1]) for read in odd_reads), *((reads[-1], made) for made in odd_makes)]
    return [*product(reads, makes), *odd]


def _sides(chain: LayerChain, round_to: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Widths of the grid, read and made, and odd ones, read and made."""
    # A depthwise kernel may be fast at the whole width alone (960 channels on one pixel take half as long as 928).
    is_sudden = chain.selects or chain.made_per_read is not None
    makes = chain.makes.measured_widths(round_to, also_next_to_all=is_sudden)
    odd_makes = [width for width in chain.makes.odd_widths(round_to) if width not in makes]
    if chain.made_per_read:
        return [chain.reads.total], makes, [], odd_makes
    return chain.reads.measured_widths(round_to), makes, chain.reads.odd_widths(round_to), odd_makes


def _least(new: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Of each reading the smaller."""
    if "layers" not in before:
        return new
    layers = {key: np.minimum(seconds, before["layers"][key]).tolist() for key, seconds in new["layers"].items()}
    return {"layers": layers, "steps": np.minimum(new["steps"], before["steps"]).tolist()}


def _term(chain: LayerChain, seconds: Sequence[float], round_to: int) -> CostTerm:
    """Every multiple of both sides: between the grid bilinear, odd multiples by what these cost beside all."""
    reads, makes, odd_reads, odd_makes = _sides(chain, round_to)
    on_grid, beside = np.split(np.array(seconds), [len(reads) * len(makes)])
    measured = CostTerm(
        chain.name, {} if chain.made_per_read else chain.reads.per_unit, chain.makes.per_unit, chain.reads.always,
        chain.makes.always, np.array(reads, dtype=np.float64), np.array(makes, dtype=np.float64),
        on_grid.reshape(len(reads), len(makes)),
    )  # fmt: skip
    all_reads = sorted({*reads, *(() if chain.made_per_read else chain.reads.all_widths(round_to))})
    all_makes = sorted({*makes, *chain.makes.all_widths(round_to)})
    every_read, every_made = (np.array(widths, dtype=np.float64) for widths in (all_reads, all_makes))
    read_beside, made_beside = np.split(beside, [len(odd_reads)])
    # What an odd multiple costs over what lies between its neighbours.
    of_read = read_beside / measured.at(np.array(odd_reads), every_made[-1])
    of_made = made_beside / measured.at(every_read[-1], np.array(odd_makes))
    by_read = _at_odd(every_read, reads, odd_reads, of_read, chain.reads.step(round_to), chain.reads.always)
    by_made = _at_odd(every_made, makes, odd_makes, of_made, chain.makes.step(round_to), chain.makes.always)
    grid = measured.at(every_read[:, None], every_made[None, :]) * by_read[:, None] * by_made[None, :]
    return replace(measured, read_widths=every_read, made_widths=every_made, grid=grid)


def _at_odd(
    widths: np.ndarray, known: Sequence[int], odd: Sequence[int], ratios: np.ndarray, step: int, always: int
) -> np.ndarray:
    """Factor of each width: 1 where it was measured on the grid or is an even multiple."""
    if not odd:
        return np.ones(widths.size)
    is_odd = ((widths - always) / step % 2 == 1) & ~np.isin(widths, known)
    factors: np.ndarray = np.where(is_odd, np.interp(widths, odd, ratios), 1.0)
    return factors


def _fitted(
    groups: ChannelGroups, layers: Sequence[CostTerm], dense: float, slim_seconds: tuple[float, ...],
    counts: tuple[tuple[int, ...], ...],
) -> LayerTable:  # fmt: skip
    """Scale the layers and add a constant: the dense step comes out as measured, the others as nearly as they can."""
    alone = StepCost(layers)
    whole = alone.seconds([block.size for block in groups.blocks])
    fewer = np.array([whole - alone.seconds(kept) for kept in counts])
    saved, weight = dense - np.array(slim_seconds), 1.0 / np.array(slim_seconds) ** 2  # relative errors, squared
    factor = float((weight * fewer * saved).sum() / max((weight * fewer * fewer).sum(), 1e-30))
    if not _PLAUSIBLE[0] < factor < _PLAUSIBLE[1]:
        took, cut = (", ".join(f"{second:.4g}" for second in values) for values in (slim_seconds, whole - fewer))
        told = f"steps of {dense:.4g} s (dense) and {took} s (half, a quarter as wide) do not fit layers of"
        cure = "measure again on an idle machine, or with a larger batch"
        raise ModelError(f"{told} {whole:.4g} s and {cut} s (factor {factor:.2f}); {cure}")
    terms = [replace(term, grid=term.grid * factor) for term in layers]
    return LayerTable(groups, StepCost(terms, dense - factor * whole), dense, slim_seconds, counts, factor)


def _circumstances(images: Tensor) -> dict[str, Any]:
    device = images.device
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability()
    return {
        "format": FORMAT,
        "device": f"{device.type} {platform.machine()} {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": list(images.shape),
    }


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _read(file: Path, key: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """Readings in a file; `counts` says how many there are of each chain."""
    cure = "delete it to measure the layers again"
    try:
        values = unsealed_json(read_file(file))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({reason(error)}); {cure}") from error
    layers = values.get("layers")
    is_ours = values.get("key") == json.loads(json.dumps(key)) and _are_seconds(values.get("steps"), 3)
    if not is_ours or not isinstance(layers, dict) or layers.keys() != counts.keys():
        raise ModelError(f"{file} holds no layer table of this network and machine; {cure}")
    if not all(_are_seconds(layers[name], count) for name, count in counts.items()):
        raise ModelError(f"{file} holds seconds that are no positive numbers; {cure}")
    return values


def _are_seconds(values: object, count: int) -> bool:
    is_list = isinstance(values, list) and len(values) == count
    return is_list and all(type(value) in (int, float) and value > 0 for value in cast("list[Any]", values))
