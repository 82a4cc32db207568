"""Hooks in the training loop: penalty, draws, tickets and the log of scores of a search; weights held at zero."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from earlybird.atomic import write_atomically
from earlybird.core import BNSaliency, EarlyBird, Ticket, WeightMask, bn_l1_proximal_, bn_l1_subgradient_, mask_weights_
from earlybird.errors import ConfigError, NonFiniteError, TicketError, is_number
from earlybird.settings.method import Clock, DrawAt, EarlyBirdTraining, TicketRequest
from earlybird.training.checkpoint import changed_checkpoint
from earlybird.training.loop import drop_steps
from earlybird.training.session import Session
from earlybird.training.state import FitState, Hooks

# Below these a mask says nothing of what was learnt (`docs/decisions.md`, "Detector"): the mean change of a score since
# the first draw, relative to the mean score; the way of the training accuracy from chance to 1.
_HARDLY_MOVED, _NEAR_CHANCE = 0.01, 0.1


@dataclass(eq=False)
class SearchHooks(Hooks):
    """Penalises, draws, and ends the phase when every ratio has its ticket.

    Attributes:
        max_steps: no draws and no penalty after this many steps.
        folder: tickets are saved here the moment they are drawn; a kill loses none.
        requests: the tickets to leave; the detector watches all their ratios.
    """

    method: EarlyBirdTraining
    detector: EarlyBird
    clock: Clock
    max_steps: int
    folder: Path
    requests: Sequence[TicketRequest]
    draw_steps: list[int] = field(default_factory=list)
    saved: list[TicketRequest] = field(default_factory=list)
    # What the search itself takes beside the training, as (wall, CPU); it is in the phase's seconds already.
    draw_seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _drawn: dict[TicketRequest, Ticket] = field(default_factory=dict)  # and not saved yet
    _scores: list[Tensor] = field(default_factory=list)
    _layer_widths: dict[str, int] = field(default_factory=dict)

    def at_start(self, state: FitState) -> bool:
        """Draw the tickets of draw 0, which see the initial weights."""
        self._draw_chosen(state, 0)
        return self.has_all_tickets()

    def strengths(self, step: int) -> tuple[float, ...]:
        """That of the subgradient."""
        is_on = self.method.penalty_form == "subgradient" and step < self.max_steps
        return (self.clock.penalty(self.method.penalty) if is_on else 0.0,)

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """Gradients of the loss alone for a score that gathers them, then the subgradient of s * sum|gamma|."""
        if isinstance(self.detector.criterion, BNSaliency):
            self.detector.criterion.update(model)
        _penalise_(model, strengths[0])

    def tensors(self) -> Sequence[Tensor]:
        """Means of a score that gathers."""
        return self.detector.criterion.tensors() if isinstance(self.detector.criterion, BNSaliency) else ()

    def after_step(self, state: FitState) -> bool:
        """Shrink (proximal form), and draw where the clock says so."""
        if state.step > self.max_steps:
            return False
        if self.method.penalty_form == "proximal":
            momentum = state.session.settings.momentum
            bn_l1_proximal_(state.model, self.clock.penalty(self.method.penalty), lr=state.lr, momentum=momentum)
        if self.method.weights == "rewind":
            keep_weights_of_epoch(state, self.folder, self.method.rewind_epoch)
        if self.clock.is_draw(state.step):
            self._draw(state)
        if state.step == self.max_steps:
            self._draw_chosen(state, "last")
            if self.method.on_no_ticket == "draw":
                self._draw_now(state, self.missing(), "forced")
            return self.has_all_tickets() or self.method.on_no_ticket == "error"
        return self.has_all_tickets()

    def settle(self, state: FitState) -> None:
        """Save what was drawn: after the epoch's row, so that a ticket is charged what a run that ends here is."""
        for request in list(self._drawn):
            self.save_ticket(self._drawn.pop(request), request, state)

    def has_all_tickets(self) -> bool:
        """True if every requested ticket is drawn."""
        return not self.missing()

    def hands_on_average(self, phase: str) -> bool:
        """Not to a cut; without a ticket this is a dense training, which hands on what one does."""
        return bool(self.missing())

    def missing(self) -> list[TicketRequest]:
        """The tickets that are still to be drawn."""
        return [request for request in self.requests if request not in self.saved and request not in self._drawn]

    def note(self) -> str:
        """The newest distance against epsilon, for each ratio."""
        newest = [distances[-1] for distances in self.detector.distances.values() if distances]
        if not newest:
            return ""
        return f"mask distance {'/'.join(f'{d:.3f}' for d in newest)} (eps {self.method.epsilon:g})"

    def save_ticket(self, ticket: Ticket, request: TicketRequest, state: FitState) -> None:
        """Write the ticket with everything a later retrain must know: where it stood and what it had cost.

        Raises:
            TicketError: the disk refused; the checkpoints are intact.
            NonFiniteError: a weight is NaN or infinite.
        """
        state.raise_if_weights_not_finite()
        journal, draw_seconds = state.broken_off_journal(), list(self.draw_seconds)
        drawn = ticket_notes(state.session, state.step, journal, self.draw_steps, draw_seconds=draw_seconds)
        notes = {"clock": self.clock.name, **drawn}
        forced = ("no mask was stable: drawn because the search was over",) if ticket.rule == "forced" else ()
        about_the_schedule = self._flags_about_the_schedule(state) if request.draw_at == "rule" else ()
        about_learning = self._flags_about_learning(state, journal["rows"])
        for flag in about_learning:
            state.session.progress.say(f"ticket p = {ticket.prune_ratio:g} at step {state.step}: {flag}")
        flags = (*ticket.flags, *forced, *about_the_schedule, *about_learning)
        path = self.folder / request.file_name(self.requests)
        try:
            if self.method.carry_momentum:  # Before the ticket: what finds a ticket finds its momentum.
                buffers = {name: buffer.cpu().contiguous() for name, buffer in state.momentum().items()}
                write_atomically(momentum_file(path), save(buffers))
            replace(ticket, notes=notes, flags=flags).save(path)
        except (OSError, SafetensorError) as error:
            told = f"ticket {path} could not be written ({getattr(error, 'strerror', error)})"
            raise TicketError(f"{told}; mend the disk and give the same command again") from error
        self.saved.append(request)

    def state_dict(self) -> dict[str, Any]:
        """Detector and log, and what a score has gathered."""
        criterion = self.detector.criterion
        gathered = {"saliency": criterion.state_dict()} if isinstance(criterion, BNSaliency) else {}
        return gathered | {
            "detector": self.detector.state_dict(),
            "draw_steps": list(self.draw_steps),
            "draw_seconds": list(self.draw_seconds),
            "requests": [[request.prune_ratio, request.draw_at] for request in self.requests],
            "saved": [[request.prune_ratio, request.draw_at] for request in self.saved],
            "scores": torch.stack(self._scores) if self._scores else torch.zeros(0),
            "layer_widths": dict(self._layer_widths),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            ConfigError: the search was begun for other tickets.
            CheckpointError: the state is of other hooks, or was changed.
        """
        theirs = [TicketRequest(*request) for request in state.get("requests", [])] or list(self.requests)
        if theirs != list(self.requests):
            names = ", ".join(f"p = {request.prune_ratio:g} at {request.draw_at}" for request in theirs)
            raise ConfigError(f"{self.folder} holds a search that was begun for {names}; give these, or another --out")
        self.detector.load_state_dict(state["detector"])
        self.draw_steps = list(state["draw_steps"])
        self.draw_seconds = list(state.get("draw_seconds", (0.0, 0.0)))  # older checkpoints did not count them
        # Of a checkpoint from when the stop rule alone could draw.
        older = [[ratio, "rule"] for ratio in (*state["detector"]["fired"], *state.get("forced", []))]
        self.saved = [TicketRequest(ratio, draw_at) for ratio, draw_at in state.get("saved", older)]
        self._scores = list(state["scores"])
        self._layer_widths = dict(state["layer_widths"])
        if isinstance(self.detector.criterion, BNSaliency):
            self.detector.criterion.load_state_dict(state["saliency"])
        self._refuse_what_does_not_fit()

    def _refuse_what_does_not_fit(self) -> None:
        width, times = sum(self._layer_widths.values()), self.draw_seconds
        saved = [self.folder / request.file_name(self.requests) for request in self.saved]
        if len(self.draw_steps) != self.detector.draws or self.draw_steps != sorted(set(self.draw_steps)):
            raise changed_checkpoint(f"its draws are {self.draw_steps!r:.80}, and {self.detector.draws} were counted")
        if [score.shape for score in self._scores] != [(width,)] * self.detector.draws:
            raise changed_checkpoint(f"its scores are not of {self.detector.draws} draws and {width} channels")
        if len(times) != 2 or not all(is_number(seconds) and 0 <= seconds < math.inf for seconds in times):
            raise changed_checkpoint(f"its draw_seconds are {times!r:.80}")
        if missing := [path.name for path in saved if not path.is_file()]:
            raise changed_checkpoint(f"it says that {missing[0]} is drawn, which is not in {self.folder}")

    def save_scores(self) -> None:
        """Write `scales.npz`: per layer the scores `[draws, channels]`, float32, and `steps` `[draws]`."""
        scores = torch.stack(self._scores).split([*self._layer_widths.values()], dim=1) if self._scores else ()
        buffer = io.BytesIO()
        np.savez(buffer, steps=np.asarray(self.draw_steps), **dict(zip(self._layer_widths, scores, strict=True)))
        write_atomically(self.folder / "scales.npz", buffer.getvalue())

    def _draw(self, state: FitState) -> None:
        draws, fired = self.detector.draws, set(self.detector.fired)
        wall, cpu = time.perf_counter(), time.process_time()
        with _naming_the_step(state):
            self.detector.update(state.model)
        if self.detector.draws > draws:
            scores = self.detector.last_scores or {}
            self.draw_steps.append(state.step)
            self._layer_widths = {name: score.numel() for name, score in scores.items()}
            self._scores.append(torch.cat(list(scores.values())))
        self.draw_seconds[0] += time.perf_counter() - wall
        self.draw_seconds[1] += time.process_time() - cpu
        for ratio in set(self.detector.fired) - fired:
            ticket = self.detector.tickets.pop(ratio)  # A file now; its weights need no memory.
            if (request := TicketRequest(ratio)) in self.requests:
                self._drawn[request] = ticket
        if self.detector.draws > draws:
            self._draw_chosen(state, self.detector.draws)

    def _draw_chosen(self, state: FitState, draw_at: DrawAt) -> None:
        self._draw_now(state, [request for request in self.missing() if request.draw_at == draw_at], "chosen")

    def _draw_now(self, state: FitState, requests: Sequence[TicketRequest], rule: str) -> None:
        """Draw tickets, ignoring the stop rule; they are saved where the step settles."""
        for request in requests:
            with _naming_the_step(state):
                self._drawn[request] = self.detector.draw(state.model, request.prune_ratio, rule=rule)

    def _flags_about_the_schedule(self, state: FitState) -> tuple[str, ...]:
        drops = [s for s in drop_steps(self.clock.total_steps, state.session.settings) if s <= state.step]
        since = sum(step > drops[-1] for step in self.draw_steps) if drops else math.inf
        if since > self.method.window:
            return ()
        return (f"drawn {since} draws after a learning-rate drop, which freezes masks by itself",)

    def _flags_about_learning(self, state: FitState, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Signs of a network that has not learnt, whose masks are alike by themselves."""
        flags = []
        if len(self._scores) > 1:
            first, newest = self._scores[0], self._scores[-1]
            moved = float((newest - first).abs().mean() / first.abs().mean())
            if moved < _HARDLY_MOVED:
                flags.append(f"channel scores have hardly moved since the first draw ({100 * moved:.2g} %)")
        return (*flags, *near_chance(state.session, rows, "when drawn"))


def near_chance(session: Session, rows: Sequence[Mapping[str, Any]], when: str) -> tuple[str, ...]:
    """A flag if the training accuracy of the last row of metrics tells of nothing learnt; none without rows."""
    accuracy, chance = rows[-1]["train_accuracy"] if rows else 1.0, session.train.chance  # 1: labels all the same.
    if not rows or (accuracy >= chance + _NEAR_CHANCE * (1 - chance) and chance < 1):
        return ()
    return (f"training accuracy near chance {when} ({100 * accuracy:.0f} %, chance {100 * chance:.0f} %)",)


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

    def strengths(self, step: int) -> tuple[float, ...]:
        """That of the penalty."""
        return (self.penalty,)

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """The subgradient of s * sum|gamma|; no gradient where a weight is removed."""
        if self.penalty:
            _penalise_(model, strengths[0])
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


def _penalise_(model: nn.Module, strength: float | Tensor) -> None:
    """Add the subgradient; a number 0 adds nothing, which a tensor is not asked."""
    if isinstance(strength, Tensor) or strength:
        bn_l1_subgradient_(model, strength)


def keep_weights_of_epoch(state: FitState, folder: Path, epoch: int) -> None:
    """Write the network's weights into the run folder if `epoch` epochs are done just now."""
    if state.step == epoch * state.session.steps_per_epoch:
        tensors = state.model.state_dict()
        weights = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        write_atomically(rewind_file(folder, epoch), save(weights))


def ticket_notes(
    session: Session, step: int, journal: dict[str, Any], draw_steps: Sequence[int] = (), **drawn: object
) -> dict[str, Any]:
    """Notes of a ticket on the training that it was drawn from: its step in the schedule and its recorded cost."""
    return {
        "step": step,
        "steps_per_epoch": session.steps_per_epoch,
        "total_steps": session.total_steps,
        "draw_steps": list(draw_steps),
        **drawn,
        "seed": session.settings.seed,
        "journal": journal,
    }


def rewind_file(folder: Path, epoch: int) -> Path:
    """File of the weights of the rewind epoch; the epoch is in the name, so that no other's are taken for them."""
    return folder / f"rewind-e{epoch}.safetensors"


def momentum_file(ticket: Path) -> Path:
    """File of the momentum of a ticket's moment, beside the ticket."""
    return ticket.with_suffix(".momentum.safetensors")


@contextmanager
def _naming_the_step(state: FitState) -> Iterator[None]:
    """A score that is no number is found where nobody counts steps; say at which it was."""
    try:
        yield
    except NonFiniteError as error:
        where = f"at step {state.step - 1} of phase '{state.span.phase}'"
        raise NonFiniteError(f"{where}: {error}; the last checkpoint is intact") from error
