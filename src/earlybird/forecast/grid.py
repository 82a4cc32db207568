"""What a sweep will take before it is run: the trainings of each node, in steps of the dense and of a slim network.

The slim network of a ratio is taken at uniform widths, and a ticket that is not drawn yet at the tenth of the schedule
where the paper found it; real ones differ. What runs share is counted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from earlybird.cost import ModelCost
from earlybird.cost.plan import THINET_FINETUNE_STEPS, Network
from earlybird.grids.equal_cost import LEAST_LAST_TRAINING
from earlybird.grids.grid import RunNode
from earlybird.grids.sweep import Sweep
from earlybird.runs.config import RunConfig
from earlybird.runs.record_file import finished_record
from earlybird.settings.clock import DRAWS
from earlybird.settings.method import Method
from earlybird.settings.tickets import DrawAt

TICKET_AT = 0.1


@dataclass(frozen=True)
class Epochs:
    """Passes over the training images, as parts of T: of the dense network, and of the slim one."""

    dense: float = 0.0
    slim: float = 0.0

    def __add__(self, other: Epochs) -> Epochs:
        return Epochs(self.dense + other.dense, self.slim + other.slim)

    def times(self, factor: float) -> Epochs:
        """So many times as much."""
        return Epochs(self.dense * factor, self.slim * factor)

    def cost(self, slim_share: float) -> float:
        """In dense trainings, where a step of the slim network costs this share of a dense one."""
        return self.dense + self.slim * slim_share


def ticket_places(sweep: Sweep) -> dict[tuple[float, int], float]:
    """Where in the schedule the finished Early-Bird runs of a sweep drew their ticket, by ratio and seed."""
    places = {}
    for node in sweep.nodes:
        if node.label == "early_bird" and node.kind == "run" and node.prune_ratio is not None:
            record = finished_record(sweep.root / node.id) or {}
            share = (record.get("ticket") or {}).get("fraction_of_schedule")
            if share is not None:
                places[node.prune_ratio, node.seed] = float(share)
    return places


def planned_epochs(
    node: RunNode, slim_share: float, layers: int, total_steps: int, ticket_at: float = TICKET_AT
) -> Epochs:
    """What a node executes.

    Args:
        node: a node of a grid.
        slim_share: training MACs of the slim network of its ratio, as a share of the dense one's.
        layers: layers that ThiNet would cut.
        total_steps: optimizer steps of the whole schedule.
        ticket_at: where in the schedule Early-Bird draws its ticket, in [0, 1].
    """
    config = RunConfig.from_dict(dict(node.config))
    if node.kind == "search":
        return Epochs(dense=max(_drawn_at(request.draw_at, ticket_at) for request in node.requests))
    whole = _whole_run(config.method, slim_share, layers, total_steps, ticket_at)
    if node.equal_to is not None:
        early_bird = Epochs(ticket_at, 1 - ticket_at).cost(slim_share)
        draw_at: DrawAt = getattr(config.method, "draw_at", "last")
        if draw_at != "last":  # It starts from the same ticket: what is left goes into its training.
            left = early_bird - _drawn_at(draw_at, ticket_at)
            if left >= LEAST_LAST_TRAINING * (1 - ticket_at) * slim_share:
                return Epochs(slim=left / slim_share)
        return whole.times(early_bird / whole.cost(slim_share))  # The whole method, its search included.
    return Epochs(whole.dense - _shared(node, config, ticket_at), whole.slim)


def _whole_run(method: Method, slim_share: float, layers: int, total_steps: int, ticket_at: float) -> Epochs:
    """Search and training of a method that shares nothing."""
    settings: Mapping[str, Any] = vars(method)
    early_bird = Epochs(ticket_at, 1 - ticket_at).cost(slim_share)
    finetuned = settings.get("finetune_steps", THINET_FINETUNE_STEPS) * layers / total_steps
    at = _drawn_at(settings.get("draw_at", "rule"), ticket_at)
    starts_anew = settings.get("weights") == "reinit" or settings.get("schedule") == "restart"
    known = {
        "early_bird": Epochs(at, 1.0 if starts_anew else 1 - at),
        "lottery_ticket": Epochs(1.0 + settings.get("rounds", 1)),
        "snip": Epochs(slim=1.0) if settings.get("form") == "channels" else Epochs(1.0),
        "network_slimming": Epochs(1.0, 1.0),
        # The network shrinks layer by layer: half of the steps as if dense, half as if slim.
        "thinet": Epochs(1.0 + finetuned / 2, 1.0 + finetuned / 2),
        "uniform": Epochs(slim=early_bird / slim_share),
        "scratch_longer": Epochs(slim=1.0 / slim_share),
        "dense_shorter": Epochs(early_bird),
    }
    return known.get(method.name, Epochs(1.0))


def _shared(node: RunNode, config: RunConfig, ticket_at: float) -> float:
    """Dense epochs of the method that another node has done."""
    if node.request is not None and config.method.name in ("early_bird", "network_slimming"):
        return _drawn_at(node.request.draw_at, ticket_at)
    return 1.0 if node.dense_run is not None else 0.0


def _drawn_at(draw_at: DrawAt, ticket_at: float) -> float:
    if isinstance(draw_at, int):
        return min(1.0, draw_at / DRAWS)
    return {"rule": ticket_at, "last": 1.0}[draw_at]


def macs_of(epochs: Epochs, costs: Mapping[Network, ModelCost], images: int) -> float:
    """Training MACs of so many passes; `images` are those of a whole schedule."""
    return images * (epochs.dense * costs["dense"].train_macs + epochs.slim * costs["slim"].train_macs)
