"""Plans: the stages of a run, and what they cost, before anything is run.

A method's file lists its stages: which network, over which steps. From them follow both counts (`docs/method.md`
sections 5 and 6): ours, as executed, and the paper's, by what it charges. `cost`, `compare --dry-run`, runs at equal
cost and the controls' budgets all read the same plans, and a finished run's ledger agrees with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from earlybird.cost.ledger import PHASES, Work, evaluation_work, training_work
from earlybird.cost.network import ModelCost
from earlybird.errors import ConfigError, require

# Noted in plans of methods that mask single weights.
MASKED = "single weights are masked, which saves no products on dense hardware"


@dataclass(frozen=True)
class PlannedData:
    """Images of a planned training: to train on, to test on once, in a step, and to validate on after each epoch."""

    train_images: int
    test_images: int
    batch_size: int
    val_images: int = 0
    test_batch_size: int = 500

    def __post_init__(self) -> None:
        least = {"train_images": 1, "batch_size": 1, "test_batch_size": 1, "test_images": 0, "val_images": 0}
        for name, bound in least.items():
            require(name, getattr(self, name), getattr(self, name) >= bound, f"an integer >= {bound}")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass; the last, partial batch counts."""
        return -(-self.train_images // self.batch_size)

    def steps(self, epochs: float) -> int:
        """The step that is nearest to so many epochs."""
        return round(epochs * self.steps_per_epoch)

    def images_by(self, step: int) -> int:
        """Images that were trained on by a step; the last batch of an epoch may be smaller."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.train_images + steps * self.batch_size

    def batches(self, images: int) -> int:
        """Forward passes of one reading of so many images."""
        return -(-images // self.test_batch_size)


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
        phase: its phase in the ledger, one of `PHASES`.
        network: "dense", "slim", or one of the plan's own networks.
        end_step: global step at which it ends.
        start_step: global step at which it starts.
        validation: "epochs_and_end" reads the validation images after each epoch and at the end, "epochs" after each
            epoch only (a hook ends the phase), "none" never (no training loop runs).
        scored_images: images that are run forward, in eval mode, beside the training.

    Raises:
        ConfigError: an unknown phase, or steps that are no stretch.
    """

    phase: str
    network: str
    end_step: int = 0
    start_step: int = 0
    validation: Literal["epochs_and_end", "epochs", "none"] = "epochs_and_end"
    scored_images: int = 0

    def __post_init__(self) -> None:
        require("phase of a planned stage", self.phase, self.phase in PHASES, f"one of {', '.join(PHASES)}")
        if not 0 <= self.start_step <= self.end_step:
            where = f"from step {self.start_step} to {self.end_step}"
            raise ConfigError(f"a stage of phase {self.phase!r} is planned {where}; give a stretch of steps")

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.end_step - self.start_step

    def validations(self, data: PlannedData) -> int:
        """Readings of the validation images."""
        if self.validation == "none" or not self.steps:
            return 0
        per_epoch = data.steps_per_epoch
        last = self.end_step if self.validation == "epochs" else self.end_step + per_epoch - 1
        return last // per_epoch - self.start_step // per_epoch

    def work(self, cost: ModelCost, data: PlannedData, small: ModelCost | None = None, small_steps: int = 0) -> Work:
        """Work of the stage in a network of this cost.

        small: cost of one image of the steps before `small_steps`, where they are of smaller images.
        """
        middle = self.start_step if small is None else min(max(self.start_step, small_steps), self.end_step)
        trained = training_work(cost, data.images_by(self.end_step) - data.images_by(middle), self.end_step - middle)
        if small is not None:
            images = data.images_by(middle) - data.images_by(self.start_step)
            trained += training_work(small, images, middle - self.start_step)
        passes = self.validations(data)
        evaluated = passes * data.val_images + self.scored_images
        batches = passes * data.batches(data.val_images) + data.batches(self.scored_images)
        return trained + evaluation_work(cost, evaluated, batches)


@dataclass(frozen=True)
class SmallerImages:
    """The first steps of every schedule, which train on smaller images.

    Attributes:
        steps: their number.
        costs: network -> cost of one such image; a network that is not in here is counted at whole images.
    """

    steps: int
    costs: Mapping[str, ModelCost]


@dataclass(frozen=True)
class Schedule:
    """A planned run, as far as a method's plan depends on it beside the method's settings.

    Attributes:
        total_steps: optimizer steps of one whole training (T epochs).
        data: images, and how many make a step.
        dense: cost of one image in the unpruned network.
        slim: the same after the cut.
        ticket_step: step after which the stop rule fires, in [0, `total_steps`]; None if it never does.
        classes: classes of the data.
        network: the unpruned network, for methods that fix widths layer by layer; None leaves out what depends on it.
        image_shape: (channels, height, width).
        precision: "fp32" or "bf16".
        smaller: the first steps, where they train on smaller images.
        device: kind of device, "cpu" or "cuda"; with the precision it says what `round_to` "auto" is.
        budget_macs: training MACs that a control is matched to, where they are known; otherwise those of `early_bird`.
        whole_steps: optimizer steps of T epochs, where a budget makes `total_steps` another number.

    Raises:
        ConfigError: `total_steps` is not positive, or the ticket is drawn outside the schedule.
    """

    total_steps: int
    data: PlannedData
    dense: ModelCost
    slim: ModelCost
    ticket_step: int | None
    classes: int = 10
    network: nn.Module | None = None
    image_shape: tuple[int, int, int] = (3, 32, 32)
    precision: str = "fp32"
    budget_macs: int | None = None
    whole_steps: int | None = None
    device: str = "cpu"
    smaller: SmallerImages | None = None

    def __post_init__(self) -> None:
        per_epoch = self.data.steps_per_epoch
        if self.total_steps < 1:
            raise ConfigError(f"epochs is {self.total_steps / per_epoch:g}; give a number > 0")
        if self.ticket_step is not None and not 0 <= self.ticket_step <= self.total_steps:
            most = self.total_steps / per_epoch
            raise ConfigError(f"ticket epoch is {self.ticket_step / per_epoch:g}; give a number in [0, {most:g}]")


@dataclass(frozen=True)
class MethodPlan:
    """Stages of a run.

    Attributes:
        stages: as executed, in order.
        final: the network that the run ends with and evaluates; None for a search alone.
        charged: what the paper charges instead; empty where it charges the stages.
        note: what to know about the numbers.
        also_tested: a network that is evaluated beside it.
        networks: costs of the plan's own networks, beside "dense" and "slim".
        spends_budget: its stages spend the whole of a budget; otherwise the last grows to what the others leave.

    Raises:
        ConfigError: a stage or an evaluation is of a network that the plan does not give.
    """

    stages: tuple[Stage, ...]
    final: str | None
    charged: tuple[Stage, ...] = ()
    note: str = ""
    also_tested: str | None = None
    networks: Mapping[str, ModelCost] = field(default_factory=dict)
    spends_budget: bool = False

    def __post_init__(self) -> None:
        for network in (*(stage.network for stage in (*self.stages, *self.charged)), *self.tested):
            if network not in ("dense", "slim", *self.networks):
                raise ConfigError(f"a plan names network {network!r}; give dense, slim or one of MethodPlan.networks")

    @property
    def tested(self) -> tuple[str, ...]:
        """The networks that read the test set."""
        return tuple(network for network in (self.final, self.also_tested) if network is not None)

    def costs(self, schedule: Schedule) -> dict[str, ModelCost]:
        """Network -> cost of one image."""
        return {"dense": schedule.dense, "slim": schedule.slim, **self.networks}

    def training(self, schedule: Schedule) -> dict[str, Work]:
        """Phase -> work of its stages."""
        phases = dict[str, Work]()
        for stage in self.stages:
            phases[stage.phase] = phases.get(stage.phase, Work()) + self.work(stage, schedule)
        return phases

    def work(self, stage: Stage, schedule: Schedule) -> Work:
        """Work of a stage, its first images smaller where those of the schedule are."""
        cost, smaller = self.costs(schedule)[stage.network], schedule.smaller
        if smaller is None:
            return stage.work(cost, schedule.data)
        return stage.work(cost, schedule.data, smaller.costs.get(stage.network), smaller.steps)

    def whole_steps(self, stage: Stage, schedule: Schedule) -> float:
        """Steps of a stage, one of smaller images for the share of a whole one's MACs that it takes."""
        cost, smaller = self.costs(schedule)[stage.network], schedule.smaller
        if smaller is None or (small := smaller.costs.get(stage.network)) is None:
            return float(stage.steps)
        steps = min(max(stage.start_step, smaller.steps), stage.end_step) - stage.start_step
        return stage.steps - steps * (1 - small.train_macs / cost.train_macs)

    def training_macs(self, schedule: Schedule) -> int:
        """MACs of all stages, without the final evaluation."""
        return sum(work.macs for work in self.training(schedule).values())


def price(plan: MethodPlan, schedule: Schedule) -> tuple[Work, dict[str, Work]]:
    """Work of a plan as executed, the final evaluation included, and the same by phase.

    The `paper_flops` of the whole are what the paper charges.
    """
    costs, data = plan.costs(schedule), schedule.data
    phases = plan.training(schedule)
    tested = (evaluation_work(costs[n], data.test_images, data.batches(data.test_images)) for n in plan.tested)
    phases["evaluate"] = sum(tested, Work())
    total = sum(phases.values(), Work())
    charged = sum((plan.work(stage, schedule) for stage in plan.charged or plan.stages), Work())
    return Work(total.images, total.macs_by_width, charged.paper_flops, total.traffic_bytes), phases


def training_macs(cost: ModelCost, data: PlannedData, start_step: int, end_step: int) -> int:
    """MACs of training from one global step to another, validation included."""
    return Stage("train", "dense", end_step, start_step).work(cost, data).macs


def steps_that_buy(macs: int, cost: ModelCost, data: PlannedData, start_step: int = 0) -> int:
    """The number of training steps from a global step on, at least 1, whose cost comes nearest to `macs`."""
    if not cost.train_macs:
        return 1
    return _nearest_steps(macs, lambda steps: training_macs(cost, data, start_step, start_step + steps))


def steps_that_train(images: float, data: PlannedData, start_step: int = 0) -> int:
    """The number of training steps from a global step on, at least 1, that see nearest to so many images."""
    before = data.images_by(start_step)
    return _nearest_steps(images, lambda steps: data.images_by(start_step + steps) - before)


def _nearest_steps(amount: float, spent: Callable[[int], int]) -> int:
    """The number of steps, at least 1, for which `spent` comes nearest to an amount; it rises with the steps."""
    # By hand: `bisect` asks a range for its length, which ends at 2^63.
    low, high = 0, 1
    while spent(high) < amount:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spent(middle) < amount else (low, middle)
    # The first number of steps that costs as much or more, or the one before it.
    return max(1, min(low, high, key=lambda steps: abs(spent(steps) - amount)))
