"""`fit`: the one training loop, for every phase of every method; its learning rate, a pure function of the step.

It reads top to bottom: a batch, a step (`training/step.py`: forward, backward, the method touches the gradients, the
optimizer), the method looks; at the end of an epoch a row of metrics and a checkpoint. Everything the loop depends on
is in the checkpoint, and data order is a pure function of (seed, epoch, index): a run killed at any step ends with the
same bits as one that was left alone.
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

from torch import Tensor, nn

from earlybird.cost import ModelCost
from earlybird.settings.run import TrainingSettings
from earlybird.training.compute import SMALLER_STEPS, explain_out_of_memory
from earlybird.training.session import Session
from earlybird.training.state import FitState, Hooks, Span


def fit(
    session: Session,
    model: nn.Module,
    span: Span,
    cost: ModelCost,
    *,
    hooks: Hooks | None = None,
    carry: dict[str, Any] | None = None,
    momentum: dict[str, Tensor] | None = None,
    resume: dict[str, Any] | None = None,
) -> int:
    """Train `model` in place over a span of steps, or until a hook ends the phase.

    Args:
        model: the network, placed on the session's device; it ends with the average of its weights where the settings
            ask for one and the phase hands it on (`Hooks.hands_on_average`).
        span: phase and steps; the steps decide data order and learning rate.
        cost: of one image in this network, for the ledger.
        carry: more values for every checkpoint of this phase.
        momentum: parameter name -> momentum to start with.
        resume: a checkpoint of this phase to go on from.

    Returns:
        Steps done: `span.end_step`, or less where a hook ended the phase.

    Raises:
        NonFiniteError: the loss became NaN or infinite; the message names the step.
        OutOfMemoryError: a step found too little memory; the last checkpoint is intact.
        Terminated: a signal asked to stop; the state is saved.
    """
    state = FitState(session, model, span, cost, hooks or Hooks(), carry or {})
    with state.meter, session.compute.float32_rules(), closing(state.train_step):
        state.start(resume, momentum or {})
        model.train()
        while not state.is_over():
            epoch, done = divmod(state.step, session.steps_per_epoch)
            for x, y in session.train.epoch(epoch, done):
                with explain_out_of_memory(f"at step {state.step} of phase '{span.phase}'", SMALLER_STEPS):
                    _train_step(state, x, y)
                _close_step(state)
                if state.is_over():
                    break
        state.hand_on_average()
    if state.train_step.kind != session.compute.step:
        session.eager_phases.append(span.phase)
    session.journal.ledger.add(state.phase_cost())
    return state.step


def _close_step(state: FitState) -> None:
    """Close the epoch where it ends, save where a checkpoint is due, and stop where a signal asked for it."""
    if state.is_over() or state.step % state.session.steps_per_epoch == 0:
        state.close_epoch()
    else:
        state.hooks.settle(state)
        every = state.session.settings.checkpoint_every
        if (every and state.step % every == 0) or state.session.stop.signal_number is not None:
            state.save()
    if not state.ended:  # An early end is not saved: a signal waits for the next phase's first checkpoint.
        state.session.stop.raise_if_set()


def _train_step(state: FitState, x: Tensor, y: Tensor) -> None:
    session = state.session
    state.lr = _rate_within(state.span, state.step, state.schedule_steps, session.settings)
    state.train_step(state.at_its_side(x), y, state.step, state.lr)
    state.step += 1
    state.steps_done += 1
    state.images += len(y)
    state.sums.seen += len(y)
    state.ended = state.hooks.after_step(state)
    if state.average is not None:  # After what the hooks do to the weights, and so outside of any graph.
        state.average.update()
    if session.progress.due():
        session.progress.step(state.span.phase, state.step, *state.sums.means(), state.hooks.note())


def _rate_within(span: Span, step: int, schedule_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of a step of a stretch: the schedule's, but for the stretch's own warm-up."""
    if (done := step - span.start_step) >= span.warm_up_steps:
        return learning_rate(step, schedule_steps, settings)
    top = learning_rate(span.start_step + span.warm_up_steps, schedule_steps, settings)
    return top * (done + 1) / span.warm_up_steps


def learning_rate(step: int, total_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of optimizer step `step` (0-based) of `total_steps`.

    "step" multiplies by `lr_decay` once the completed fraction reaches each milestone: with T = 160 and (0.5, 0.75) the
    drops come with epochs 80 and 120, the paper's [80, 120]. "cosine" and "linear" fall to zero over the steps
    after the warm-up.

    Example:
        >>> learning_rate(50, 100, TrainingSettings(lr=0.1))
        0.01
    """
    done = step / total_steps
    if settings.warmup and done < settings.warmup:
        return settings.lr * (step + 1) / first_step_at(settings.warmup, total_steps)
    if settings.schedule == "step":
        drops = sum(done >= milestone for milestone in settings.milestones)
        # 0.1 * 0.1 is to print as 0.01, not as 0.010000000000000002.
        return float(f"{settings.lr * settings.lr_decay**drops:.12g}")
    after = (done - settings.warmup) / (1.0 - settings.warmup)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * after))
    return settings.lr * (1.0 - after) if settings.schedule == "linear" else settings.lr


def drop_steps(total_steps: int, settings: TrainingSettings) -> list[int]:
    """The steps at which "step" lowers the learning rate; empty for the other schedules."""
    milestones = settings.milestones if settings.schedule == "step" else ()
    return [first_step_at(milestone, total_steps) for milestone in milestones]


def first_step_at(fraction: float, total_steps: int) -> int:
    """The first step that has completed this fraction: 0.55 of 100 is step 55, though 0.55 * 100 is a bit above it."""
    step = math.ceil(fraction * total_steps)
    return step - 1 if (step - 1) / total_steps >= fraction else step
