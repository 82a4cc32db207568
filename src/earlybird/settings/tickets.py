"""`TicketRequest`: a ticket that a search is asked for: its prune ratio and its draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from earlybird.errors import require

DrawAt = int | Literal["rule", "last"]


@dataclass(frozen=True)
class TicketRequest:
    """One ticket of a search.

    Attributes:
        prune_ratio: fraction of the units to remove, in [0, 1).
        draw_at: "rule", when the stop rule fires; a number of draws, 0 for before the first step; "last", when the
            search is over.
    """

    prune_ratio: float
    draw_at: DrawAt = "rule"

    def file_name(self, requests: Sequence[TicketRequest]) -> str:
        """Name of its file: plain for a search of one ticket, with ratio and draw for a search of several."""
        if len(requests) == 1:
            return "ticket.safetensors"
        when = {"rule": "", "last": "-last"}.get(str(self.draw_at), f"-draw{self.draw_at}")
        return f"ticket-p{self.prune_ratio:g}{when}.safetensors"


TICKET_FILE = TicketRequest(0.0).file_name([TicketRequest(0.0)])


def requests_of(ratios: Sequence[float], draws: Sequence[DrawAt] = ("rule",)) -> list[TicketRequest]:
    """Every ratio at every draw."""
    return [TicketRequest(ratio, draw) for ratio in ratios for draw in draws]


def check_requests(requests: Sequence[TicketRequest]) -> None:
    """Raise unless the tickets can be told apart and be drawn.

    Raises:
        ConfigError: a ratio or draw is out of range, or a ticket is asked for twice.
    """
    ratios = list(dict.fromkeys(request.prune_ratio for request in requests))
    draws = list(dict.fromkeys(request.draw_at for request in requests))
    names = [request.file_name([request, request]) for request in requests]
    are_different = len(set(names)) == len(names) > 0
    legal_ratios = all(0 <= ratio < 1 for ratio in ratios)
    require(
        "--ratios", [r.prune_ratio for r in requests], are_different and legal_ratios, "different numbers in [0, 1)"
    )
    legal_draws = all(isinstance(draw, str) or draw >= 0 for draw in draws)
    require("--draws", draws, legal_draws, "rule, last, or numbers of draws >= 0")
