"""`EarlyBird`: watches the mask that pruning would give and says when it has stopped changing.

Call `update(model)` after every epoch (or at every draw of a scaled clock). Nothing is trained, cut or moved here: a
loop of any kind can own it. Masks are compared as drawn, before rounding; only the ticket's own mask is rounded,
because snapping would hide or invent changes near the threshold.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from earlybird.core.chain import why_not_a_plain_chain
from earlybird.core.criteria import Criterion, bn_scale
from earlybird.core.distance import mask_distance
from earlybird.core.drawing import draw_mask, realised_ratio
from earlybird.core.groups import ChannelGroups, restrict_to_scored
from earlybird.core.history import MaskHistory
from earlybird.core.stopping import STOP_RULES, StopRule
from earlybird.core.ticket import Ticket
from earlybird.errors import ConfigError, MaskError


class EarlyBird:
    """Early-Bird detector (You et al. 2020, Algorithm 1) for one prune ratio or many in one search.

    Args:
        prune_ratio: fraction of units to remove, in (0, 1), or several.
        groups: what may be cut together (`earlybird.channel_groups`); without them the network must be a plain chain.
        rule: "paper", "authors_code" or "epi" (`earlybird.core.stopping`).
        window: distances looked at by "paper", masks looked at by "authors_code".
        epsilon: threshold on the mask distance, in (0, 1].
        criterion: what scores a channel; `bn_scale` by default.
        min_channels: floor per layer.
        round_to: kept counts of the ticket are multiples of this.

    Raises:
        ConfigError: an argument is out of range.

    Warns:
        UserWarning: 2 * prune_ratio <= epsilon, where the rule would always fire.
    """

    def __init__(
        self,
        prune_ratio: float | Sequence[float],
        groups: ChannelGroups | None = None,
        *,
        rule: StopRule = "paper",
        window: int = 5,
        epsilon: float = 0.1,
        criterion: Criterion = bn_scale,
        min_channels: int = 1,
        round_to: int = 1,
    ) -> None:
        self.prune_ratios = _checked_ratios(prune_ratio)
        _check(rule, window, epsilon, self.prune_ratios)
        self.groups, self.rule, self.window, self.epsilon = groups, rule, window, epsilon
        self.criterion, self.min_channels, self.round_to = criterion, min_channels, round_to
        self.draws = 0
        self.tickets: dict[float, Ticket] = {}
        self.last_scores: Mapping[str, Tensor] | None = None
        self._histories = {ratio: MaskHistory(rule, window, epsilon) for ratio in self.prune_ratios}
        self._fired: dict[float, int] = {}
        self._scored_groups: ChannelGroups | None = None

    @property
    def distances(self) -> dict[float, list[float]]:
        """Per ratio the distances between consecutive masks so far; the first is draw 2 against draw 1."""
        return {ratio: list(history.distances) for ratio, history in self._histories.items()}

    @property
    def fired(self) -> dict[float, int]:
        """Per ratio that has fired, the number of draws after which it did."""
        return dict(self._fired)

    def update(self, model: nn.Module) -> Ticket | None:
        """Draw the masks of this moment and apply the stop rule.

        Returns:
            With one ratio the ticket, once, and None before and after. With several None until all have fired, then the
            last ticket; `tickets` holds each with the dense weights of its own moment.

        Raises:
            NonFiniteError: a score is NaN or infinite; nothing is recorded.
            MaskError: the criterion's scores do not fit the groups.
        """
        scores = self.criterion(model)
        if self._all_equal(scores):
            warnings.warn("all scores are equal: this mask carries no information and is not recorded", stacklevel=2)
            return None
        groups = self._groups_for(model, scores)
        masks = {ratio: draw_mask(scores, ratio, groups, min_channels=self.min_channels) for ratio in self.prune_ratios}
        self.last_scores = scores
        self.draws += 1
        newest: Ticket | None = None
        for ratio, mask in masks.items():
            history = self._histories[ratio]
            history.record(mask, [mask_distance(mask, earlier, groups) for earlier in reversed(history.masks)])
            if ratio not in self._fired and history.fires():
                self._fired[ratio] = self.draws
                newest = self.tickets[ratio] = self.draw(model, ratio)
        return newest if len(self._fired) == len(self.prune_ratios) else None

    def draw(self, model: nn.Module, prune_ratio: float, *, rule: str | None = None) -> Ticket:
        """The ticket of this moment, whether or not the rule has fired (`rule` names why, default the detector's)."""
        scores = self.criterion(model)
        groups = self._groups_for(model, scores)
        mask = draw_mask(scores, prune_ratio, groups, min_channels=self.min_channels, round_to=self.round_to)
        history = self._histories.get(prune_ratio)
        return Ticket(
            mask=mask,
            weights={name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
            prune_ratio=prune_ratio,
            realised_ratio=realised_ratio(mask, groups),
            drawn_after=self.draws,
            rule=rule or self.rule,
            window=self.window,
            epsilon=self.epsilon,
            criterion=getattr(self.criterion, "__name__", type(self.criterion).__name__),
            min_channels=self.min_channels,
            round_to=self.round_to,
            policy=self.groups.policy if self.groups else "none",
            groups_digest=self.groups.digest() if self.groups else "",
            distances=tuple(history.distances) if history else (),
            flags=self._flags(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything `update` depends on, in tensors and plain values (`torch.load(weights_only=True)` reads it).

        Tickets are not in it: they are files (`Ticket.save`).
        """
        return {
            "draws": self.draws,
            "fired": dict(self._fired),
            "histories": {ratio: history.state_dict() for ratio, history in self._histories.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state back.

        Raises:
            ConfigError: the state belongs to other prune ratios.
        """
        if set(state["histories"]) != set(self.prune_ratios):
            raise ConfigError(f"detector state holds ratios {sorted(state['histories'])}, this one {self.prune_ratios}")
        self.draws = int(state["draws"])
        self._fired = {float(ratio): int(draw) for ratio, draw in state["fired"].items()}
        for ratio, history in self._histories.items():
            history.load_state_dict(state["histories"][ratio])

    def _groups_for(self, model: nn.Module, scores: Mapping[str, Tensor]) -> ChannelGroups | None:
        if self.groups is not None:
            if self._scored_groups is None:
                self._scored_groups = restrict_to_scored(self.groups, scores)
                self._warn_of_unscored(self._scored_groups)
            return self._scored_groups
        if self.draws == 0:
            self._check_without_groups(model, scores)
        return None

    def _warn_of_unscored(self, scored: ChannelGroups) -> None:
        missing = (self.groups.num_units if self.groups else 0) - scored.num_units
        if missing:
            warnings.warn(f"the criterion scores none of {missing} units; they stay and are not counted", stacklevel=4)

    def _check_without_groups(self, model: nn.Module, scores: Mapping[str, Tensor]) -> None:
        modules = dict(model.named_modules())
        stranger = next((name for name in scores if not isinstance(modules.get(name), _BatchNorm)), None)
        if stranger is not None:
            raise MaskError(
                f"scores of {stranger!r}, which is no BatchNorm, need groups; "
                "give groups=channel_groups(model, example_input)"
            )
        reason = why_not_a_plain_chain(model)
        if reason is not None:
            warnings.warn(
                f"no groups were given and the network may be no plain chain: {reason}; "
                "give groups=channel_groups(model, example_input)",
                stacklevel=4,
            )

    def _flags(self) -> tuple[str, ...]:
        earliest = {"paper": self.window + 1, "authors_code": self.window, "epi": 11}[self.rule]
        return ("fired at the rule's minimum",) if self.draws == earliest else ()

    @staticmethod
    def _all_equal(scores: Mapping[str, Tensor]) -> bool:
        if not scores:
            return False
        first = next(iter(scores.values())).flatten()[0]
        return all(bool((score == first).all()) for score in scores.values())


def _checked_ratios(prune_ratio: float | Sequence[float]) -> tuple[float, ...]:
    ratios = (prune_ratio,) if isinstance(prune_ratio, (int, float)) else tuple(prune_ratio)
    if not ratios or any(not 0.0 <= ratio < 1.0 for ratio in ratios):
        raise ConfigError(f"prune_ratio is {prune_ratio}; give a number in [0, 1) or several")
    if len(set(ratios)) != len(ratios):
        raise ConfigError(f"prune_ratio {prune_ratio} names a ratio twice")
    return tuple(float(ratio) for ratio in ratios)


def _check(rule: str, window: int, epsilon: float, ratios: Sequence[float]) -> None:
    if rule not in STOP_RULES:
        raise ConfigError(f"rule is {rule!r}; give one of {', '.join(STOP_RULES)}")
    if window < 1 + (rule == "authors_code"):
        raise ConfigError(f"window is {window}; rule {rule!r} needs at least {1 + (rule == 'authors_code')}")
    if not 0.0 < epsilon <= 1.0:
        raise ConfigError(f"epsilon is {epsilon}; give a number in (0, 1]")
    if rule == "epi":
        return
    for ratio in ratios:
        if 2.0 * ratio <= epsilon:
            warnings.warn(
                f"prune_ratio={ratio} allows no mask distance above {2 * ratio:.2f} <= epsilon={epsilon}: "
                "the rule will always fire; lower epsilon",
                stacklevel=3,
            )
