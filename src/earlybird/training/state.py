"""`FitState`: the part of a phase that changes from step to step; `Hooks`: the moments at which a method sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.cost import ModelCost, PhaseCost, count_cost_and_traffic, evaluation_work, training_work
from earlybird.errors import CheckpointError, EarlyBirdError, NonFiniteError, first_line
from earlybird.training.average import WeightAverage
from earlybird.training.checkpoint import changed_checkpoint, whole_number
from earlybird.training.compute import evaluate, not_finite
from earlybird.training.low_resolution import smaller
from earlybird.training.session import Session
from earlybird.training.step import LOSS_CURE, STEPS, EpochSums, StepParts, make_optimizer


@dataclass(frozen=True)
class Span:
    """Stretch of a run: its phase's name, and the global steps at which it starts and ends.

    `schedule_steps` is the length of its learning-rate schedule; None for the session's own. Over the first
    `warm_up_steps` of the stretch the learning rate rises linearly to the schedule's.
    """

    phase: str
    start_step: int
    end_step: int
    schedule_steps: int | None = None
    warm_up_steps: int = 0


class Hooks:
    """Moments at which a method looks into the training loop; as they stand, plain training."""

    def at_start(self, state: FitState) -> bool:
        """Called where the phase begins, not where one is resumed; True ends it before its first step."""
        return False

    def strengths(self, step: int) -> tuple[float, ...]:
        """Numbers that `change_gradients` takes at global step `step`, such as a penalty's; as many at every step."""
        return ()

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """Called with the gradients, which may be changed in place. A captured step records it and replays it.

        So it reads no tensor's value on the host, and does the same operations at every step.

        strengths: those of the step; in a captured step tensors [], which are new at each replay.
        """

    def tensors(self) -> Sequence[Tensor]:
        """Tensors beside the gradients that `change_gradients` changes in place; recording a step restores them."""
        return ()

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Called with the gradients of global step `step` (0-based), which may be changed.

        A subclass that overrides this, not `change_gradients`, may do anything here, and its steps run eager.
        """
        self.change_gradients(model, self.strengths(step))

    def is_capturable(self) -> bool:
        """True if `change_gradients` is all that a step asks of these hooks between backward and optimizer."""
        return type(self).after_backward is Hooks.after_backward

    def after_step(self, state: FitState) -> bool:
        """Called after `state.step` steps; True ends the phase here. Weights may be changed, nothing else."""
        return False

    def settle(self, state: FitState) -> None:
        """Called after `after_step`, and at an epoch's end after its row of metrics, before anything is saved."""

    def hands_on_average(self, phase: str) -> bool:
        """True if the phase hands on the average of its weights, where the run keeps one, and not the weights.

        What is handed on is what is validated. A search hands on the trained weights: its masks are drawn from them.
        """
        return phase != "search"

    def note(self) -> str:
        """A few words for the progress line."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; these hooks have none to restore.

        Raises:
            CheckpointError: the state is of other hooks.
        """
        if state:
            raise changed_checkpoint("it holds the state of another method's hooks")


class FitState:
    """State of a phase, changing from step to step; `start` reads what `save` writes."""

    def __init__(
        self, session: Session, model: nn.Module, span: Span, cost: ModelCost, hooks: Hooks, carry: dict[str, Any]
    ) -> None:
        self.session, self.model, self.span, self.cost = session, model, span, cost
        self.hooks, self.carry = hooks, carry
        self._infinite_by_design = set(not_finite(model))  # as a buffer that masks an attention
        settings, compute, full_batch = (
            session.settings,
            session.compute,
            min(session.train.batch_size, session.train.num_samples),
        )
        self.optimizer = make_optimizer(model, settings, compute.step)
        self.sums = EpochSums(compute.device)
        parts = StepParts(model, self.optimizer, hooks, self.sums, settings, compute, span.phase, full_batch)
        self.train_step = STEPS[compute.step](parts)
        self.average: WeightAverage | None = None
        self.lr = settings.lr  # of the newest step
        self.meter = session.meter(span.phase)
        self.schedule_steps = session.total_steps if span.schedule_steps is None else span.schedule_steps
        self.step, self.steps_done, self.images, self.ended = span.start_step, 0, 0, False
        self.val_images, self.val_batches = 0, 0
        # Of these images and steps, those at the smaller side, and what such an image costs.
        self.small_images, self.small_steps = 0, 0
        self._small_cost: ModelCost | None = None

    def at_its_side(self, x: Tensor) -> Tensor:
        """A batch `[n, c, h, w]` at the side of this step: smaller in the schedule's first part, if settings say so.

        Images that are made smaller are counted as such.
        """
        if self.step / self.schedule_steps >= self.session.settings.low_resolution:
            return x
        x = smaller(x)
        if self._small_cost is None:
            with torch.random.fork_rng(devices=[]):  # A resumed run counts at another step.
                shape = (x.shape[1], x.shape[2], x.shape[3])
                self._small_cost = count_cost_and_traffic(self.model, shape, self.session.compute.precision)
        self.small_images += len(x)
        self.small_steps += 1
        return x

    def start(self, resume: dict[str, Any] | None, momentum: dict[str, Tensor]) -> None:
        """Begin the phase with `momentum` and save its first checkpoint, or resume a checkpoint of it.

        Raises:
            CheckpointError: the checkpoint is of another network, or was changed.
        """
        if resume is None:
            torch.manual_seed(self.session.settings.seed)  # dropout and the like
            for name, buffer in momentum.items():
                parameter = self.model.get_parameter(name)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter, copy=True)
            self.ended = self.hooks.at_start(self)
            self.hooks.settle(self)
            self.average = self._new_average()
            if not self.ended:
                self.save()
        else:
            self._resume(resume)
        self.session.progress.start(self.step, self.span.end_step)

    def _resume(self, resume: dict[str, Any]) -> None:
        try:
            if resume["phase"] != self.span.phase:
                raise ValueError(f"its phase is {resume['phase']!r:.80}, not {self.span.phase!r}")
            self.step = whole_number(resume, "step", self.span.start_step, self.span.end_step)
            self._resume_weights(resume["model"])
            self._resume_momentum(resume)
            self.hooks.load_state_dict(resume["hooks"])
            self._resume_average(resume)
            self.session.journal.load_state_dict(resume["journal"])
            self.sums.seen = whole_number(resume, "seen", 0, self.session.train.num_samples)
            self.sums.correct.fill_(whole_number(resume, "correct", 0, self.sums.seen))
            if not 0 <= resume["loss_sum"] < math.inf:
                raise ValueError(f"its loss_sum is {resume['loss_sum']!r:.80}")
            self.sums.loss.fill_(resume["loss_sum"])
            _set_random_state(resume["random_state"])
        except EarlyBirdError:
            raise
        except Exception as error:  # One that was changed and sealed again may hold anything.
            raise CheckpointError(
                f"the checkpoint in {self.session.checkpoints.folder} is of another network than this configuration's, "
                f"or was changed ({first_line(error)}); give the settings it was made with, or another --out"
            ) from error

    def _resume_weights(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)
        for name, own in (*self.model.named_parameters(), *self.model.named_buffers()):
            if weights.get(name, own).dtype != own.dtype:  # which loading would cast
                raise ValueError(f"{name} is {weights[name].dtype}, not {own.dtype}")
        if broken := set(not_finite(self.model)) - self._infinite_by_design:
            raise ValueError(f"{min(broken)} is NaN or infinite")

    def _resume_momentum(self, resume: dict[str, Any]) -> None:
        """Take the momentum only: the settings are this configuration's, also where --force has changed them."""
        theirs, parameters = resume["optimizer"], list(self.model.parameters())
        for place, entry in theirs["state"].items():
            buffer, parameter = entry["momentum_buffer"], parameters[place]
            if buffer is not None and (buffer.shape, buffer.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(f"a momentum is {buffer.dtype} {list(buffer.shape)}, not {list(parameter.shape)}")
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": theirs["state"]})
        found = self.momentum()
        # Parameters without a gradient have none. Older checkpoints do not say which.
        needs_some = self.step > self.span.start_step and theirs["param_groups"][0]["momentum"]
        if (needs_some and not found) or list(found) != resume.get("with_momentum", list(found)):
            raise ValueError("a momentum is missing")
        if not all(buffer.isfinite().all() for buffer in found.values()):
            raise ValueError("a momentum is NaN or infinite")

    def _new_average(self) -> WeightAverage | None:
        decay = self.session.settings.ema
        return WeightAverage(self.model, decay) if decay and self.hooks.hands_on_average(self.span.phase) else None

    def _resume_average(self, resume: dict[str, Any]) -> None:
        self.average = self._new_average()
        if self.average is None:
            return
        if "average" not in resume:
            told = f"the checkpoint in {self.session.checkpoints.folder} holds no average of the weights"
            raise CheckpointError(f"{told}: it was begun without training.ema; give --training.ema 0, or another --out")
        self.average.load_state_dict(resume["average"])

    def momentum(self) -> dict[str, Tensor]:
        """Parameter name -> the optimizer's momentum, where it has any."""
        buffers = {name: self.optimizer.state[p].get("momentum_buffer") for name, p in self.model.named_parameters()}
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            NonFiniteError: the loss or a weight is NaN or infinite; nothing is written.
        """
        self.sums.raise_if_not_finite(self.span.phase)
        self.raise_if_weights_not_finite()
        state = {
            "phase": self.span.phase,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer_state(),
            "with_momentum": list(self.momentum()),
            "hooks": self.hooks.state_dict(),
            "journal": self.journal_so_far(),
            "loss_sum": float(self.sums.loss),
            "correct": int(self.sums.correct),
            "seen": self.sums.seen,
            "random_state": _random_state(),
        }
        state |= {} if self.average is None else {"average": self.average.state_dict()}
        self.session.checkpoints.save(state | self.carry)

    def _optimizer_state(self) -> dict[str, Any]:
        """State of the optimizer with plain numbers, whatever form the step has."""
        state = self.optimizer.state_dict()
        return state | {"param_groups": [group | {"lr": float(group["lr"])} for group in state["param_groups"]]}

    def raise_if_weights_not_finite(self) -> None:
        """Raise if a weight or buffer is NaN or infinite: a step can break them while its loss is still fine.

        Raises:
            NonFiniteError: with the name of the first.
        """
        for name in not_finite(self.model):
            if name not in self._infinite_by_design:
                where = f"by step {self.step - 1} of phase '{self.span.phase}'"
                raise NonFiniteError(f"{name} became NaN or infinite {where}; {LOSS_CURE}")

    def close_epoch(self) -> None:
        """Add a row of metrics, with the validation accuracy where there is a split for it, and save.

        A phase that a hook has ended within an epoch is not validated: the epoch goes on in the next phase.

        Raises:
            NonFiniteError: the loss or a weight is NaN or infinite.
        """
        session, (loss, accuracy) = self.session, self.sums.means()
        self.sums.raise_if_not_finite(self.span.phase)
        self.raise_if_weights_not_finite()
        is_broken_off = self.ended and self.step % session.steps_per_epoch != 0
        val = None
        if session.val is not None and not is_broken_off:
            with self._validated():
                val = evaluate(self.model, session.val, session.compute)
        if val is not None and session.val is not None:
            self.val_images += val.samples
            self.val_batches += session.val.steps_per_epoch
        session.journal.add_row(self.row(val.accuracy if val else None))
        session.progress.epoch(self.span.phase, self.step, loss, accuracy, self.hooks.note())
        self.sums.reset()
        self.hooks.settle(self)
        if not self.ended:  # An ended phase is about to be replaced by the next one's first checkpoint.
            self.save()

    def _validated(self) -> AbstractContextManager[None]:
        """The weights that the phase hands on, in the network inside."""
        hands_on = self.average is not None and self.hooks.hands_on_average(self.span.phase)
        return self.average.in_place() if self.average is not None and hands_on else nullcontext()

    def hand_on_average(self) -> None:
        """Put the average in the place of the weights, where the phase hands it on; the phase is over."""
        if self.average is not None and self.hooks.hands_on_average(self.span.phase):
            self.average.store_()

    def row(self, val_accuracy: float | None) -> dict[str, Any]:
        """Metrics of the epoch so far."""
        session, (loss, accuracy) = self.session, self.sums.means()
        return {
            "phase": self.span.phase,
            "epoch": self.step / session.steps_per_epoch,
            "step": self.step,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "val_accuracy": val_accuracy,
            "lr": self.lr,
            "wall_seconds": session.journal.ledger.total().wall_seconds + self.phase_cost().wall_seconds,
        }

    def is_over(self) -> bool:
        """True once the last step of the phase is done, or a hook has ended it."""
        return self.ended or self.step >= self.span.end_step

    def phase_cost(self) -> PhaseCost:
        """Cost of the phase since it was begun or resumed; the paper does not charge validation."""
        trained = training_work(self.cost, self.images - self.small_images, self.steps_done - self.small_steps)
        if self._small_cost is not None:
            trained += training_work(self._small_cost, self.small_images, self.small_steps)
        return self.meter.cost(trained + evaluation_work(self.cost, self.val_images, self.val_batches))

    def broken_off_journal(self) -> dict[str, Any]:
        """The journal as it would be if the phase ended here: with a row for the epoch so far."""
        state = self.journal_so_far()
        return state | {"rows": [*state["rows"], self.row(None)]} if self.sums.seen else state

    def journal_so_far(self) -> dict[str, Any]:
        """The journal's state with this phase's cost up to now."""
        state = self.session.journal.state_dict()
        return state | {"ledger": [*state["ledger"], self.phase_cost().as_dict()]}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
