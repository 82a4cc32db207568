"""From a mask of single weights in the run folder to the candidate that is trained with it."""

from __future__ import annotations

from torch import nn

from earlybird.core import WeightMask, mask_weights_
from earlybird.methods.candidate import Candidate
from earlybird.methods.task import Task

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
    return Candidate(
        model,
        phase="retrain",
        start_step=start_step,
        end_step=task.session.total_steps,
        weight_mask=mask,
        flags=(f"no weight is left in {', '.join(empty)}",) if empty else (),
        notes={"prune_ratio": notes["prune_ratio"], "mask_step": notes["step"]},
    )
