"""What every method would train, and what that costs: a plan made before anything is run.

A method is a list of stages: which network, for how many passes over the training images, and steps beside them. From
the stages follow both counts: ours, as executed, with the evaluation; and the paper's, by what the paper charges, which
for some methods is not what is executed (`docs/method.md` sections 5 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from earlybird.cost.flops import ModelCost
from earlybird.cost.ledger import Work, evaluation_work, training_work
from earlybird.errors import ConfigError

Network = Literal["dense", "slim"]

# ThiNet trains this many steps after each layer that it cuts (Luo et al. 2017; `docs/method.md` section 5).
THINET_FINETUNE_STEPS = 100

_MASKED = "single weights are masked, which saves no products on dense hardware"


@dataclass(frozen=True)
class PlannedData:
    """Images of a planned training: to train on, to test on once, in a step, and to validate on after each epoch."""

    train_images: int
    test_images: int
    batch_size: int
    val_images: int = 0
    test_batch_size: int = 500

    def __post_init__(self) -> None:
        for name in ("train_images", "batch_size", "test_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give an integer >= 1")
        for name in ("test_images", "val_images"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give an integer >= 0")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass; the last, partial batch counts."""
        return -(-self.train_images // self.batch_size)

    def images_by(self, epoch: float) -> int:
        """Images seen by a place in the schedule: whole batches, of which the last of an epoch is smaller."""
        epochs, steps = divmod(round(epoch * self.steps_per_epoch), self.steps_per_epoch)
        return epochs * self.train_images + steps * self.batch_size

    def batches(self, images: int) -> int:
        """Forward passes of one reading of so many images."""
        return -(-images // self.test_batch_size)


@dataclass(frozen=True)
class Stage:
    """A stretch of training: from one place of the schedule to another, in epochs, and steps of one batch beside it."""

    phase: str
    network: Network
    end_epoch: float = 0.0
    start_epoch: float = 0.0
    extra_steps: int = 0

    @property
    def epochs(self) -> float:
        """Passes over the training images."""
        return self.end_epoch - self.start_epoch

    def steps_of(self, data: PlannedData) -> float:
        """Optimizer steps."""
        return self.epochs * data.steps_per_epoch + self.extra_steps

    def validations(self, data: PlannedData) -> int:
        """Readings of the validation images: after each epoch that ends in the stretch."""
        first, last = (round(epoch * data.steps_per_epoch) for epoch in (self.start_epoch, self.end_epoch))
        return last // data.steps_per_epoch - first // data.steps_per_epoch

    def work(self, cost: ModelCost, data: PlannedData) -> Work:
        """What it asks of the hardware."""
        images = data.images_by(self.end_epoch) - data.images_by(self.start_epoch)
        training = training_work(cost, images + self.extra_steps * data.batch_size, round(self.steps_of(data)))
        passes = self.validations(data)
        validation = evaluation_work(cost, passes * data.val_images, passes * data.batches(data.val_images))
        return training + validation


@dataclass(frozen=True)
class MethodPlan:
    """What a method trains.

    Attributes:
        method: its name.
        stages: as executed, in order.
        charged: what the paper charges instead; empty where it charges the stages.
        final: the network that the run ends with and evaluates.
        note: what to know about the numbers.
        also_tested: a network that is evaluated beside it.
    """

    method: str
    stages: tuple[Stage, ...]
    final: Network
    charged: tuple[Stage, ...] = ()
    note: str = ""
    also_tested: Network | None = None

    @property
    def tested(self) -> tuple[Network, ...]:
        """The networks that read the test set."""
        return (self.final,) if self.also_tested is None else (self.final, self.also_tested)


def method_plans(epochs: float, ticket_epoch: float, prunable_layers: int) -> dict[str, MethodPlan]:
    """Plans of all methods by name, in the order of a table.

    Args:
        epochs: T, the length of one dense training.
        ticket_epoch: e, when the Early-Bird ticket is drawn, in [0, T].
        prunable_layers: how many layers ThiNet cuts one by one.

    Raises:
        ConfigError: e is not in [0, T], or T is not positive.
    """
    if not 0 < epochs < float("inf"):
        raise ConfigError(f"epochs is {epochs}; give a number > 0")
    if not 0 <= ticket_epoch <= epochs:
        raise ConfigError(f"ticket epoch is {ticket_epoch:g}; give a number in [0, {epochs:g}]")
    whole, again = Stage("search", "dense", epochs), Stage("retrain", "slim", epochs)
    search, masked = Stage("search", "dense", ticket_epoch), Stage("retrain", "dense", epochs)
    finetune = Stage("search", "dense", extra_steps=THINET_FINETUNE_STEPS * prunable_layers)
    plans = [
        MethodPlan("dense", (Stage("train", "dense", epochs),), "dense"),
        MethodPlan("early_bird", (search, Stage("retrain", "slim", epochs, ticket_epoch)), "slim"),
        MethodPlan("early_bird_reinit", (search, again), "slim"),
        MethodPlan("lottery_ticket", (whole, masked), "dense", note=_MASKED),
        MethodPlan(
            "snip",
            (Stage("search", "dense", extra_steps=1), masked),
            "dense",
            charged=(masked,),
            note=f"{_MASKED}; the paper does not charge the batch that scores",
        ),
        MethodPlan(
            "snip_channels",
            (Stage("search", "dense", extra_steps=1), again),
            "slim",
            charged=(again,),
            note="the batch that scores is counted, as for snip",
        ),
        MethodPlan("network_slimming", (whole, again), "slim"),
        MethodPlan(
            "thinet",
            (whole, finetune, again),
            "slim",
            charged=(whole, again),
            note=f"with {THINET_FINETUNE_STEPS} steps after each of {prunable_layers} layers, as if at full width, and "
            "without the images that are sampled for each; the paper charges neither",
        ),
        MethodPlan(
            "soft_filter_pruning",
            (whole,),
            "slim",
            charged=(whole, again),
            note="trains once, and is evaluated before and after the cut; the paper charges two trainings",
            also_tested="dense",
        ),
    ]
    return {plan.method: plan for plan in plans}


@dataclass(frozen=True)
class PlannedCost:
    """A plan with its price.

    Attributes:
        plan: what is trained.
        work: as executed, evaluation included; its `paper_flops` are what the paper charges.
        phases: the same by phase.
    """

    plan: MethodPlan
    work: Work
    phases: Mapping[str, Work]


def price(plan: MethodPlan, networks: Mapping[Network, ModelCost], data: PlannedData) -> PlannedCost:
    """The work of a plan on these networks and images."""
    phases: dict[str, Work] = {}
    for stage in plan.stages:
        phases[stage.phase] = phases.get(stage.phase, Work()) + stage.work(networks[stage.network], data)
    tested = (evaluation_work(networks[n], data.test_images, data.batches(data.test_images)) for n in plan.tested)
    phases["evaluate"] = sum(tested, Work())
    total = sum(phases.values(), Work())
    charged = sum((stage.work(networks[stage.network], data) for stage in plan.charged or plan.stages), Work())
    work = Work(total.images, total.macs_by_width, charged.paper_flops, total.traffic_bytes)
    return PlannedCost(plan, work, phases)


def epochs_for(work_macs: float, network: ModelCost, data: PlannedData) -> float:
    """Passes over the training images until a network has spent this many MACs: the controls at equal total cost."""
    return work_macs / (network.train_macs * data.train_images)
