"""`check_method`: the built-in methods and presets pass, and each way to be wrong is named."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from earlybird.core import ChannelMask, filter_l1
from earlybird.core.drawing import draw_mask
from earlybird.cost import MethodPlan, Schedule, Stage
from earlybird.methods.retrain import Retrain, cut, leave_ticket, ticket_in
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import METHODS, PRESETS, Dense, method_class, preset_settings
from earlybird.testing import check_method
from earlybird.training.loop import fit
from earlybird.training.state import Span

pytestmark = pytest.mark.usefixtures("costs_counted_once")


def built_in(name: str) -> Any:
    settings = preset_settings(name)
    fields = {field.name for field in dataclasses.fields(method_class(name))}
    settings |= {"round_to": 1} if "round_to" in fields else {}
    settings |= {"finetune_steps": 3} if "finetune_steps" in fields else {}
    return method_class(name)(**settings)


# Tried always is the one with the most to go wrong, and in docs/extending.md another; the rest takes a minute.
ALWAYS = ("thinet",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ALWAYS)) for n in METHODS])
def test_every_built_in_method_passes(name):
    check_method(built_in(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes(name):
    check_method(built_in(name))


@dataclass(frozen=True)
class Cut:
    """A method that is right; the wrong ones below each change one thing."""

    name: ClassVar[str] = "cut"

    prune_ratio: float = 0.5

    def mask(self, task: Task, model: Any, groups: Any) -> ChannelMask:
        return draw_mask(filter_l1(model), self.prune_ratio, groups)

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        model = task.build()
        groups = task.groups(model, "auto")
        fit(task.session, model, Span("search", 0, 10), task.cost(model), resume=resume)
        mask = self.mask(task, model, groups)
        leave_ticket(task, mask, groups, model.state_dict(), rule="cut", prune_ratio=self.prune_ratio, step=10)
        return self.restore(task)

    def restore(self, task: Task) -> Candidate:
        return cut(task, ticket_in(task.folder), Retrain())


def test_a_method_that_is_right_passes_also_as_a_class():  # as an instance: docs/extending.md
    check_method(Cut)


def not_frozen() -> Any:
    kind = dataclass(type("NotFrozen", (), {"name": "x", "search": Dense.search, "restore": Dense.restore}))
    return kind()


@dataclass(frozen=True)
class WithoutDefault(Cut):
    name: ClassVar[str] = "without_default"
    prune_ratio: float = field()


@dataclass(frozen=True)
class WithTensor(Cut):
    name: ClassVar[str] = "with_tensor"
    weights: Any = field(default_factory=lambda: torch.ones(2))


@dataclass(frozen=True)
class GloballyRandom(Cut):
    name: ClassVar[str] = "globally_random"

    def mask(self, task: Task, model: Any, groups: Any) -> ChannelMask:
        scores = {name: torch.from_numpy(np.random.rand(units.numel())) for name, units in groups.unit_of.items()}
        return draw_mask(scores, self.prune_ratio, groups)


@dataclass(frozen=True)
class Forgetful(Cut):
    """Restores new weights instead of the trained ones."""

    name: ClassVar[str] = "forgetful"

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        candidate = super().search(task, resume)
        return dataclasses.replace(candidate, end_step=20)

    def restore(self, task: Task) -> Candidate:
        return super().restore(task)


@dataclass(frozen=True)
class StartsAgain(Cut):
    """Ignores the checkpoint, so that what was trained before a kill is trained and charged again."""

    name: ClassVar[str] = "starts_again"

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        if resume is not None:
            task.session.journal.load_state_dict(resume["journal"])
        return super().search(task, None)


@dataclass(frozen=True)
class Uncharged(Cut):
    name: ClassVar[str] = "uncharged"

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        total = task.session.total_steps
        return Candidate(task.build(), phase="train", start_step=total, end_step=total)


@dataclass(frozen=True)
class Miscounted(Cut):
    """Its plan forgets the dense training."""

    name: ClassVar[str] = "cut"

    def plan(self, schedule: Schedule) -> MethodPlan:
        return MethodPlan((Stage("retrain", "slim", schedule.total_steps, 10),), "slim")


@dataclass(frozen=True)
class AlwaysCuts(Cut):
    name: ClassVar[str] = "always_cuts"

    def mask(self, task: Task, model: Any, groups: Any) -> ChannelMask:
        return draw_mask(filter_l1(model), 0.5, groups)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: WithoutDefault(0.5), "setting 'prune_ratio' of WithoutDefault needs a default"),
        (WithTensor, "settings must be plain values that YAML can hold"),
        (GloballyRandom, "draw numbers from the task's seed, not from a global generator"),
        (Forgetful, "killed after .* and resumed, the run ends with other weights"),
        (StartsAgain, "is charged .* images instead of"),
        (Uncharged, "the ledger holds no training"),
        (Miscounted, r"the plan says \{'retrain': \d+\} MACs by phase, the ledger \{'search': "),
        (AlwaysCuts, "at ratio 0 the network ends with"),
        (not_frozen, "NotFrozen must be frozen"),
        (object, "object must be a dataclass"),
    ],
)
def test_each_way_to_be_wrong_is_named(method, message):
    with pytest.raises(AssertionError, match=message):
        check_method(method())
