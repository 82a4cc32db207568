"""Training with single weights held at zero: the candidate of a weight mask, and the hooks that hold it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from earlybird.core import WeightMask, bn_l1_subgradient_, mask_weights_
from earlybird.methods.candidate import Candidate
from earlybird.methods.task import Task
from earlybird.training.state import FitState, Hooks

WEIGHT_MASK_FILE = "weight-mask.safetensors"


def weight_candidate(task: Task, model: nn.Module, *, start_step: int = 0) -> Candidate:
    """`model` with the folder's weight mask applied and to be held, trained to the end of the schedule.

    Raises:
        TicketError: the folder has no intact weight mask.
        MaskError: the mask is of another network.
    """
    mask, notes = WeightMask.load(task.folder / WEIGHT_MASK_FILE)
    mask_weights_(model, mask)
    empty = [name for name, kept in mask.kept_counts().items() if kept == 0]
    flags = (f"no weight is left in {', '.join(empty)}",) if empty else ()
    told: dict[str, object] = {"prune_ratio": notes["prune_ratio"], "mask_step": notes["step"]}
    end = task.session.total_steps
    return Candidate(model, "retrain", start_step, end, weight_mask=mask, flags=flags, notes=told)


class HoldHooks(Hooks):
    """Penalises scales, and keeps removed weights exactly zero, through momentum and weight decay.

    Args:
        model: what is trained; removed weights are set to zero here.
        penalty: strength of the L1 penalty on BatchNorm scales; 0 for none.
        mask: single weights to hold at zero; None for none.

    Raises:
        MaskError: the mask is of another network.
    """

    def __init__(self, model: nn.Module, penalty: float = 0.0, mask: WeightMask | None = None) -> None:
        self.penalty = penalty
        self._removed: list[tuple[nn.Parameter, Tensor]] = []
        if mask is not None:
            mask_weights_(model, mask)
            parameters = dict(model.named_parameters())
            self._removed = [(parameters[name], ~mask[name].to(parameters[name].device)) for name in mask]

    def after_backward(self, model: nn.Module, step: int) -> None:
        """The subgradient of s * sum|gamma|; no gradient where a weight is removed."""
        if self.penalty:
            bn_l1_subgradient_(model, self.penalty)
        for parameter, removed in self._removed:
            if parameter.grad is not None:
                # Filled, not multiplied: 0 * inf is no zero.
                parameter.grad.masked_fill_(removed, 0)

    @torch.no_grad()
    def after_step(self, state: FitState) -> bool:
        """Zero what an optimizer with a memory of its own might have moved."""
        for parameter, removed in self._removed:
            parameter.masked_fill_(removed, 0)
        return False
