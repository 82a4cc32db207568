from __future__ import annotations

import io
import time
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, EarlyBird, draw_mask, first_firing_draw, mask_distance
from earlybird.errors import ConfigError


def chain(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.BatchNorm1d(width) for width in widths or (10, 10)))


def rescale_(net: nn.Module, scales: Iterable[float] | Tensor) -> nn.Module:
    """Give the net's scales these values, end to end."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    parts = torch.as_tensor(scales).split([norm.num_features for norm in norms])
    for norm, part in zip(norms, parts, strict=True):
        norm.weight.data.copy_(part)
    return net


def drifting_scales(seed: int, draws: int, channels: int = 20) -> list[Tensor]:
    """Random walks whose steps get shorter."""
    random = torch.Generator().manual_seed(seed)
    scales, found = torch.rand(channels, generator=random), []
    for draw in range(draws):
        scales = scales + torch.randn(channels, generator=random) / (1 + draw)
        found.append(scales)
    return found


def fixed(draws: int, channels: int = 20) -> list[Tensor]:
    return [torch.arange(1.0, channels + 1)] * draws


def test_one_ratio_gives_its_ticket_once_and_none_before_and_after():
    net, detector = chain(), EarlyBird(0.5)
    found = [detector.update(rescale_(net, scales)) for scales in fixed(9)]
    assert [ticket is not None for ticket in found] == [False] * 5 + [True] + [False] * 3
    assert found[5] is detector.tickets[0.5]
    assert detector.fired == {0.5: 6}
    assert detector.draws == 9
    assert detector.distances == {0.5: [0.0] * 8}


def test_a_ticket_says_how_it_was_drawn():
    net, detector = chain(), EarlyBird(0.3, min_channels=2)
    ticket = [detector.update(rescale_(net, scales)) for scales in fixed(6)][-1]
    assert ticket.mask == draw_mask({"0": torch.arange(10.0), "1": torch.arange(10.0, 20)}, 0.3)
    how = {name: value for name, value in vars(ticket).items() if name not in ("mask", "weights")}
    assert how == {
        "prune_ratio": 0.3,
        "realised_ratio": pytest.approx(0.3),
        "drawn_after": 6,
        "rule": "paper",
        "window": 5,
        "epsilon": 0.1,
        "criterion": "bn_scale",
        "min_channels": 2,
        "round_to": 1,
        "tie_score": "mean",
        "policy": "none",
        "groups_digest": "",
        "distances": (0.0,) * 5,
        "flags": ("fired at the rule's minimum",),
        "notes": {},
    }


def test_a_ticket_of_a_search_with_groups_names_them():
    net = chain()
    groups = ChannelGroups({"0": torch.arange(10), "1": torch.arange(10)}, policy="tie")
    detector = EarlyBird(0.5, groups)
    ticket = [detector.update(rescale_(net, scales)) for scales in fixed(6)][-1]
    assert (ticket.policy, ticket.groups_digest) == ("tie", groups.digest())
    assert ticket.mask.kept_counts() == {"0": 5, "1": 5}
    groups.check(ticket.mask)


def test_only_a_ticket_at_the_rules_minimum_is_flagged():
    net, detector = chain(), EarlyBird(0.5, epsilon=0.2)
    turned = torch.arange(20.0, 0.0, -1.0)
    tickets = [detector.update(rescale_(net, scales)) for scales in (turned, *fixed(6))]
    assert [ticket.flags for ticket in tickets if ticket] == [()]


def test_several_ratios_give_none_until_all_have_fired_then_the_last_ticket():
    net = chain(40, 60)
    detector = EarlyBird([0.2, 0.5, 0.8], window=3)
    found = [detector.update(rescale_(net, scales)) for scales in drifting_scales(3, 60, 100)]
    last = max(detector.fired.values())
    assert len(set(detector.fired.values())) > 1
    assert [number for number, ticket in enumerate(found, 1) if ticket] == [last]
    assert detector.fired[found[last - 1].prune_ratio] == last
    assert {ratio: ticket.drawn_after for ratio, ticket in detector.tickets.items()} == detector.fired


def test_ratios_watched_together_fire_as_if_watched_alone():
    history = drifting_scales(4, 60, 100)
    together = EarlyBird([0.2, 0.5, 0.8], window=3)
    for scales in history:
        together.update(rescale_(chain(40, 60), scales))
    for ratio in (0.2, 0.5, 0.8):
        alone = EarlyBird(ratio, window=3)
        ticket = next(filter(None, (alone.update(rescale_(chain(40, 60), scales)) for scales in history)))
        assert ticket.mask == together.tickets[ratio].mask
        assert ticket.distances == together.tickets[ratio].distances


def test_tickets_keep_the_dense_weights_of_their_own_moment():
    net, detector = chain(40, 60), EarlyBird([0.2, 0.8], window=3)
    states = []
    for scales in drifting_scales(3, 60, 100):
        rescale_(net, scales)[0].running_mean += 1
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        detector.update(net)
    assert len(set(detector.fired.values())) == 2
    for ratio, draw in detector.fired.items():
        weights = detector.tickets[ratio].weights
        assert list(weights) == list(states[0])
        assert all(torch.equal(weights[name], value) for name, value in states[draw - 1].items())


@pytest.mark.parametrize("rule", ["paper", "authors_code"])
@pytest.mark.parametrize("seed", range(4))
def test_the_detector_fires_where_the_rule_fires_on_its_own_masks(rule, seed):
    history, net = drifting_scales(seed, 40), chain()
    detector = EarlyBird(0.5, rule=rule, window=3, epsilon=0.15)
    for scales in history:
        detector.update(rescale_(net, scales))
    masks = [draw_mask({"0": s[:10].abs(), "1": s[10:].abs()}, 0.5) for s in history]
    matrix = np.array([[mask_distance(a, b) for b in masks] for a in masks])
    assert detector.fired == {0.5: first_firing_draw(matrix, rule, window=3, epsilon=0.15)}
    assert detector.distances[0.5] == [matrix[i + 1, i] for i in range(39)]


def test_epi_fires_on_counts_though_identities_change():
    # Each draw turns both layers round: the kept channels change, their number does not.
    net, detector = chain(), EarlyBird(0.5, rule="epi")
    layer = torch.arange(1.0, 11)
    found = [detector.update(rescale_(net, torch.cat([s, s]))) for s in [layer, layer.flip(0)] * 6]
    assert [number for number, ticket in enumerate(found, 1) if ticket] == [11]
    assert min(detector.distances[0.5]) == 1.0
    assert detector.tickets[0.5].flags == ("fired at the rule's minimum",)


def test_masks_are_compared_before_rounding_and_the_ticket_is_rounded():
    net, detector = chain(), EarlyBird(0.25, round_to=4, window=1, epsilon=0.06)
    low = torch.arange(1.0, 21)
    swapped = low.clone()
    swapped[[4, 5]] = low[[5, 4]]  # across the threshold: one unit goes, one comes back
    assert detector.update(rescale_(net, low)) is None
    assert detector.update(rescale_(net, swapped)) is None
    ticket = detector.update(rescale_(net, swapped))
    assert detector.distances[0.25] == [pytest.approx(2 / 20), 0.0]
    assert ticket.mask.kept_counts() == {"0": 4, "1": 10}  # 5 and 10 before
    assert (ticket.prune_ratio, ticket.realised_ratio, ticket.round_to) == (0.25, pytest.approx(0.3), 4)


def state_through_a_file(detector: EarlyBird) -> dict[str, object]:
    buffer = io.BytesIO()
    torch.save(detector.state_dict(), buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.parametrize("rule", ["paper", "authors_code", "epi"])
@pytest.mark.parametrize("cut", [0, 1, 6, 20])
def test_a_detector_resumed_from_a_file_behaves_as_one_that_was_left_alone(rule, cut):
    history, settings = drifting_scales(5, 40), {"rule": rule, "window": 4, "epsilon": 0.15}
    left_alone, killed, resumed = (EarlyBird([0.3, 0.6], **settings) for _ in range(3))
    whole = [left_alone.update(rescale_(chain(), scales)) for scales in history]
    for scales in history[:cut]:
        killed.update(rescale_(chain(), scales))
    resumed.load_state_dict(state_through_a_file(killed))
    rest = [resumed.update(rescale_(chain(), scales)) for scales in history[cut:]]
    assert [ticket and vars(ticket) | {"weights": 0} for ticket in rest] == [
        ticket and vars(ticket) | {"weights": 0} for ticket in whole[cut:]
    ]
    assert resumed.fired == left_alone.fired
    assert resumed.distances == left_alone.distances
    assert resumed.draws == left_alone.draws == 40
    assert repr(state_through_a_file(resumed)) == repr(state_through_a_file(left_alone))


def test_taking_a_state_back_drops_tickets_of_another_time():
    detector = EarlyBird(0.5)
    early = detector.state_dict()
    for scales in fixed(6):
        detector.update(rescale_(chain(), scales))
    detector.load_state_dict(early)
    assert (detector.tickets, detector.fired, detector.draws) == ({}, {}, 0)


def test_a_state_of_other_ratios_is_refused():
    with pytest.raises(ConfigError, match=r"state holds prune ratios \[0.3\], this detector \(0.5,\)"):
        EarlyBird(0.5).load_state_dict(EarlyBird(0.3).state_dict())


def test_a_forced_ticket_says_so_and_records_nothing():
    net, detector = chain(), EarlyBird(0.5)
    for scales in drifting_scales(0, 6):  # The rule's minimum, reached without firing.
        detector.update(rescale_(net, scales))
    assert detector.fired == {}
    before = repr(detector.state_dict())
    ticket = detector.draw(net, 0.5)
    assert (ticket.rule, ticket.drawn_after, ticket.flags) == ("forced", 6, ())
    assert ticket.distances == tuple(detector.distances[0.5])
    assert repr(detector.state_dict()) == before
    assert detector.tickets == {}


def test_a_ticket_of_any_ratio_can_be_drawn():
    ticket = EarlyBird(0.5).draw(rescale_(chain(), torch.arange(20.0)), 0.25, rule="by hand")
    assert (ticket.prune_ratio, ticket.realised_ratio, ticket.rule) == (0.25, 0.25, "by hand")
    assert ticket.distances == ()
    with pytest.raises(ConfigError, match="prune_ratio is 1.5"):
        EarlyBird(0.5).draw(rescale_(chain(), torch.arange(20.0)), 1.5)


def test_a_ticket_drawn_at_initialisation_is_labelled():
    ticket = EarlyBird(0.5).draw(chain(), 0.5)
    assert ticket.flags == ("all scores were equal: the mask carries no information",)
    assert ticket.mask.kept_counts() == {"0": 5, "1": 5}


def test_the_network_is_left_as_found():
    net = rescale_(chain(), torch.arange(20.0)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    detector = EarlyBird(0.5, window=1)
    detector.update(net)
    ticket = detector.update(net)
    for value in ticket.weights.values():
        value.zero_()
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_an_update_of_a_full_width_vgg16_takes_milliseconds():
    widths = [64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    net, detector = chain(*widths), EarlyBird([0.3, 0.5, 0.7], epsilon=1e-6)
    seconds = []
    for scales in drifting_scales(0, 10, 4224):
        rescale_(net, scales)
        start = time.perf_counter()
        detector.update(net)
        seconds.append(time.perf_counter() - start)
    assert not detector.fired
    assert min(seconds) < 0.015
