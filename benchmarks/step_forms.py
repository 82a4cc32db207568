"""The training step of a network in every form (eager, captured, compiled), dense and slim, measured in turns.

A form that fails or finds no time keeps its row, with the reason in one line.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from trials import Block, Trial, blocks_in_turns, draw_scales_, median_block, peak_bytes, slim_networks

from earlybird.cost import count_cost
from earlybird.energy import EnergyCounter
from earlybird.errors import first_line
from earlybird.models import build_model
from earlybird.settings.run import StepKind, TrainingSettings
from earlybird.training.compute import Compute

FORMS: tuple[StepKind, ...] = get_args(StepKind)
DENSE = "dense"
RATIO = 0.5
# Small steps: on noise large ones might end in numbers that are none.
SETTINGS = TrainingSettings(lr=1e-4)
# A compilation that finds less time than this is not begun.
_LEAST_COMPILING = 3.0


@dataclass(frozen=True)
class Subject:
    """Network that is measured, at a width, and its batches: images of `side` x `side`."""

    name: str
    batch: int
    side: int = 32
    width: float = 1.0
    classes: int = 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        return 3, self.side, self.side

    def build(self) -> nn.Module:
        """The dense network, with scales that a mask can be drawn from."""
        model = build_model(self.name, num_classes=self.classes, width=self.width, image_size=self.side)
        draw_scales_(model)
        return model

    def batch_on(self, device: torch.device, images: int | None = None) -> tuple[Tensor, Tensor]:
        """Noise `[n, c, h, w]` and labels; `images` where not a whole batch is wanted."""
        count = images or self.batch
        x = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0))
        return x.to(device), (torch.arange(count) % self.classes).to(device)


@dataclass(frozen=True)
class Effort:
    """How much is measured: blocks of about `block_seconds`, in so many rounds; slim widths in this multiple."""

    rounds: int
    block_seconds: float
    multiple: int


@dataclass
class Variant:
    """A network of some widths in one form of the step: what was measured, or `error`."""

    widths: str
    form: StepKind
    macs: int
    error: str | None = None
    first_step_seconds: float | None = None  # with capture or compilation
    peak_bytes: int | None = None
    trial: Trial | None = None
    blocks: Sequence[Block] = ()

    @property
    def key(self) -> str:
        """Widths and form."""
        return f"{self.widths}, {self.form}"


def measure_forms(
    subject: Subject, compute: Compute, forms: Sequence[StepKind], effort: Effort, end: float, counter: EnergyCounter
) -> list[dict[str, Any]]:
    """A row for each width and form of a subject; done by about `end` (by `time.monotonic`).

    Compiling takes what time is left, the dense network first, exact widths last.
    """
    dense = subject.build()
    widths = {f"slim, multiples of {effort.multiple}": effort.multiple, "slim, exact widths": 1}
    networks = {DENSE: dense, **slim_networks(dense, RATIO, widths, subject.shape)}
    macs = {name: count_cost(network, subject.shape).macs for name, network in networks.items()}
    x, y = subject.batch_on(compute.device)
    variants = [Variant(name, form, macs[name]) for form in forms for name in networks]  # "compiled" is the last form
    # Rounds to come: each variant has a step to find its length, and its blocks.
    reserved = 2 * effort.rounds * effort.block_seconds * len(variants)
    for variant in variants:
        _prepare(variant, networks[variant.widths], replace(compute, step=variant.form), (x, y), end - reserved)
    ready = {variant.key: variant for variant in variants if variant.trial is not None}
    trials = {key: variant.trial for key, variant in ready.items() if variant.trial is not None}
    for key, blocks in blocks_in_turns(trials, effort.rounds, effort.block_seconds, counter, end).items():
        ready[key].blocks = blocks
    rows = [_row(subject, variant) for variant in variants]
    for trial in trials.values():
        trial.step.close()
    del trials, ready, variants
    gc.collect()
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def _prepare(variant: Variant, network: nn.Module, compute: Compute, batch: tuple[Tensor, Tensor], end: float) -> None:
    """Give a variant its trial, warmed up, or the reason why it has none."""
    left = end - time.monotonic()
    if variant.form == "compiled" and left < _LEAST_COMPILING:
        variant.error = "left out: no time was left to compile it"
        return
    before = torch.cuda.memory_allocated(compute.device) if compute.device.type == "cuda" else 0
    try:
        trial = Trial(network, compute, replace(SETTINGS, step=variant.form), *batch)
        # The others are quick, and a table without them says nothing: only compiling is bounded that hard.
        variant.first_step_seconds = trial.prepare(left if variant.form == "compiled" else max(left, 30.0))
        if variant.form == "eager":
            variant.peak_bytes = peak_bytes(trial, before)
        variant.trial = trial
    except Exception as error:  # A missing compiler, too little memory, ...: told in the table.
        variant.error = first_line(error)


def _row(subject: Subject, variant: Variant) -> dict[str, Any]:
    """What was measured of a variant, as plain values; joules of a shared card are told and flagged."""
    row = {
        **asdict(subject), "widths": variant.widths, "form": variant.form, "macs": variant.macs,
        "error": variant.error, "first_step_seconds": variant.first_step_seconds, "peak_bytes": variant.peak_bytes,
    }  # fmt: skip
    if not variant.blocks:
        return row
    found = median_block(variant.blocks)
    seconds = [block.seconds for block in variant.blocks]
    others = [block.others for block in variant.blocks]
    return row | {
        "seconds": found.seconds,
        "spread": (max(seconds) - min(seconds)) / found.seconds,
        "images_per_second": subject.batch / found.seconds,
        "joules_per_image": None if found.joules is None else found.joules / subject.batch,
        "watts": None if found.joules is None else found.joules / statistics.fmean(seconds),
        "blocks": [asdict(block) for block in variant.blocks],
        "others": found.others,
        "shared_blocks": None if None in others else sum(map(bool, others)) / len(others),
    }
