"""ThiNet's walk through the layers: sample, choose, rescale, cut, train a little."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups
from earlybird.core.snapping import nearest_count
from earlybird.cost import evaluation_work
from earlybird.methods.cut import leave_ticket
from earlybird.methods.task import Task
from earlybird.methods.thinet import ThiNet
from earlybird.methods.thinet_choice import contributions, least_squares_weights, removed_greedily
from earlybird.methods.thinet_layers import ReadLayer, prunable_layers
from earlybird.slimming import expanded, kept_indices, slim
from earlybird.training.loop import fit
from earlybird.training.state import Span

# The draws of samples must not repeat those of the run's initial weights.
_LOT_SEED_OFFSET = 3_000_017


def train_dense(task: Task, resume: dict[str, Any] | None) -> nn.Module:
    """The unpruned network, trained over the whole schedule."""
    session, model = task.session, task.build()
    fit(session, model, Span("search", 0, session.total_steps), task.cost(model), resume=resume)
    return model


def cut_layers(method: ThiNet, task: Task, dense: nn.Module | None, resume: dict[str, Any] | None) -> None:
    """Cut every layer that can be, and leave the ticket.

    Args:
        method: the hyperparameters.
        task: the run.
        dense: the trained network; not needed where a checkpoint is taken up.
        resume: a checkpoint of the training after one of the layers.
    """
    shape = task.build()
    groups = task.groups(shape, method.policy)
    layers = prunable_layers(shape, groups, task.example_input())
    keep = torch.ones(groups.num_units, dtype=torch.bool)
    done, model = 0, dense
    if resume is not None:
        done, keep = int(resume["layers_done"]), resume["keep"]
        model = _slim_to(task, shape, groups, keep)
        _finetune(method, task, model, done, keep, resume)
    assert model is not None
    for number in range(done, len(layers)):
        removed = _choose(method, task, model, layers[number], number, _Floors(groups, keep, method.min_channels))
        if bool(removed.any()):
            keep[layers[number].units[removed]] = False
            model = _cut(method, task, model, layers[number].reader, removed)
            _finetune(method, task, model, number + 1, keep, None)
    mask = groups.mask_of(keep)
    indices = kept_indices(shape, mask, task.example_input(), groups)
    trained = model.state_dict()
    weights = {name: expanded(trained[name], old.shape, indices[name]) for name, old in shape.state_dict().items()}
    end = task.session.total_steps
    leave_ticket(
        task, mask, groups, weights, rule=method.name, prune_ratio=method.prune_ratio, step=end, criterion="thinet",
        flags=_flags(method, task, layers), min_channels=method.min_channels, round_to=method.round_to,
    )  # fmt: skip


def kept_count(width: int, prune_ratio: float, min_channels: int = 1, round_to: int = 1) -> int:
    """Channels that stay of a layer: `int((1 - p) * width)`, within floor and rounding.

    Example:
        >>> kept_count(64, 0.3), kept_count(10, 0.9), kept_count(64, 0.3, round_to=8)
        (44, 1, 48)
    """
    # (1 - 0.9) * 10 is a bit below 1, which the floor must not see.
    kept = max(min(min_channels, width), math.floor((1 - prune_ratio) * width + 1e-9))
    return nearest_count(kept, width, round_to, min_channels)


def _slim_to(task: Task, shape: nn.Module, groups: ChannelGroups, keep: Tensor) -> nn.Module:
    """A network of the shape that is left, its weights of no account."""
    small = slim(shape, groups.mask_of(keep), task.example_input(), groups, check=False)
    return task.session.compute.place(small)


class _Floors:
    """How many channels each layer that makes or norms units can still lose.

    Behind a concatenation a reader has units of several convolutions, of which one might lose all.
    """

    def __init__(self, groups: ChannelGroups, keep: Tensor, min_channels: int) -> None:
        self.layers_of = groups.layers_of
        units, layers = groups.memberships
        lost = np.bincount(layers[~keep.numpy()[units]], minlength=groups.layer_widths.size)
        self.spare = groups.layer_widths - lost - min_channels

    def of(self, units: Tensor) -> list[tuple[int, ...]]:
        """The layers of each unit, once for each of its channels there."""
        return [self.layers_of[unit] for unit in units.tolist()]


def _choose(method: ThiNet, task: Task, model: nn.Module, layer: ReadLayer, number: int, floors: _Floors) -> Tensor:
    """Which of the layer's units go, bool `[units]`; the reader's weights of the others are rescaled in place."""
    session, width = task.session, len(layer.units)
    count = width - kept_count(width, method.prune_ratio, method.min_channels, method.round_to)
    if not count:
        return torch.zeros(width, dtype=torch.bool)
    place = layer.place_of_input
    lot = torch.Generator().manual_seed(task.seed + _LOT_SEED_OFFSET + number)
    batches = task.sample(min(method.images_per_class * task.classes, session.train.num_samples))
    with session.meter("search") as meter:
        parts = contributions(model, layer.reader, place, batches.epoch(0), method.locations, lot)
        removed = removed_greedily(parts, count, floors.of(layer.units), floors.spare)
        factors = torch.ones(width, dtype=torch.float64)
        factors[~removed] = least_squares_weights(parts, ~removed)
        _rescale_(model.get_submodule(layer.reader), factors, place)
    work = evaluation_work(task.cost(model), batches.num_samples, batches.steps_per_epoch)
    session.journal.ledger.add(meter.cost(work))
    return removed


@torch.no_grad()
def _rescale_(reader: nn.Module, factors: Tensor, place_of_input: Tensor) -> None:
    """Fold the units' factors into the weights that read them."""
    weight = reader.weight
    assert isinstance(weight, Tensor)
    by_input = torch.where(place_of_input >= 0, factors[place_of_input.clamp_min(0)], 1.0).to(weight)
    weight.mul_(by_input.view(1, -1, *[1] * (weight.dim() - 2)))


def _cut(method: ThiNet, task: Task, model: nn.Module, reader: str, removed: Tensor) -> nn.Module:
    """The network without the removed units of one layer, which has its full width still."""
    groups = task.groups(model, method.policy)
    layer = ReadLayer(reader, groups.reader_unit_of[reader])
    keep = torch.ones(groups.num_units, dtype=torch.bool)
    keep[layer.units[removed]] = False
    small = slim(model, groups.mask_of(keep), task.example_input(), groups)
    return task.session.compute.place(small)


def _finetune(
    method: ThiNet, task: Task, model: nn.Module, done: int, keep: Tensor, resume: dict[str, Any] | None
) -> None:
    """Train a little at a constant rate, on batches that come after those of the schedule."""
    if not method.finetune_steps:
        return
    settings = dataclasses.replace(task.session.settings, lr=method.finetune_lr, schedule="constant", warmup=0.0)
    session = dataclasses.replace(task.session, settings=settings)
    end = session.total_steps + done * method.finetune_steps
    span = Span("search", end - method.finetune_steps, end)
    fit(session, model, span, task.cost(model), carry={"layers_done": done, "keep": keep.clone()}, resume=resume)


def _flags(method: ThiNet, task: Task, layers: list[ReadLayer]) -> tuple[str, ...]:
    images = min(method.images_per_class * task.classes, task.session.train.num_samples)
    samples = images * method.locations
    widest = max(len(layer.units) for layer in layers)
    if samples >= widest:
        return ()
    return (f"{samples} samples for layers of up to {widest} channels: the least squares have many solutions",)
