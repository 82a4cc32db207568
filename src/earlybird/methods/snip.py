"""`snip`: before any training, keep the weights on which the loss depends most, and train them alone (Lee et al. 2019).

By weights, those with the highest sensitivity stay and the others are held at zero; by channels, a unit scores the sum
over its weights and the network is cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from earlybird.copying import copied, full_name
from earlybird.core import draw_mask, keep_largest, prunable_weights
from earlybird.core.criteria import per_filter, weighted_layers
from earlybird.core.drawing import scored_groups
from earlybird.cost import MASKED, MethodPlan, Schedule, Stage, training_work
from earlybird.errors import MethodError, require
from earlybird.methods.early_bird import refuse_nothing_to_cut
from earlybird.methods.retrain import WEIGHT_MASK_FILE, Retrain, cut, leave_ticket, ticket_in, weight_candidate
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import Snip
from earlybird.settings.method import settled
from earlybird.slimming import channel_groups
from earlybird.training.compute import SMALLER_STEPS, explain_out_of_memory


def check_network(method: Snip, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless there are weights, or channels, to remove."""
    if method.form == "channels":
        refuse_nothing_to_cut("filter_l1", model, channel_groups(model, example_input, method.policy))
    prunable_weights(model)


def search(method: Snip, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Score the first batches of the first epoch and leave the mask or ticket; it takes seconds: a kill repeats it."""
    session, model = task.session, task.build()
    _check_batches(method, session.steps_per_epoch)
    with session.meter("search") as meter, explain_out_of_memory("in SNIP's scoring", SMALLER_STEPS):
        batches = list(islice(session.train.epoch(0), method.batches))
        scores = sensitivities(model, batches, session.settings.micro_batches)
    images = sum(len(y) for _, y in batches)
    session.journal.ledger.add(meter.cost(training_work(task.cost(model), images, len(batches))))
    ratio = method.prune_ratio
    if method.form == "weights":
        keep_largest(scores, ratio).save(task.folder / WEIGHT_MASK_FILE, prune_ratio=ratio, step=0)
        return restore(method, task)
    groups, channels = task.groups(model, method.policy), channel_sums(model, scores)
    widths: dict[str, Any] = {"min_channels": method.min_channels, "round_to": settled(method.round_to)}
    leave_ticket(
        task, draw_mask(channels, ratio, groups, tie_score="sum", **widths), groups, model.state_dict(),
        scored=scored_groups(channels, groups), rule=method.name, prune_ratio=ratio, step=0, criterion="snip",
        tie_score="sum", **widths,
    )  # fmt: skip
    return restore(method, task)


def restore(method: Snip, task: Task) -> Candidate:
    """Rebuild the candidate from the mask or ticket in the run folder."""
    if method.form == "weights":
        return weight_candidate(task, task.build())
    return cut(task, ticket_in(task.folder), Retrain(weights="inherit", schedule="restart", policy=method.policy))


def plan(method: Snip, schedule: Schedule) -> MethodPlan:
    """The batches that score, then a whole training; the paper does not charge the former."""
    _check_batches(method, schedule.data.steps_per_epoch)
    scoring = Stage("search", "dense", method.batches, validation="none")
    network = "slim" if method.form == "channels" else "dense"
    training = Stage("retrain", network, schedule.total_steps)
    note = f"{'' if network == 'slim' else f'{MASKED}; '}the paper does not charge the batch that scores"
    return MethodPlan((scoring, training), network, charged=(training,), note=note)


def sensitivities(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], micro_batches: int = 1
) -> dict[str, Tensor]:
    """|w * dL/dw| of every conv and linear weight, divided by their sum: parameter name -> float32, on the CPU.

    L is the mean cross-entropy over all images, in float32 with the network in eval mode, so that several batches give
    what one large batch would (Lee et al. 2019, Section 4). Weights that an evaluation does not reach, as those of an
    auxiliary head, are not scored. The network is left as found.

    Args:
        batches: float32 `[b, c, h, w]` and int64 `[b]`.
        micro_batches: parts of each batch, to save memory; they change nothing.

    Raises:
        MethodError: there are no batches, or the loss depends on no weight.
        MaskError: the network has no conv and no linear layer.
    """
    model = copied(model).eval().requires_grad_(False)
    weights = {name: parameter.requires_grad_(True) for name, parameter in prunable_weights(model).items()}
    images = 0
    for x, y in batches:
        for x_part, y_part in zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True):
            functional.cross_entropy(model(x_part).double(), y_part, reduction="sum").backward()
        images += len(y)
    if not images:
        raise MethodError("SNIP was given no batch; give at least one")
    reached = [(name, w.detach(), w.grad) for name, w in weights.items() if w.grad is not None]
    # In double: products of small numbers vanish in float32.
    found = {name: (w.double() * grad.double() / images).abs().cpu() for name, w, grad in reached}
    total = sum(float(score.sum()) for score in found.values())
    if not total > 0:
        raise MethodError("the loss depends on no weight of this network as it is initialised: all sensitivities are 0")
    return {name: (score / total).float() for name, score in found.items()}


def _check_batches(method: Snip, most: int) -> None:
    require("method.batches", method.batches, method.batches <= most, f"an integer in [1, {most}]: an epoch has {most}")


def channel_sums(model: nn.Module, scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of weights added up over each output channel: conv or linear name -> float32 `[out channels]`."""
    layers = ((name, module, full_name(name, "weight")) for name, module, _ in weighted_layers(model))
    return {name: per_filter(module, scores[weight]) for name, module, weight in layers if weight in scores}
