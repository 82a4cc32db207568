"""`Compute`: device and numeric precision of a run, the choice between them, and a network evaluated there.

bf16 means autocast around forward and loss with fp32 weights. `auto` is answered once by measuring; the answer is
written into the run's configuration and reused when it resumes, because a run must not change its numbers half-way.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.copying import copied
from earlybird.cost import TrainingStep
from earlybird.data import Batches
from earlybird.errors import ConfigError, NonFiniteError, OutOfMemoryError, require, wrong_value
from earlybird.settings.run import PrecisionChoice, StepKind, Tf32Choice

Precision = Literal["fp32", "bf16"]
Layout = Literal["contiguous", "channels_last"]

# A gain below this is not worth other numerics than the reference's.
_WORTHWHILE = 0.95
_TRIALS = 3
_SECONDS_OF_TRIALS = 3.0
# A CPU without bf16 units takes 10 to 20 times the seconds of fp32; a few images tell.
_SLOW = 3.0
_FEW_IMAGES = 4
_TOP5_FROM_CLASSES = 10

# How PyTorch's CPU allocator words it; it raises a plain RuntimeError.
_CPU_ALLOCATOR = "can't allocate memory"

SMALLER_STEPS = "lower --batch-size or raise --training.micro_batches"


@dataclass(frozen=True)
class Compute:
    """Device and precision of one run, form of its steps, layout of its images and weights.

    layout: None before it is settled, and for runs of older versions.
    """

    device: torch.device
    precision: Precision = "fp32"
    step: StepKind = "eager"
    layout: Layout | None = None
    tf32: Tf32Choice = "conv"

    @property
    def memory_format(self) -> torch.memory_format:
        """That of the layout; without one, channels_last on a CPU, where it is faster, and on a GPU with bf16."""
        is_faster = self.device.type == "cpu" or self.precision == "bf16"
        is_last = is_faster if self.layout is None else self.layout == "channels_last"
        return torch.channels_last if is_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which forward and loss are computed."""
        if self.precision == "fp32":
            return nullcontext()
        # A graph must cast the weights at each replay, and would not see a cast that was kept from before.
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=self.step != "captured")

    @contextmanager
    def float32_rules(self) -> Iterator[None]:
        """Allow TF32 inside as `tf32` says. It is a state of the process, and put back."""
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = self.tf32 != "never"
        torch.backends.cuda.matmul.allow_tf32 = self.tf32 == "all"
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before

    def place(self, model: nn.Module) -> nn.Module:
        """The model, moved to the device and laid out for this precision (in place for its parameters)."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]


def choose_device(name: str) -> torch.device:
    """Device of this machine for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(wrong_value("training.device", name, "auto, cpu, cuda or cuda:N"))
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"training.device is {name!r}, but {count} CUDA devices are visible; give cpu")
    return device


def choose_precision(choice: str, model: nn.Module, shape: Sequence[int], device: torch.device) -> Precision:
    """Resolve "auto" by timing a training step in fp32 and in bf16, bounded in seconds; keep any other choice.

    Args:
        model: the dense network; it is not changed.
        shape: (n, c, h, w) of a batch like those of the run.

    Raises:
        ConfigError: `choice` is none of these.

    Warns:
        UserWarning: bf16 is asked for on a CPU where its steps take several times the seconds of fp32.
    """
    require("training.precision", choice, choice in get_args(PrecisionChoice), "auto, fp32 or bf16")
    if choice == "fp32":
        return "fp32"
    batch = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    slower = _bf16_ratio(model, batch[:_FEW_IMAGES], device) if device.type == "cpu" else 1.0
    if choice == "bf16":
        if slower > _SLOW:
            told = f"bf16 takes {slower:.0f} times the seconds of fp32 on this CPU; leave --precision out or give fp32"
            warnings.warn(told, stacklevel=2)
        return "bf16"
    return "bf16" if slower <= _SLOW and _bf16_ratio(model, batch, device) < _WORTHWHILE else "fp32"


def _bf16_ratio(model: nn.Module, batch: Tensor, device: torch.device) -> float:
    fp32 = _step_seconds(model, batch, Compute(device, "fp32"))
    return _step_seconds(model, batch, Compute(device, "bf16")) / fp32


def _step_seconds(model: nn.Module, batch: Tensor, compute: Compute) -> float:
    """Best of a few training steps, after one that warms up; of fewer where they take long."""
    images = batch.to(compute.device).contiguous(memory_format=compute.memory_format)
    step = TrainingStep(compute.place(copied(model)).train(), images, compute.autocast)
    end, best = time.monotonic() + _SECONDS_OF_TRIALS, step.seconds()
    for trial in range(_TRIALS):
        if time.monotonic() > end:
            break
        best = min(step.seconds(), best if trial else math.inf)
    return best


@dataclass(frozen=True)
class Evaluation:
    """Result on one split, over all its samples, never a mean of batch means; accuracies in [0, 1], loss in nats."""

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

    Raises:
        NonFiniteError: the loss is NaN or infinite, so that the accuracy is one of numbers that are none.
    """
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=compute.device)
    top5, loss_sum, classes = correct.clone(), torch.zeros((), dtype=torch.float64, device=compute.device), 0
    try:
        for x, y in batches.epoch(0):
            with explain_out_of_memory("in an evaluation", "lower --training.eval_batch_size"):
                with compute.float32_rules(), compute.autocast():
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
    n, hits, loss = batches.num_samples, int(correct), float(loss_sum)
    if not math.isfinite(loss):
        first, cure = next(iter(not_finite(model)), "its logits"), "train again with a lower --lr or --precision fp32"
        raise NonFiniteError(f"an evaluation ends with a loss of {loss} ({first} is NaN or infinite); {cure}")
    top5_accuracy = int(top5) / n if classes > _TOP5_FROM_CLASSES else None
    return Evaluation(hits / n, top5_accuracy, loss / n, correct=hits, samples=n)


def not_finite(model: nn.Module) -> list[str]:
    """Weights and buffers that hold NaN or infinity, such as "buffer 'bn.running_var'"."""
    kinds = {"weight": model.named_parameters(), "buffer": model.named_buffers()}
    return [f"{kind} {name!r}" for kind, named in kinds.items() for name, x in named if not torch.isfinite(x).all()]


@contextmanager
def explain_out_of_memory(where: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into one line with its place ("at step 7 of ...") and its remedy.

    Raises:
        OutOfMemoryError: the device or the machine had too little memory for what ran inside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # `torch.OutOfMemoryError` is a RuntimeError.
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and _CPU_ALLOCATOR not in str(error):
            raise
        raise OutOfMemoryError(f"out of memory {where}; {remedy}; the last checkpoint is intact") from error
