"""Accuracy and loss on a split: total correct over total samples, never a mean of batch means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from earlybird.data import Batches
from earlybird.training.compute import Compute
from earlybird.training.out_of_memory import SMALLER_EVALUATION, explain_out_of_memory

_TOP5_FROM_CLASSES = 10


@dataclass(frozen=True)
class Evaluation:
    """Result on one split; accuracies in [0, 1], loss is the mean cross-entropy in nats."""

    accuracy: float
    top5_accuracy: float | None
    loss: float
    correct: int
    samples: int


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Batches, compute: Compute, between_batches: Callable[[], None] | None = None
) -> Evaluation:
    """Run the whole split through the model in eval mode; its mode is restored.

    `top5_accuracy` is given from more than 10 classes on. `between_batches` may raise to stop.
    """
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=compute.device)
    top5, loss_sum, classes = correct.clone(), torch.zeros((), dtype=torch.float64, device=compute.device), 0
    try:
        for x, y in batches.epoch(0):
            with explain_out_of_memory("in an evaluation", SMALLER_EVALUATION):
                with compute.autocast():
                    logits = model(x)
                logits, classes = logits.float(), logits.shape[1]
                loss_sum += functional.cross_entropy(logits, y, reduction="sum").double()
            correct += (logits.argmax(dim=1) == y).sum()
            if classes > _TOP5_FROM_CLASSES:
                top5 += (logits.topk(5, dim=1).indices == y[:, None]).any(dim=1).sum()
            if between_batches:
                between_batches()
    finally:
        model.train(was_training)
    n = batches.num_samples
    return Evaluation(
        accuracy=int(correct) / n,
        top5_accuracy=int(top5) / n if classes > _TOP5_FROM_CLASSES else None,
        loss=float(loss_sum) / n,
        correct=int(correct),
        samples=n,
    )
