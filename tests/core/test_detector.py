from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import nn

from earlybird.core import ChannelGroups, EarlyBird, draw_mask, filter_l1, taylor
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))


def set_scales(model: nn.Module, values: torch.Tensor) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, part in zip(norms, values.split([n.num_features for n in norms]), strict=True):
        norm.weight.data.copy_(part)


def settled(model: nn.Module) -> None:
    set_scales(model, torch.arange(1, 13).float())


def unsettled(model: nn.Module, seed: int) -> None:
    set_scales(model, torch.rand(12, generator=torch.Generator().manual_seed(seed)) + 0.1)


def test_one_ratio_gives_the_ticket_once_at_the_sixth_stable_draw():
    model, detector = chain(), EarlyBird(0.5)
    settled(model)
    returned = [detector.update(model) for _ in range(9)]
    assert [r is not None for r in returned] == [False] * 5 + [True] + [False] * 3
    ticket = returned[5]
    assert (ticket.drawn_after, ticket.prune_ratio, ticket.realised_ratio) == (6, 0.5, 0.5)
    assert ticket.mask["1"].tolist() == [False] * 6 + [True] * 2
    assert ticket.distances == (0.0,) * 5
    assert ticket.flags == ("fired at the rule's minimum",)
    assert detector.fired == {0.5: 6}


def test_an_unstable_mask_delays_the_ticket():
    model, detector = chain(), EarlyBird(0.5)
    for seed in range(4):
        unsettled(model, seed)
        assert detector.update(model) is None
    settled(model)
    draws = 4
    while detector.update(model) is None:
        draws += 1
    assert draws + 1 == 4 + 6
    assert detector.tickets[0.5].flags == ()


def test_several_ratios_give_none_until_all_have_fired_then_the_last_ticket():
    model, detector = chain(), EarlyBird([0.25, 0.5], epsilon=0.05)
    base = torch.arange(1, 13).float()
    returned = []
    for draw in range(12):
        # Below the 3 lowest nothing moves; which channel is sixth lowest swaps until draw 4.
        values = base.clone()
        if draw < 4 and draw % 2:
            values[5], values[6] = base[6], base[5]
        set_scales(model, values)
        model[0].weight.data.fill_(float(draw))
        returned.append(detector.update(model))
    assert detector.fired[0.25] == 6 < detector.fired[0.5] == 10
    assert [r is not None for r in returned].index(True) == 9
    assert returned[9] is detector.tickets[0.5]
    # Each ticket holds the dense weights of its own moment.
    assert float(detector.tickets[0.25].weights["0.weight"].mean()) == 5.0
    assert float(detector.tickets[0.5].weights["0.weight"].mean()) == 9.0


def test_equal_scores_are_warned_about_and_not_counted():
    model, detector = chain(), EarlyBird(0.5)
    with pytest.warns(UserWarning, match="carries no information and is not recorded"):
        assert detector.update(model) is None
    assert detector.draws == 0
    assert detector.distances == {0.5: []}


def test_a_nan_scale_stops_and_leaves_the_state_alone():
    model, detector = chain(), EarlyBird(0.5)
    settled(model)
    detector.update(model)
    model[1].weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="layer '1'"):
        detector.update(model)
    assert detector.draws == 1
    assert detector.distances == {0.5: []}


@pytest.mark.parametrize("rule", ["paper", "authors_code", "epi"])
@pytest.mark.parametrize("saved_after", [1, 4, 9])
def test_a_saved_detector_has_the_same_future(rule, saved_after: int):
    def advance(detector: EarlyBird, model: nn.Module, first: int, last: int) -> list[bool]:
        results = []
        for draw in range(first, last):
            unsettled(model, draw) if draw < 3 else settled(model)
            results.append(detector.update(model) is not None)
        return results

    model = chain()
    whole = EarlyBird([0.3, 0.5], rule=rule)
    expected = advance(whole, model, 0, saved_after) and advance(whole, model, saved_after, 20)
    first, second = EarlyBird([0.3, 0.5], rule=rule), EarlyBird([0.3, 0.5], rule=rule)
    advance(first, model, 0, saved_after)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert advance(second, model, saved_after, 20) == expected
    assert second.fired == whole.fired
    assert second.distances == whole.distances


def test_a_state_of_other_ratios_is_refused():
    with pytest.raises(ConfigError, match=r"detector state holds ratios \[0\.3\]"):
        EarlyBird(0.5).load_state_dict(EarlyBird(0.3).state_dict())


class WithAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return x + self.bn(self.conv(x))


def test_without_groups_a_net_with_adds_is_warned_about_and_a_chain_is_not():
    model = WithAdd()
    model.bn.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    with pytest.warns(UserWarning, match="may be no plain chain: it adds two values at 'add'"):
        EarlyBird(0.5).update(model)
    plain = chain()
    settled(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EarlyBird(0.5).update(plain)


def test_a_ratio_at_which_the_rule_always_fires_is_warned_about():
    with pytest.warns(UserWarning, match=r"prune_ratio=0\.05 allows no mask distance above 0\.10 <= epsilon=0\.1"):
        EarlyBird(0.05)


def test_scores_by_convolution_need_groups():
    model = chain()
    with pytest.raises(MaskError, match="scores of '0', which is no BatchNorm, need groups"):
        EarlyBird(0.5, criterion=filter_l1).update(model)
    groups = ChannelGroups(
        {"1": torch.arange(8), "4": torch.full((4,), -1)},
        {"0": torch.arange(8)},
        {"4": dict.fromkeys(range(4), "output")},
    )
    detector = EarlyBird(0.5, groups, criterion=filter_l1)
    detector.update(model)
    assert detector.draw(model, 0.5).mask == draw_mask(filter_l1(model), 0.5, groups)
    with pytest.raises(MaskError, match="found no gradient at '0'"):
        EarlyBird(0.5, groups, criterion=taylor).update(model)


def test_only_the_tickets_own_mask_is_rounded():
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32))
    model[1].weight.data.copy_(torch.arange(1, 33).float())
    detector = EarlyBird(0.4, round_to=8)
    for _ in range(6):
        ticket = detector.update(model)
    assert ticket.mask.kept_counts() == {"1": 16}  # 19 of 32 stay at p = 0.4; 16 is the nearest multiple of 8
    assert ticket.realised_ratio == 0.5
    assert (detector.state_dict()["histories"][0.4]["masks"][0]["1"]).sum() == 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio is 1\.0; give a number in \[0, 1\)"),
        ({"prune_ratio": []}, r"prune_ratio is \[\]"),
        ({"prune_ratio": [0.5, 0.5]}, "names a ratio twice"),
        ({"prune_ratio": 0.5, "rule": "mine"}, "rule is 'mine'; give one of paper, authors_code, epi"),
        ({"prune_ratio": 0.5, "window": 0}, "window is 0"),
        ({"prune_ratio": 0.5, "window": 1, "rule": "authors_code"}, "needs at least 2"),
        ({"prune_ratio": 0.5, "epsilon": 0.0}, r"epsilon is 0\.0; give a number in \(0, 1\]"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        EarlyBird(**arguments)
