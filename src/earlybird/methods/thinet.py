"""`thinet`: cut layer by layer, by what the next layer would miss least (Luo et al. 2017).

After the dense training, for each layer whose channels only one convolution or linear layer reads: that reader's
outputs are sampled, the channels whose joint contribution is smallest are chosen greedily, the weights of the others
are rescaled by least squares, the network is cut, and trained a little. Last, what is left is trained over the whole
schedule. In residual networks these are the layers inside a block, such as the first two of a bottleneck.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.core import ChannelGroups
from earlybird.core.drawing import nearest_count
from earlybird.cost import MethodPlan, ModelCost, Schedule, Stage, count_cost, count_cost_and_traffic, evaluation_work
from earlybird.errors import SlimError
from earlybird.methods.contributions import contributions, least_squares_weights, removed_greedily
from earlybird.methods.retrain import Retrain, cut, leave_ticket, ticket_in
from earlybird.methods.task import Candidate, DenseRun, Task
from earlybird.settings.catalog import ThiNet
from earlybird.settings.method import settled
from earlybird.slimming import channel_groups, expanded, kept_indices, slim
from earlybird.training.checkpoint import changed_checkpoint, whole_number
from earlybird.training.loop import fit
from earlybird.training.state import Span

# A plan counts the MACs of at most so many of the networks between dense and slim: each takes up to a second.
_MOST_COUNTED = 16
# The draws of samples must not repeat those of the run's initial weights.
_SEED_OFFSET = 3_000_017


def check_network(method: ThiNet, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless some layer has one reader whose outputs can be sampled."""
    prunable_layers(model, channel_groups(model, example_input, method.policy), example_input)


def search(method: ThiNet, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Train dense, then choose, cut and fine-tune layer by layer."""
    if resume is not None and "layers_done" in resume:
        cut_layers(method, task, None, resume)
    else:
        session, model = task.session, task.build()
        fit(session, model, Span("search", 0, session.total_steps), task.cost(model), resume=resume)
        cut_layers(method, task, model, None)
    return restore(method, task)


def restore(method: ThiNet, task: Task) -> Candidate:
    """Rebuild the candidate from the ticket in the run folder."""
    return cut(task, ticket_in(task.folder), Retrain(weights="inherit", schedule="restart", policy=method.policy))


def from_dense(method: ThiNet, task: Task, dense: DenseRun) -> Candidate:
    """Candidate, with the dense training taken from a finished run and charged."""
    cut_layers(method, task, dense.take_over(task), None)
    return restore(method, task)


def plan(method: ThiNet, schedule: Schedule) -> MethodPlan:
    """A dense training, sampling and fine-tuning layer by layer, a whole training of what is left.

    Its widths follow from the layers' alone, so its networks are its own; where the schedule has no network to cut,
    sampling and fine-tuning are left out. The paper charges the two trainings.
    """
    total, data = schedule.total_steps, schedule.data
    whole, current, networks = Stage("search", "dense", total), "dense", dict[str, ModelCost]()
    if schedule.network is None:
        return MethodPlan((whole, Stage("retrain", "slim", total)), "slim", note="without its fine-tuning")
    images = min(method.images_per_class * schedule.classes, data.train_images)
    stages = [whole]
    cuts = _planned_cuts(method, schedule.network, schedule.image_shape, schedule.precision)
    for number, cost in cuts.items():
        stages.append(Stage("search", current, scored_images=images))
        if cost is not None:
            current = f"{number} layers cut"
            # The traffic of the networks between is taken as the dense one's.
            is_last = cost.traffic is not None or cost.traffic_reason
            networks[current] = cost if is_last else dataclasses.replace(cost, traffic=schedule.dense.traffic)
        end = total + number * method.finetune_steps
        stages.append(Stage("search", current, end, end - method.finetune_steps))
    again = Stage("retrain", current, total)
    note = f"with {method.finetune_steps} fine-tuning steps after each of {len(cuts)} layers; the paper charges none"
    if len(networks) < len(cuts):
        note += f"; {len(networks)} of these networks are counted, those between cost as the one before"
    return MethodPlan((*stages, again), current, charged=(whole, again), note=note, networks=networks)


@lru_cache(maxsize=4)
def _planned_cuts(
    method: ThiNet, network: nn.Module, image_shape: tuple[int, int, int], precision: str
) -> dict[int, ModelCost | None]:
    """Number of a layer (1-based) that loses channels -> cost of the network after it, or None where not counted."""
    # Which channels go changes no width, so the first ones do.
    example = torch.zeros(2, *image_shape)
    groups = channel_groups(network, example, method.policy)
    layers, keep = prunable_layers(network, groups, example), torch.ones(groups.num_units, dtype=torch.bool)
    masks: dict[int, Tensor] = {}
    for number, layer in enumerate(layers, 1):
        alike, count = torch.zeros(1, len(layer.units), dtype=torch.float64), _count_to_remove(method, layer)
        removed = _removed_within_floors(method, alike, count, layer, groups, keep)
        if count and bool(removed.any()):
            keep[layer.units[removed]] = False
            masks[number] = keep.clone()
    every = -(-len(masks) // _MOST_COUNTED)
    counted = {number for place, number in enumerate(reversed(masks)) if place % every == 0}

    def cost(number: int) -> ModelCost:
        small = slim(network, groups.mask_of(masks[number]), example, groups, check=False)
        # Traffic takes twice as long to count, and is told of the last network alone.
        count = count_cost_and_traffic if number == max(masks) else count_cost
        return count(small, image_shape, precision)

    return {number: cost(number) if number in counted else None for number in masks}


def cut_layers(method: ThiNet, task: Task, dense: nn.Module | None, resume: dict[str, Any] | None) -> None:
    """Cut every layer that can be, and leave the ticket.

    Args:
        dense: the trained network; not needed where a checkpoint is taken up.
        resume: a checkpoint of the training after one of the layers.
    """
    shape = task.build()
    groups = task.groups(shape, method.policy)
    layers = prunable_layers(shape, groups, task.example_input())
    keep = torch.ones(groups.num_units, dtype=torch.bool)
    done, model = 0, dense
    if resume is not None:
        done, keep = whole_number(resume, "layers_done", 1, len(layers)), resume["keep"]
        if not isinstance(keep, Tensor) or (keep.dtype, keep.shape) != (torch.bool, (groups.num_units,)):
            raise changed_checkpoint(f"its 'keep' is no bool tensor [{groups.num_units}]")
        # Of the shape that is left; its weights are of no account.
        small = slim(shape, groups.mask_of(keep), task.example_input(), groups, check=False)
        model = task.session.compute.place(small)
        _finetune(method, task, model, done, keep, resume)
    assert model is not None
    for number in range(done, len(layers)):
        removed = _choose(method, task, model, layers[number], number, groups, keep)
        if bool(removed.any()):
            keep[layers[number].units[removed]] = False
            model = _cut(method, task, model, layers[number].reader, removed)
            _finetune(method, task, model, number + 1, keep, None)
    mask = groups.mask_of(keep)
    indices = kept_indices(shape, mask, task.example_input(), groups)
    trained = model.state_dict()
    weights = {name: expanded(trained[name], old.shape, indices[name]) for name, old in shape.state_dict().items()}
    images = min(method.images_per_class * task.classes, task.session.train.num_samples)
    samples, widest = images * method.locations, max(len(layer.units) for layer in layers)
    flag = f"{samples} samples for layers of up to {widest} channels: the least squares have many solutions"
    leave_ticket(
        task, mask, groups, weights, rule=method.name, prune_ratio=method.prune_ratio, step=task.session.total_steps,
        criterion="thinet", flags=() if samples >= widest else (flag,), min_channels=method.min_channels,
        round_to=settled(method.round_to),
    )  # fmt: skip


def kept_count(width: int, prune_ratio: float, min_channels: int = 1, round_to: int = 1) -> int:
    """Channels that stay of a layer: `int((1 - p) * width)`, within floor and rounding.

    Example:
        >>> kept_count(64, 0.3), kept_count(10, 0.9), kept_count(64, 0.3, round_to=8)
        (44, 1, 48)
    """
    # (1 - 0.9) * 10 is a bit below 1, which the floor must not see.
    return nearest_count(math.floor((1 - prune_ratio) * width + 1e-9), width, round_to, min_channels)


def _removed_within_floors(
    method: ThiNet, parts: Tensor, count: int, layer: ReadLayer, groups: ChannelGroups, keep: Tensor
) -> Tensor:
    """The layer's units to remove by their parts; each layer that makes or norms them keeps its least channels."""
    # Behind a concatenation a reader has units of several convolutions, of which one might lose all.
    layers_of = [groups.layers_of[unit] for unit in layer.units.tolist()]
    return removed_greedily(parts, count, layers_of, groups.channels_left(keep.numpy()) - method.min_channels)


def _count_to_remove(method: ThiNet, layer: ReadLayer) -> int:
    width = len(layer.units)
    return width - kept_count(width, method.prune_ratio, method.min_channels, settled(method.round_to))


def _choose(
    method: ThiNet, task: Task, model: nn.Module, layer: ReadLayer, number: int, groups: ChannelGroups, keep: Tensor
) -> Tensor:
    """The layer's units to remove, bool `[units]`; the reader's weights of the others are rescaled in place."""
    session, width, count = task.session, len(layer.units), _count_to_remove(method, layer)
    if not count:
        return torch.zeros(width, dtype=torch.bool)
    place = layer.place_of_input
    rng = torch.Generator().manual_seed(task.seed + _SEED_OFFSET + number)
    batches = task.sample(min(method.images_per_class * task.classes, session.train.num_samples))
    with session.meter("search") as meter:
        parts = contributions(model, layer.reader, place, batches.epoch(0), method.locations, rng)
        removed = _removed_within_floors(method, parts, count, layer, groups, keep)
        factors = torch.ones(width, dtype=torch.float64)
        factors[~removed] = least_squares_weights(parts, ~removed)
        weight = model.get_submodule(layer.reader).weight
        assert isinstance(weight, Tensor)
        by_input = torch.where(place >= 0, factors[place.clamp_min(0)], 1.0).to(weight)
        weight.detach().mul_(by_input.view(1, -1, *[1] * (weight.dim() - 2)))
    work = evaluation_work(task.cost(model), batches.num_samples, batches.steps_per_epoch)
    session.journal.ledger.add(meter.cost(work))
    return removed


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


@dataclass(frozen=True)
class ReadLayer:
    """A set of units that go or stay one by one, and what reads them.

    Attributes:
        reader: path of the conv or linear that sums over them.
        unit_of_input: int64 `[in channels]` of the reader: which unit each input belongs to, or -1 where it stays.
    """

    reader: str
    unit_of_input: Tensor

    @property
    def units(self) -> Tensor:
        """Int64 `[C]`: the units, ascending."""
        ascending: Tensor = torch.unique(self.unit_of_input[self.unit_of_input >= 0])
        return ascending

    @property
    def place_of_input(self) -> Tensor:
        """Int64 `[in channels]`: the place of each input's unit in `units`, or -1."""
        place = torch.searchsorted(self.units, self.unit_of_input.clamp_min(0))
        return torch.where(self.unit_of_input >= 0, place, -1)


@torch.no_grad()
def prunable_layers(model: nn.Module, groups: ChannelGroups, example_input: Tensor) -> list[ReadLayer]:
    """The layers that ThiNet can cut, in the order in which the network runs their readers.

    Args:
        model: the network; it is left as found.
        example_input: images to run it on in eval mode, as sampling does.

    Raises:
        SlimError: there is none; the message says why.
    """
    modules = dict(model.named_modules())
    readers = Counter(unit for units in groups.reader_unit_of.values() for unit in units[units >= 0].unique().tolist())
    evaluation, evaluated = copied(model).eval(), set[str]()
    for path, module in evaluation.named_modules():
        module.register_forward_pre_hook(lambda _, __, path=path: evaluated.add(path))
    evaluation(example_input)
    found, refused = [], []
    for name, units in groups.reader_unit_of.items():
        mine = units[units >= 0].unique().tolist()
        if not mine:
            continue
        if any(readers[unit] > 1 for unit in mine):
            refused.append(f"what {name!r} reads is read by another layer too")
        elif name not in evaluated:
            refused.append(f"{name!r} runs in training only")
        elif (why := _why_not_sampled(modules[name])) is not None:
            refused.append(f"{name!r} is {why}")
        else:
            found.append(ReadLayer(name, units))
    if not found:
        why = "; ".join(refused[:2]) or "no layer has channels that may go; `earlybird inspect` says why"
        raise SlimError(f"no layer has channels that one 2-d convolution or linear layer alone reads ({why})")
    return found


def _why_not_sampled(reader: nn.Module) -> str | None:
    if isinstance(reader, nn.Linear):
        return None
    if not isinstance(reader, nn.Conv2d):
        return f"a {type(reader).__name__}, whose outputs are not sampled here"
    return "a grouped convolution" if reader.groups > 1 else None
