"""`Task`: what a method works on, `DenseRun` with it or not; `Candidate`: the network handed to the last training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, PolicyChoice, Ticket, WeightMask
from earlybird.cost import ModelCost, count_cost_and_traffic
from earlybird.data import Batches
from earlybird.errors import MethodError
from earlybird.slimming import channel_groups
from earlybird.training.session import Session

STEP_TIMES = "step-times.json"


@dataclass
class Task:
    """The network, how to make it again, its data's shape, the session and the run folder.

    Attributes:
        build_from_seed: seed -> the dense network with that seed's initial weights, on the CPU.
        image_shape: (channels, height, width) of one image.
        session: data, settings and places of the run.
        folder: where a method may leave files (tickets, scales).
        seed: the run's model seed.
        classes: number of classes of the data.
        sample: n -> batches of n training images, each class by its share, not augmented; the same ones each time.
        step_times: file of measured step times, which runs of a comparison share.
    """

    build_from_seed: Callable[[int], nn.Module]
    image_shape: tuple[int, int, int]
    session: Session
    folder: Path
    seed: int
    classes: int
    sample: Callable[[int], Batches]
    step_times: Path
    _costs: WeakKeyDictionary[nn.Module, ModelCost] = field(default_factory=WeakKeyDictionary, repr=False)

    def build(self, seed: int | None = None) -> nn.Module:
        """The dense network, placed; the same weights for the same seed, by default the run's."""
        return self.session.compute.place(self.build_from_seed(self.seed if seed is None else seed))

    def example_input(self) -> Tensor:
        """A batch of two zero images on the run's device, to trace with: as in training, more than one."""
        return torch.zeros(2, *self.image_shape, device=self.session.compute.device)

    def groups(self, model: nn.Module, policy: str) -> ChannelGroups:
        """Channel groups of `model` under a residual policy, which is refused where it is none."""
        return channel_groups(model, self.example_input(), cast(PolicyChoice, policy))

    def cost(self, model: nn.Module) -> ModelCost:
        """Cost of one image in `model`, at the run's precision; counted once for each network."""
        if model not in self._costs:
            precision = self.session.compute.precision
            self._costs[model] = count_cost_and_traffic(model, self.image_shape, precision)
        return self._costs[model]


@dataclass(frozen=True)
class Candidate:
    """A module to train on, and over which steps.

    Attributes:
        model: slim or dense, with the weights to start from, placed on the run's device.
        phase: "train" (nothing was searched) or "retrain".
        start_step: global step at which its training starts.
        end_step: global step at which it ends; equal to `start_step` where nothing is left to train.
        schedule_steps: length of its learning-rate schedule in steps; None for the run's own.
        ticket: the ticket it was cut by, if any.
        weight_mask: single weights that are held at zero in every step, if any.
        distances: mask distances of the search, draw k against draw k-1, from k = 2; None where nothing was searched.
        draw_steps: global step of every draw, from draw 1.
        penalty: strength of the L1 penalty in its training.
        flags: what to know before trusting it.
        momentum: parameter name -> momentum that its training starts with; empty for none.
        uncut: the trained network before its channels went, where their going changes what it computes; it is
            evaluated beside the final one.
        notes: JSON values for the record.
        spent_share: share of the run's budget that its search took, where it counted that itself.
        warm_up: share of its training, in [0, 1), in which the learning rate rises linearly to its schedule's.
        goes_on: under a budget its training begins in the schedule where the search has come to, by what is spent.
    """

    model: nn.Module
    phase: str
    start_step: int
    end_step: int
    schedule_steps: int | None = None
    ticket: Ticket | None = None
    weight_mask: WeightMask | None = None
    distances: tuple[float, ...] | None = None
    draw_steps: tuple[int, ...] = ()
    penalty: float = 0.0
    flags: tuple[str, ...] = ()
    momentum: dict[str, Tensor] = field(default_factory=dict)
    uncut: nn.Module | None = None
    notes: dict[str, object] = field(default_factory=dict)
    spent_share: float | None = None
    goes_on: bool = False
    warm_up: float = 0.0


@dataclass(frozen=True)
class DenseRun:
    """The end of a finished `dense` run.

    Attributes:
        weights: state dict of the network (CPU).
        journal: metrics and costs of its training as a `Journal` has them, of phase "search": whoever starts from it
            owes all of it.
    """

    weights: Mapping[str, Tensor]
    journal: Mapping[str, Any]

    def take_over(self, task: Task) -> nn.Module:
        """The network with these weights; its training is charged.

        Raises:
            MethodError: they are of another network.
        """
        model = task.build()
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise MethodError("the dense run is of another network; give one of the same --model and --data") from error
        task.session.journal.load_state_dict(dict(self.journal))
        return model
