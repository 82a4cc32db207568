"""`FitState`: everything of a phase that changes from step to step; what `save` writes is what `start` reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.cost import ModelCost, PhaseCost, PhaseMeter
from earlybird.errors import NonFiniteError
from earlybird.training.evaluate import evaluate
from earlybird.training.hooks import Hooks
from earlybird.training.session import Session
from earlybird.training.settings import TrainingSettings


@dataclass(frozen=True)
class Span:
    """A stretch of a run: its phase's name, and the global steps at which it starts and ends."""

    phase: str
    start_step: int
    end_step: int


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    """The paper's optimizer: SGD with momentum, weight decay on all parameters."""
    return torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, foreach=True
    )


class EpochSums:
    """Loss, hits and the first bad step of the epoch so far, kept on the device until somebody looks."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.seen = 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor, step: int) -> None:
        """Count one (micro-)batch."""
        self.loss += loss.double() * len(y)
        self.correct += (logits.argmax(dim=1) == y).sum()
        self.seen += len(y)
        self.bad_step = torch.where((self.bad_step < 0) & ~torch.isfinite(loss), step, self.bad_step)

    def means(self) -> tuple[float, float]:
        """Mean loss in nats and accuracy in [0, 1]."""
        return float(self.loss) / max(1, self.seen), int(self.correct) / max(1, self.seen)

    def raise_if_not_finite(self, phase: str) -> None:
        """Raise `NonFiniteError` if a loss since the last look was NaN or infinite."""
        bad = int(self.bad_step)
        if bad >= 0:
            raise NonFiniteError(
                f"the loss became NaN or infinite at step {bad} of phase '{phase}'; lower --lr, "
                "add --training.warmup 0.05 or --training.clip_norm 1; the last checkpoint is intact"
            )


class FitState:
    """Everything of a phase that changes from step to step; what `save` writes is what `start` reads."""

    def __init__(
        self, session: Session, model: nn.Module, span: Span, cost: ModelCost, hooks: Hooks, carry: dict[str, Any]
    ) -> None:
        self.session, self.model, self.span = session, model, span
        self.cost, self.hooks, self.carry = cost, hooks, carry
        self.optimizer = make_optimizer(model, session.settings)
        self.sums = EpochSums(session.compute.device)
        self.meter = PhaseMeter(span.phase, session.compute.device)
        self.step, self.images, self.ended = span.start_step, 0, False

    def start(self, resume: dict[str, Any] | None) -> None:
        """Begin the phase, or take it up where a checkpoint left it."""
        if resume is None:
            torch.manual_seed(self.session.settings.seed)  # dropout and the like
            self.save()
        else:
            self.step = resume["step"]
            self.model.load_state_dict(resume["model"])
            self.optimizer.load_state_dict(resume["optimizer"])
            self.hooks.load_state_dict(resume["hooks"])
            self.session.journal.load_state_dict(resume["journal"])
            self.sums.loss.fill_(resume["loss_sum"])
            self.sums.correct.fill_(resume["correct"])
            self.sums.seen = resume["seen"]
            _set_random_state(resume["random_state"])
        self.session.progress.start(self.step)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        self.sums.raise_if_not_finite(self.span.phase)
        self.session.checkpoints.save(
            {
                "phase": self.span.phase,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "hooks": self.hooks.state_dict(),
                "journal": self.journal_so_far(),
                "loss_sum": float(self.sums.loss),
                "correct": int(self.sums.correct),
                "seen": self.sums.seen,
                "random_state": _random_state(),
                **self.carry,
            }
        )

    def close_epoch(self) -> None:
        """Validate, add the row of metrics, write the checkpoint."""
        session, (loss, accuracy) = self.session, self.sums.means()
        self.sums.raise_if_not_finite(self.span.phase)
        val = evaluate(self.model, session.val, session.compute) if session.val is not None else None
        row = {
            "phase": self.span.phase,
            "epoch": self.step / session.steps_per_epoch,
            "step": self.step,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "val_accuracy": val.accuracy if val else None,
            "lr": self.optimizer.param_groups[0]["lr"],
            "wall_seconds": session.journal.ledger.total().wall_seconds + self.phase_cost().wall_seconds,
        }
        session.journal.add_row(row)
        session.progress.epoch(self.span.phase, self.step, loss, accuracy, self.hooks.note())
        self.sums = EpochSums(session.compute.device)
        if not self.ended:  # An ended phase is about to be replaced by the next one's first checkpoint.
            self.save()

    def checkpoint_is_due(self) -> bool:
        """Has `checkpoint_every` come round?"""
        every = self.session.settings.checkpoint_every
        return bool(every) and self.step % every == 0

    def phase_cost(self) -> PhaseCost:
        """What this phase has cost since it was (re)started."""
        images = self.images
        return self.meter.cost(
            images=images, macs=images * self.cost.train_macs, paper_flops=3.0 * images * self.cost.paper_flops
        )

    def journal_so_far(self) -> dict[str, Any]:
        """The journal's state with this phase's cost up to now."""
        state = self.session.journal.state_dict()
        return state | {"ledger": [*state["ledger"], asdict(self.phase_cost())]}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
