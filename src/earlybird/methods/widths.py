"""`Widths`: how many channels a network keeps for a share of the dense network's step time, or of its MACs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from earlybird.atomic import file_lock
from earlybird.core import ChannelGroups, ChannelMask, allocate_measured
from earlybird.core.allocation import kept_of_blocks
from earlybird.core.drawing import Ranking, rank_units, scored_groups
from earlybird.cost import LayerTable, count_cost, measure_layer_table
from earlybird.cost.layer_table import first_units
from earlybird.errors import ConfigError, MethodError, ModelError
from earlybird.methods.task import Task
from earlybird.settings.budget import Budget
from earlybird.settings.catalog import WideStart
from earlybird.settings.method import settled
from earlybird.slimming import channel_groups, slim

if TYPE_CHECKING:
    import numpy as np

# How near to the step time that was asked for is near enough, and how often widths are drawn anew for it.
NEAR, _CORRECTIONS = 0.03, 2
# Pixels of the images that the layers are measured with on a CPU: 32 of CIFAR's size.
_TABLE_PIXELS, _LEAST_IMAGES = 32 * 32 * 32, 4


class Widths:
    """Widths of a network by the seconds, or the MACs, that they take.

    Args:
        scores: mask key -> `[channels]` at full width, higher = keep.
    """

    def __init__(self, method: WideStart, dense: nn.Module, example: Tensor, scores: Mapping[str, Tensor]) -> None:
        self.method, self.dense, self.example = method, dense, example
        self.groups = channel_groups(dense, example, method.policy)
        self.ranking = self.rank(scores)
        self.macs = _MacsShare(self)

    def rank(self, scores: Mapping[str, Tensor]) -> Ranking:
        """Rank by other scores from now on."""
        self.ranking = rank_units(scores, scored_groups(scores, self.groups), self.method.tie_score)
        return self.ranking

    def network(self, mask: ChannelMask) -> nn.Module:
        """The network that a mask leaves, for its widths."""
        return slim(self.dense, mask, self.example, self.groups, check=False)

    def fitted(
        self,
        target: float,
        measure: Callable[[nn.Module], float],
        *,
        before: ChannelMask | None = None,
        known: Mapping[ChannelMask, float] | None = None,
        table: LayerTable | None = None,
    ) -> tuple[ChannelMask, float]:
        """Mask whose network measures near to `target`, and what it measures.

        A table of layers, or without one MACs, lead to the first widths; what these measure corrects the next.

        Args:
            target: share of the dense network, in (0, 1].
            measure: share of the dense network that a network takes.
            before: the mask of the cut before; what it removed stays removed.
            known: masks whose networks are measured already, beside the dense one.
            table: seconds of the layers; without it allocation "time" is taken as uniform, as plans do.

        Raises:
            MethodError: no network that the table of layers knows is so quick.
        """
        method, cost = self.method, self.macs if table is None else table.cost
        allocation = "uniform" if table is None and method.allocation == "time" else method.allocation
        counts = {tuple(kept_of_blocks(mask, self.ranking.groups)): share for mask, share in (known or {}).items()}
        whole = cost.seconds([block.size for block in self.ranking.groups.blocks])
        points = [(whole, 1.0), *((cost.seconds(kept), share) for kept, share in counts.items())]
        try:
            found = allocate_measured(
                self.ranking, cost, target, lambda mask: measure(self.network(mask)), known=points, tolerance=NEAR,
                corrections=_CORRECTIONS, allocation=allocation, round_to=settled(method.round_to),
                floor=method.min_share, within=before, fit="nearest",
            )  # fmt: skip
        except ConfigError as error:
            told = f"a step of {target:.2f} of the dense network's seconds cannot be had: {error}"
            raise MethodError(f"{told}; raise --method.step_ratio or lower --method.min_share") from error
        return found.mask, found.seconds


class _MacsShare:
    """MACs of training as a share of the dense network's, by units kept of each block; counted once for each."""

    def __init__(self, widths: Widths) -> None:
        self.widths, self._known = widths, dict[tuple[int, ...], float]()
        self._dense = self._of(widths.dense)

    def seconds(self, counts: Sequence[int] | np.ndarray) -> float:
        """The share, where `allocate` asks for seconds."""
        key = tuple(int(count) for count in counts)
        if key not in self._known:
            network = self.widths.network(first_units(self.widths.ranking.groups, key))
            self._known[key] = self._of(network) / self._dense
        return self._known[key]

    def _of(self, model: nn.Module) -> int:
        return count_cost(model, tuple(self.widths.example.shape[1:])).train_macs


def layer_table(
    method: WideStart, task: Task, budget: Budget, dense: nn.Module, groups: ChannelGroups
) -> LayerTable | None:
    """Measured seconds of the network's layers, or None where a budget in MACs asks for none, or they tell nothing.

    Runs that share their step times share them too.

    Raises:
        ModelError: they contradict the whole steps, and the allocation cannot do without them.
    """
    session, folder = task.session, task.step_times.parent
    if budget.kind == "macs":
        return None
    images, _ = next(iter(session.train.epoch(0)))
    if session.compute.device.type == "cpu":
        # Few images tell a CPU's seconds, each part measured once: steps of the run's own batch correct the table.
        images = images[: max(_LEAST_IMAGES, round(_TABLE_PIXELS / (images.shape[2] * images.shape[3])))]
    try:
        with file_lock(folder / ".layer-table.lock"):
            return measure_layer_table(
                dense, groups, images, autocast=session.compute.autocast, round_to=settled(method.round_to),
                cache=folder, passes=1,
            )  # fmt: skip
    except ModelError as error:
        if method.allocation == "time":
            raise
        session.progress.say(f"widths are sought by MACs and measured steps: {error}")
        return None
