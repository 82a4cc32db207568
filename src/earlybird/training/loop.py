"""`fit`: the one training loop, for every phase of every method.

It reads top to bottom: a batch, forward, backward, the method touches the gradients, a step, the method looks; at the
end of an epoch a row of metrics and a checkpoint. Everything the loop depends on is in the checkpoint, and data order
is a pure function of (seed, epoch, index): a run killed at any step ends with the same bits as one that was left alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from earlybird.cost import ModelCost
from earlybird.training.out_of_memory import SMALLER_STEPS, explain_out_of_memory
from earlybird.training.schedule import learning_rate
from earlybird.training.session import Session
from earlybird.training.state import FitState, Hooks, Span

# A GPU is asked only this often whether the loss is still finite, since asking waits for it; a CPU at every step.
_STEPS_BETWEEN_FINITE_CHECKS = 50


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
        model: the network, placed on the session's device.
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
    state.start(resume, momentum or {})
    model.train()
    with state.meter:
        while not state.is_over():
            epoch, done = divmod(state.step, session.steps_per_epoch)
            for x, y in session.train.epoch(epoch, done):
                with explain_out_of_memory(f"at step {state.step} of phase '{span.phase}'", SMALLER_STEPS):
                    _train_step(state, x, y)
                _close_step(state)
                if state.is_over():
                    break
    session.journal.ledger.add(state.phase_cost())
    return state.step


def _close_step(state: FitState) -> None:
    """Close the epoch where it ends, save where a checkpoint is due, and stop where a signal asked for it."""
    if state.is_over() or state.step % state.session.steps_per_epoch == 0:
        state.close_epoch()
    else:
        state.hooks.settle(state)
        if state.checkpoint_is_due() or state.session.stop.signal_number is not None:
            state.save()
    if not state.ended:  # An early end is not saved: a signal waits for the next phase's first checkpoint.
        state.session.stop.raise_if_set()


def _train_step(state: FitState, x: Tensor, y: Tensor) -> None:
    session, settings, model = state.session, state.session.settings, state.model
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, state.schedule_steps, settings)
    state.optimizer.zero_grad(set_to_none=True)
    for x_part, y_part in zip(x.chunk(settings.micro_batches), y.chunk(settings.micro_batches), strict=True):
        with session.compute.autocast():
            logits = model(x_part)
            loss = functional.cross_entropy(logits.float(), y_part, label_smoothing=settings.label_smoothing)
        # Weighted by size, so that the parts add up to the gradient of the mean over the whole batch.
        (loss * (len(y_part) / len(y))).backward()
        state.sums.add(loss.detach(), logits.detach(), y_part, state.step)
    state.hooks.after_backward(model, state.step)
    if settings.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    if session.compute.device.type == "cpu" or state.step % _STEPS_BETWEEN_FINITE_CHECKS == 0:
        state.sums.raise_if_not_finite(state.span.phase)
    state.optimizer.step()
    state.step += 1
    state.steps_done += 1
    state.images += len(y)
    state.ended = state.hooks.after_step(state)
    if session.progress.due():
        session.progress.step(state.span.phase, state.step, *state.sums.means(), state.hooks.note())
