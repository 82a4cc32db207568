"""The training step of a phase: forward, loss, backward, the hooks' share, clipping and optimizer, in three forms.

`EagerStep` runs one operation after the other. `CapturedStep` records them once a phase as a CUDA graph and replays it:
small networks are bound by the launching of kernels, which a graph does in one call. `CompiledStep` has forward and
loss compiled. Which one a run takes is settled once (`training/step_choice.py`); `docs/decisions.md`, "Training".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.copying import full_name, own_tensors
from earlybird.errors import ConfigError, NonFiniteError, first_line
from earlybird.settings.run import StepKind, TrainingSettings
from earlybird.training.compute import Compute
from earlybird.training.graphs import NumberOnDevice, graphs_of, untouched

if TYPE_CHECKING:
    from earlybird.training.state import Hooks

LOSS_CURE = "lower --lr, add --training.warmup 0.05 or --training.clip_norm 1; the last checkpoint is intact"
# A GPU is asked only this often whether the loss is still finite, since asking waits for it; a CPU at every step.
_STEPS_BETWEEN_FINITE_CHECKS = 50
# Of these the first also does what is done once, such as choosing algorithms, and may wait for the device.
_WARM_UP_STEPS = 3
# A replay whose update of the weights differs by more than this share from that of the same operations one by one is
# no rounding of another order: the network keeps something where a graph cannot see it change.
_SAME_UPDATE = 0.05
_ROUNDING = 1e-6  # of fp32 weights, some units in the last place

_State: TypeAlias = "tuple[list[Tensor], list[Tensor]]"


class EpochSums:
    """Loss, hits and first non-finite step of the epoch so far, kept on the device until they are read.

    The tensors stay the same ones: a captured step adds to them in place.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.seen = 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.loss.zero_()
        self.correct.zero_()
        self.bad_step.fill_(-1)
        self.seen = 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor, step: int | Tensor) -> None:
        """Add a batch, whose images are counted in `seen` elsewhere: `loss` [] is its mean, `logits` [b, classes]."""
        self.loss += loss.double() * len(y)
        self.correct += (logits.argmax(dim=1) == y).sum()
        self.bad_step.copy_(torch.where((self.bad_step < 0) & ~torch.isfinite(loss), step, self.bad_step))

    def means(self) -> tuple[float, float]:
        """Mean loss in nats and accuracy in [0, 1]."""
        return float(self.loss) / max(1, self.seen), int(self.correct) / max(1, self.seen)

    def raise_if_not_finite(self, phase: str) -> None:
        """Raise if a loss was NaN or infinite.

        Raises:
            NonFiniteError: with the step of the first.
        """
        if (bad := int(self.bad_step)) >= 0:
            raise NonFiniteError(f"the loss became NaN or infinite at step {bad} of phase '{phase}'; {LOSS_CURE}")


def make_optimizer(model: nn.Module, settings: TrainingSettings, step: StepKind = "eager") -> torch.optim.SGD:
    """The paper's optimizer: SGD with momentum, weight decay on all parameters; fused where it is to be captured."""
    form = {"fused": True} if step == "captured" else {"foreach": True}
    return torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay,
        nesterov=settings.nesterov, **form,
    )  # fmt: skip


@dataclass(frozen=True)
class StepParts:
    """Model, optimizer, hooks and settings that a step works on, in place.

    full_batch: images of a batch, but for an epoch's last.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    hooks: Hooks
    sums: EpochSums
    settings: TrainingSettings
    compute: Compute
    phase: str
    full_batch: int


class EagerStep:
    """A step, operation by operation."""

    kind: StepKind = "eager"  # the form in which it runs, which is eager where another failed

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts

    def __call__(self, x: Tensor, y: Tensor, step: int, lr: float) -> None:
        """Train on a batch, `x` `[b, c, h, w]` and `y` int64 `[b]`, as global step `step` (0-based).

        Raises:
            NonFiniteError: a loss was NaN or infinite, in this step or, on a GPU, up to 49 steps before.
        """
        parts = self.parts
        self._set_lr(lr)
        self._backward(x, y, step)
        parts.hooks.after_backward(parts.model, step)
        self._clip()
        self._check_now_and_then(step)
        parts.optimizer.step()

    def close(self) -> None:
        """Free what the step holds beside its parts."""

    def _set_lr(self, lr: float) -> None:
        for group in self.parts.optimizer.param_groups:
            group["lr"] = lr

    def _backward(self, x: Tensor, y: Tensor, step: int | Tensor) -> None:
        """Gradients of the mean loss over the batch, accumulated over its parts; the sums."""
        parts, count = self.parts, self.parts.settings.micro_batches
        parts.optimizer.zero_grad(set_to_none=True)
        for x_part, y_part in zip(x.chunk(count), y.chunk(count), strict=True):
            logits, loss = self._forward(x_part, y_part)
            # Weighted by size, so that the parts add up to the gradient of the mean over the whole batch.
            (loss * (len(y_part) / len(y))).backward()
            parts.sums.add(loss.detach(), logits.detach(), y_part, step)

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[b, classes]` and mean loss `[]`."""
        with self.parts.compute.autocast():
            logits = self.parts.model(x)
            loss = functional.cross_entropy(logits.float(), y, label_smoothing=self.parts.settings.label_smoothing)
        return logits, loss

    def _clip(self) -> None:
        if self.parts.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.parts.model.parameters(), self.parts.settings.clip_norm)

    def _check_now_and_then(self, step: int) -> None:
        if self.parts.compute.device.type == "cpu" or step % _STEPS_BETWEEN_FINITE_CHECKS == 0:
            self.parts.sums.raise_if_not_finite(self.parts.phase)

    def _tensors(self) -> list[Tensor]:
        """Everything that a step changes in place: weights, buffers, momentum, sums, what the hooks keep."""
        parts = self.parts
        momentum = [x for state in parts.optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
        sums = [parts.sums.loss, parts.sums.correct, parts.sums.bad_step]
        return [*parts.model.parameters(), *parts.model.buffers(), *momentum, *sums, *parts.hooks.tensors()]


class CapturedStep(EagerStep):
    """A step as one graph, recorded at the phase's first full batch; a short batch runs operation by operation.

    The graph reads a batch, learning rate, step and strengths of the hooks from tensors of its own. Recording changes
    nothing: weights, momentum, statistics, sums and random state are put back, and a replay is compared with the same
    operations one by one. What cannot be recorded is said once and runs operation by operation, or, where `captured`
    was asked for, is refused.

    Raises:
        ConfigError: `captured` was asked for, and optimizer or hooks cannot be recorded; or the device has no graphs.
    """

    def __init__(self, parts: StepParts) -> None:
        super().__init__(parts)
        device = parts.compute.device
        self._graphs = graphs_of(device)
        self._lr, self._step = NumberOnDevice(torch.float32, device), NumberOnDevice(torch.int64, device)
        self._strengths: list[NumberOnDevice] = []
        self._x = self._y = torch.empty(0, device=device)
        self._replay: Callable[[], None] | None = None
        self._gradients: list[Tensor | None] = []
        self._has_own_gradients = False  # False where a step that was not replayed has put others into their place
        self._addresses: list[int] = []
        self._has_momentum = False
        self.kind = "captured"
        if reason := _why_not(parts):
            self._give_up(reason)

    def __call__(self, x: Tensor, y: Tensor, step: int, lr: float) -> None:
        """Train on a batch; see `EagerStep`."""
        if not self._has_momentum:
            _give_momentum(self.parts.optimizer)  # now, at addresses that stay
            self._has_momentum = True
        if len(y) == self.parts.full_batch and self.kind == "captured":
            self._prepare(x, y, step, lr)
            if self._replay is None or self._addresses != self._addresses_now():  # A hook may have moved the weights.
                self._try_to_capture()
        if self._replay is None or len(y) != self.parts.full_batch:
            super().__call__(x, y, step, lr)
            self._has_own_gradients = False
            return
        if not self._has_own_gradients:
            for parameter, gradient in zip(self.parts.model.parameters(), self._gradients, strict=True):
                parameter.grad = gradient
            self._has_own_gradients = True
        self._replay()
        self._check_now_and_then(step)

    def close(self) -> None:
        """Free the graph and its memory before the next phase takes its own."""
        self._replay, self._gradients = None, []
        self._x = self._y = torch.empty(0)
        self.parts.optimizer.zero_grad(set_to_none=True)

    def _set_lr(self, lr: float) -> None:
        self._lr.set(lr)
        for group in self.parts.optimizer.param_groups:
            group["lr"] = self._lr.tensor

    def _prepare(self, x: Tensor, y: Tensor, step: int, lr: float) -> None:
        """Write what the graph reads."""
        values = self.parts.hooks.strengths(step)
        if self._x.shape != x.shape:
            self._x, self._y, self._replay = torch.empty_like(x), torch.empty_like(y), None
            self._strengths = [NumberOnDevice(torch.float32, x.device) for _ in values]
        self._x.copy_(x)
        self._y.copy_(y)
        for strength, value in zip(self._strengths, values, strict=True):
            strength.set(value)
        self._step.set(step)
        self._set_lr(lr)

    def _body(self) -> None:
        """The work of one step, as it is recorded."""
        parts = self.parts
        self._backward(self._x, self._y, self._step.tensor)
        parts.hooks.change_gradients(parts.model, [strength.tensor for strength in self._strengths])
        self._clip()
        parts.optimizer.step()

    def _try_to_capture(self) -> None:
        self._replay = None
        owned = list(own_tensors(self.parts.model))
        try:
            self._warm_up()
            if replaced := [full_name(path, name) for path, module, name, x in owned if getattr(module, name) is not x]:
                raise RuntimeError(f"it puts a new tensor in the place of {replaced[0]!r}")
            self._capture()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._replay = None
            for _, module, name, x in owned:
                setattr(module, name, x)
            self._give_up(first_line(error))

    def _warm_up(self) -> None:
        with untouched(self._tensors(), self.parts.compute.device), self._graphs.warm_up():
            self._body()
            with self._graphs.forbid_waiting():
                for _ in range(_WARM_UP_STEPS - 1):
                    self._body()

    def _capture(self) -> None:
        model = self.parts.model
        replay = self._graphs.capture(self._body)
        self._has_own_gradients = False
        self._gradients = [parameter.grad for parameter in model.parameters()]
        self._addresses = self._addresses_now()
        if not _same_update(self._state(), self._state_after(self._body), self._state_after(replay)):
            raise RuntimeError("its replay does not do what the same operations do one by one")
        self._replay = replay

    def _state(self) -> _State:
        """Copies of weights and momentum."""
        momentum = (state.get("momentum_buffer") for state in self.parts.optimizer.state.values())
        weights = [parameter.detach().clone() for parameter in self.parts.model.parameters()]
        return weights, [buffer.clone() for buffer in momentum if buffer is not None]

    def _state_after(self, work: Callable[[], None]) -> _State:
        """The state after `work`, which leaves no trace."""
        with untouched(self._tensors(), self.parts.compute.device):
            work()
            return self._state()

    def _addresses_now(self) -> list[int]:
        return [x.data_ptr() for x in (*self.parts.model.parameters(), *self.parts.model.buffers())]

    def _give_up(self, reason: str) -> None:
        """Run eager from now on, and say so; or refuse.

        Raises:
            ConfigError: `captured` was asked for.
        """
        if self.parts.settings.step == "captured":
            raise ConfigError(f"training.step is 'captured', but the step cannot be ({reason}); give auto or eager")
        self.kind = "eager"
        warnings.warn(f"the training step cannot be captured ({reason}) and runs eager", stacklevel=2)


class CompiledStep(EagerStep):
    """A step with forward and loss compiled, at the phase's first full batch and within its seconds.

    Where that fails, which is said, and for a short batch they run eager.
    """

    def __init__(self, parts: StepParts) -> None:
        super().__init__(parts)
        self._compiled: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self.kind = "compiled"
        self._is_full = False

    def __call__(self, x: Tensor, y: Tensor, step: int, lr: float) -> None:
        """Train on a batch; see `EagerStep`."""
        self._is_full = len(y) == self.parts.full_batch
        if self._is_full and self._compiled is None and self.kind == "compiled":
            self._try_to_compile(x, y, step)
        super().__call__(x, y, step, lr)

    def close(self) -> None:
        """Drop the compiled code: its number for one function is limited, and each phase has its own."""
        if self._compiled is not None:
            self._compiled = None
            torch._dynamo.reset()

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._compiled is None or not self._is_full:
            return super()._forward(x, y)
        return self._compiled(x, y)

    def _try_to_compile(self, x: Tensor, y: Tensor, step: int) -> None:
        try:
            self._compiled = torch.compile(super()._forward, dynamic=False)
            with untouched(self._tensors(), self.parts.compute.device):
                self._backward(x, y, step)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # A missing compiler, code that it cannot follow: it may raise anything.
            self._compiled, self.kind = None, "eager"
            told = f"the training step cannot be compiled ({first_line(error)}) and runs eager"
            warnings.warn(told, stacklevel=2)


STEPS: dict[StepKind, type[EagerStep]] = {"eager": EagerStep, "captured": CapturedStep, "compiled": CompiledStep}


def _why_not(parts: StepParts) -> str:
    """Reason against a capture, before anything is tried; empty for none."""
    if not all(group.get("fused") or group.get("capturable") for group in parts.optimizer.param_groups):
        return f"{type(parts.optimizer).__name__} is neither fused nor capturable"
    if not parts.hooks.is_capturable():
        kind = type(parts.hooks).__name__
        return f"{kind}.after_backward may read values on the host; let it be {kind}.change_gradients"
    return ""


def _give_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zero momentum where there is none yet, which is how SGD starts."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            state: dict[str, Any] = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def _same_update(before: _State, wanted: _State, found: _State) -> bool:
    """True if two updates of weights and momentum differ by rounding at most."""
    for old, a, b in zip(before, wanted, found, strict=True):
        size, step = _squares(old), _squares([x - y for x, y in zip(a, old, strict=True)])
        off = _squares([x - y for x, y in zip(a, b, strict=True)])
        # A loss that is no number is found elsewhere. A small step in large weights is mostly rounding itself.
        if math.isfinite(step) and not off <= _SAME_UPDATE**2 * step + _ROUNDING**2 * size:
            return False
    return True


def _squares(tensors: Sequence[Tensor]) -> float:
    return sum(float(x.double().square().sum()) for x in tensors)
