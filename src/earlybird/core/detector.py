"""`EarlyBird`: detector that draws a mask at every update and fires once the mask has stopped changing.

Nothing is trained, cut or moved here: a loop of any kind can own it. Masks are compared as drawn; only the ticket's own
mask is rounded, because snapping would hide or invent changes near the threshold.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from earlybird.core import TieScore
from earlybird.core.criteria import Criterion, bn_scale
from earlybird.core.drawing import (
    GIVE_GROUPS,
    Ranking,
    draw_ranked,
    rank_units,
    realised_ratio,
    scored_groups,
    shortfall,
    shortfall_of,
)
from earlybird.core.groups import ChannelGroups, mask_distance
from earlybird.core.mask import ChannelMask
from earlybird.core.stop_rules import MaskHistory, checked_stop_rule
from earlybird.core.ticket import Ticket
from earlybird.errors import ConfigError, MaskError, is_integer, is_number, reason, require, require_type

_ADDS = {operator.add, operator.iadd, torch.add}


class EarlyBird:
    """Early-Bird detector (You et al. 2020, Algorithm 1) for one prune ratio or many in one search.

    Args:
        prune_ratio: fraction of units to remove, in [0, 1), or several.
        groups: channels that are cut together (`earlybird.channel_groups`); without them the net must be a plain chain.
        rule: a name in `STOP_RULES`.
        window: of the stop rule, in distances or masks.
        epsilon: threshold on the mask distance, in (0, 1].
        criterion: scores the channels of a network; `bn_scale` by default.
        min_channels: floor per layer.
        round_to: kept counts of the ticket are multiples of this.
        tie_score: score of a tied unit: the "mean", "max" or "sum" over its scored channels.

    Attributes:
        draws: masks drawn so far by each ratio.
        tickets: ratio -> its ticket, once it has fired.
        last_scores: scores of the last draw.

    Raises:
        ConfigError: an argument is out of range.

    Warns:
        UserWarning: two masks of this ratio cannot differ by more than epsilon, so that the rule would always fire.
    """

    def __init__(
        self,
        prune_ratio: float | Sequence[float],
        groups: ChannelGroups | None = None,
        *,
        rule: str = "paper",
        window: int = 5,
        epsilon: float = 0.1,
        criterion: Criterion = bn_scale,
        min_channels: int = 1,
        round_to: int = 1,
        tie_score: TieScore = "mean",
    ) -> None:
        self.prune_ratios = _checked_ratios(prune_ratio)
        self._stop_rule = checked_stop_rule(rule, window, epsilon)
        if not all(is_integer(number) and number >= 1 for number in (min_channels, round_to)):
            raise ConfigError(f"min_channels is {min_channels!r} and round_to {round_to!r}; give integers >= 1")
        require("criterion", criterion, callable(criterion), "a function from a network to scores, such as bn_scale")
        if groups is not None:
            require_type("groups", groups, ChannelGroups, ConfigError, GIVE_GROUPS)
        require("tie_score", tie_score, tie_score in get_args(TieScore), f"one of {', '.join(get_args(TieScore))}")
        for ratio in self.prune_ratios if self._stop_rule.reads_distances else ():
            largest = 2.0 * min(ratio, 1.0 - ratio)  # Two masks differ in at most all they cut, or all they keep.
            if largest <= epsilon:
                told = f"prune_ratio={ratio} allows no mask distance above {largest:.2f} <= epsilon={epsilon}"
                warnings.warn(f"{told}: the rule will always fire; lower epsilon", stacklevel=2)
        self.groups, self.rule, self.window, self.epsilon = groups, rule, window, epsilon
        self.criterion, self.min_channels, self.round_to, self.tie_score = criterion, min_channels, round_to, tie_score
        self.draws = 0
        self.tickets: dict[float, Ticket] = {}
        self.last_scores: Mapping[str, Tensor] | None = None
        self._histories = {ratio: MaskHistory(self._stop_rule, window, epsilon) for ratio in self.prune_ratios}
        self._fired: dict[float, int] = {}
        self._scored: tuple[tuple[str, ...], ChannelGroups] | None = None

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
            MaskError: the criterion's scores do not fit the groups, or no unit may be cut.

        Warns:
            UserWarning: all scores are equal (nothing is recorded), some units have no score or must stay, or no groups
                were given and the network may be no plain chain.
        """
        scores = self.criterion(model)
        ranking = self._rank(model, scores)
        if ranking.is_uninformative:
            warnings.warn("all scores are equal: this mask carries no information and is not recorded", stacklevel=2)
            return None
        masks = {ratio: draw_ranked(ranking, ratio, min_channels=self.min_channels) for ratio in self.prune_ratios}
        distances = {
            ratio: [mask_distance(mask, earlier, ranking.groups) for earlier in reversed(self._histories[ratio].masks)]
            for ratio, mask in masks.items()
        }
        # Nothing was recorded so far; nothing can fail from here on.
        self.last_scores = scores
        self.draws += 1
        newest: Ticket | None = None
        for ratio, mask in masks.items():
            history = self._histories[ratio]
            history.record(mask, distances[ratio])
            if ratio not in self._fired and history.fires():
                self._fired[ratio] = self.draws
                at_minimum = self.draws == self._stop_rule.earliest(self.window)
                flags = ("fired at the rule's minimum",) if at_minimum else ()
                newest = self.tickets[ratio] = self._ticket(model, ranking, ratio, self.rule, *flags)
        return newest if len(self._fired) == len(self.prune_ratios) else None

    def draw(self, model: nn.Module, prune_ratio: float, *, rule: str = "forced") -> Ticket:
        """Draw the ticket of this moment, ignoring the stop rule; nothing is recorded.

        Raises:
            ConfigError: `prune_ratio` is outside [0, 1).
            NonFiniteError, MaskError: as `update`.
        """
        ranking = self._rank(model, self.criterion(model))
        flags = ("all scores were equal: the mask carries no information",) if ranking.is_uninformative else ()
        return self._ticket(model, ranking, prune_ratio, rule, *flags)

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
        """Restore a state; tickets held so far are dropped.

        Raises:
            ConfigError: the state belongs to other prune ratios or another network, or was changed.
        """
        histories = state.get("histories") if isinstance(state, Mapping) else None
        if not isinstance(histories, Mapping) or set(histories) != set(self.prune_ratios):
            theirs = [*histories] if isinstance(histories, Mapping) else []
            told = f"detector state holds prune ratios {theirs}, this detector {self.prune_ratios}"
            raise ConfigError(f"{told}; make it with the same")
        draws: Any = state.get("draws")
        fired: Any = state.get("fired")
        right = is_integer(draws) and isinstance(fired, Mapping) and set(fired) <= set(histories)
        if not right or not all(is_integer(draw) and 1 <= draw <= draws for draw in fired.values()):
            raise ConfigError(f"detector state was changed (draws {draws!r:.40}, fired {fired!r:.40}); restore it")
        for ratio, history in self._histories.items():
            history.restore(*self._checked_history(histories[ratio], draws))
        self.draws, self._fired = draws, dict(fired)
        self.tickets, self.last_scores = {}, None

    def _checked_history(self, saved: Any, draws: int) -> tuple[list[ChannelMask], list[float], list[float]]:
        """Masks, distances and values of a stored history of so many draws."""
        try:
            masks, distances = [ChannelMask(mask) for mask in saved["masks"]], list(saved["distances"])
            values, widths = list(saved["epi_values"]), [self.groups] if self.groups else masks[:1]
            fits = len(distances) == max(0, draws - 1) and bool(draws) == bool(masks) and len(masks) <= draws
            fits = fits and all(mask.widths() == widths[0].widths() for mask in masks)
            fits = fits and all(is_number(number) and 0 <= number <= 1 for number in distances)
            if not fits or not all(is_number(value) and math.isfinite(value) for value in values):
                raise ValueError(f"{len(masks)} masks and {len(distances)} distances after {draws} draws")
        except (KeyError, TypeError, ValueError, MaskError) as error:
            told = f"detector state was changed, or is of another network ({reason(error)})"
            raise ConfigError(f"{told}; restore it, or begin the search anew") from error
        return masks, distances, values

    def _ticket(self, model: nn.Module, ranking: Ranking, prune_ratio: float, rule: str, *flags: str) -> Ticket:
        mask = draw_ranked(ranking, prune_ratio, min_channels=self.min_channels, round_to=self.round_to)
        flags = (*flags, *filter(None, [shortfall_of(mask, ranking.groups, prune_ratio, self.round_to)]))
        weights = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
        shared = ("window", "epsilon", "min_channels", "tie_score", "round_to")
        drawn: dict[str, Any] = {"drawn_after": self.draws, "rule": rule, "flags": flags}
        drawn |= {name: getattr(self, name) for name in shared}
        drawn["criterion"] = getattr(self.criterion, "__name__", type(self.criterion).__name__)
        if self.groups:
            drawn |= {"policy": self.groups.policy, "groups_digest": self.groups.digest()}
        if history := self._histories.get(prune_ratio):
            drawn["distances"] = tuple(history.distances)
        return Ticket(mask, weights, prune_ratio, realised_ratio(mask, ranking.groups), **drawn)

    def _rank(self, model: nn.Module, scores: Mapping[str, Tensor]) -> Ranking:
        names = tuple(scores)
        if self._scored is None or self._scored[0] != names:  # A criterion may come to see other layers.
            groups = scored_groups(scores, self.groups)
            self._check(model, scores, groups)
            self._scored = names, groups
        return rank_units(scores, self._scored[1], self.tie_score)

    def _check(self, model: nn.Module, scores: Mapping[str, Tensor], scored: ChannelGroups) -> None:
        """Refuse scores that fit no network, warn of units without one; once for each set of scored layers."""
        if self.groups is None:
            modules = dict(model.named_modules())
            stranger = next((name for name in scores if not isinstance(modules.get(name), _BatchNorm)), None)
            if stranger is not None:
                raise MaskError(f"scores of {stranger!r}, which is no BatchNorm, need groups; {GIVE_GROUPS}")
            if reason := why_not_a_plain_chain(model):
                told = f"no groups were given and the network may be no plain chain: {reason}; {GIVE_GROUPS}"
                warnings.warn(told, stacklevel=4)
            return
        if not scored.num_units:
            reasons = sorted({reason for channels in scored.protected.values() for reason in channels.values()})
            told = f"no channel may be cut under policy {scored.policy!r} ({'; '.join(reasons[:3])})"
            raise MaskError(f"{told}; give another policy or fewer keep patterns")
        if missing := self.groups.num_units - scored.num_units:
            warnings.warn(f"the criterion gives {missing} units no score; they stay and are not counted", stacklevel=4)
        for told in filter(None, (shortfall(scored, ratio) for ratio in self.prune_ratios)):
            warnings.warn(told, stacklevel=4)


def why_not_a_plain_chain(model: nn.Module) -> str | None:
    """Reason why channels of this network may be tied, as one clause; None for a plain chain.

    Only a warning hangs on it: the exact answer is `earlybird.slimming.channel_groups`.
    """
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd) and module.groups > 1:
            return f"{name!r} is a grouped convolution, which ties what it reads to what it writes"
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # Tracing runs foreign code, which may raise anything.
        return f"it cannot be traced to tell ({type(error).__name__})"
    for node in graph.nodes:
        is_method = node.op == "call_method" and node.target in ("add", "add_")
        is_add = is_method or (node.op == "call_function" and node.target in _ADDS)
        # A parameter that is added (`get_attr`) is no second value.
        if is_add and sum(source.op != "get_attr" for source in node.all_input_nodes) == 2:
            return f"it adds two values at {node.name!r}, which ties their channels"
    return None


def _checked_ratios(prune_ratio: float | Sequence[float]) -> tuple[float, ...]:
    ratios = tuple(prune_ratio) if isinstance(prune_ratio, (list, tuple)) else (prune_ratio,)
    are_legal = len(ratios) > 0 and all(is_number(ratio) and 0.0 <= ratio < 1.0 for ratio in ratios)
    require("prune_ratio", prune_ratio, are_legal, "a number in [0, 1) or several")
    if len(set(ratios)) != len(ratios):
        raise ConfigError(f"prune_ratio {prune_ratio} names a ratio twice; give each once")
    return tuple(float(ratio) for ratio in ratios)
