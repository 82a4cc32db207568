"""What the detector is given: scores, groups and arguments that say nothing, too little or the wrong thing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, EarlyBird, filter_l1
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def chain(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.BatchNorm1d(width) for width in widths or (10, 10)))


def rescale_(net: nn.Module, scales: Iterable[float] | Tensor) -> nn.Module:
    """Give the net's scales these values, end to end."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    parts = torch.as_tensor(scales).split([norm.num_features for norm in norms])
    for norm, part in zip(norms, parts, strict=True):
        norm.weight.data.copy_(part)
    return net


def fixed(draws: int, channels: int = 20) -> list[Tensor]:
    return [torch.arange(1.0, channels + 1)] * draws


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_a_mask_of_equal_scores_is_warned_about_and_not_counted():
    net, detector = chain(), EarlyBird(0.5)
    with pytest.warns(UserWarning, match="all scores are equal: this mask carries no information") as caught:
        assert detector.update(net) is None
    assert caught[0].filename == __file__
    assert (detector.draws, detector.distances, detector.last_scores) == (0, {0.5: []}, None)
    found = [detector.update(rescale_(net, scales)) for scales in fixed(6)]
    assert found[-1].drawn_after == 6


def test_equal_scores_of_all_that_may_go_carry_no_information_either():
    groups = ChannelGroups(
        {"0": torch.arange(10), "1": torch.full((10,), -1)}, protected={"1": dict.fromkeys(range(10), "why")}
    )
    net = rescale_(chain(), [1.0] * 10 + [0.0] * 10)  # such as a residual branch that starts at zero
    with pytest.warns(UserWarning, match="all scores are equal"):
        EarlyBird(0.5, groups).update(net)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("everywhere", [False, True])
def test_scales_that_are_not_finite_raise_and_leave_the_state_untouched(bad, everywhere):
    detector, twin = EarlyBird([0.3, 0.5]), EarlyBird([0.3, 0.5])
    for scales in fixed(4):
        detector.update(rescale_(chain(), scales))
        twin.update(rescale_(chain(), scales))
    broken = torch.full((20,), bad) if everywhere else torch.cat([torch.arange(19.0), torch.tensor([bad])])
    before, scores = repr(detector.state_dict()), detector.last_scores
    with pytest.raises(NonFiniteError, match="a score is NaN or infinite"):
        detector.update(rescale_(chain(), broken))
    assert repr(detector.state_dict()) == before
    assert detector.last_scores is scores
    for scales in fixed(2):
        assert (detector.update(rescale_(chain(), scales)) is None) == (twin.update(rescale_(chain(), scales)) is None)


def test_masks_of_another_network_raise_and_leave_the_state_untouched():
    wide, narrow = EarlyBird(0.5), EarlyBird(0.5)
    wide.update(rescale_(chain(), torch.arange(20.0)))
    narrow.load_state_dict(wide.state_dict())
    with pytest.raises(MaskError, match="masks differ at layer '0': 5 channels against 10 channels"):
        narrow.update(rescale_(chain(5, 5), torch.arange(10.0)))
    with pytest.raises(MaskError, match="layer '0' has 5 scores for 10 channels; score this network"):
        wide.update(rescale_(chain(5, 5), torch.arange(10.0)))
    assert repr(narrow.state_dict()) == repr(wide.state_dict())
    assert (narrow.draws, narrow.last_scores) == (1, None)


def test_without_groups_a_network_with_adds_is_warned_about_once():
    net, detector = rescale_(Residual(), torch.arange(8.0)), EarlyBird(0.5)
    with pytest.warns(
        UserWarning, match=r"no plain chain: it adds two values at 'add'.*groups=channel_groups"
    ) as caught:
        detector.update(net)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.update(net)


def test_a_network_with_adds_is_warned_about_at_the_first_update_even_if_its_scores_are_equal():
    with pytest.warns(UserWarning) as caught:
        EarlyBird(0.5).update(Residual())
    assert [str(w.message)[:12] for w in caught] == ["no groups we", "all scores a"]


def test_neither_a_chain_nor_a_network_with_groups_is_warned_about():
    tied = ChannelGroups({"a": torch.arange(4), "b": torch.arange(4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for detector, net in (
            (EarlyBird(0.5), rescale_(chain(), torch.arange(20.0))),
            (EarlyBird(0.5, tied), rescale_(Residual(), torch.arange(8.0))),
        ):
            detector.update(net)
            assert detector.draws == 1


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.05, 0.95001, 0.99])
def test_a_ratio_that_always_fires_is_warned_about(ratio):
    with pytest.warns(UserWarning, match=f"prune_ratio={ratio} allows no mask distance above .* always fire") as caught:
        EarlyBird([0.5, ratio])
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "settings", [{"prune_ratio": 0.06}, {"prune_ratio": 0.94}, {"prune_ratio": 0.01, "rule": "epi"}]
)
def test_a_ratio_that_may_differ_enough_is_not(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert EarlyBird(**settings).prune_ratios == (settings["prune_ratio"],)


def test_sync_batch_norms_are_watched():
    net = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm3d(4))
    detector = EarlyBird(0.5)
    detector.update(rescale_(net, torch.arange(8.0)))
    assert list(detector.last_scores) == ["0", "1"]


def test_units_without_a_score_are_warned_about_and_stay():
    net = chain(4)
    groups = ChannelGroups({"0": torch.arange(4), "fc": torch.tensor([4, 5])})
    detector = EarlyBird(0.5, groups, window=1)
    with pytest.warns(
        UserWarning, match="the criterion gives 2 units no score; they stay and are not counted"
    ) as caught:
        detector.update(rescale_(net, torch.arange(4.0)))
    assert caught[0].filename == __file__
    ticket = detector.update(net)
    assert ticket.mask.kept_counts() == {"0": 2, "fc": 2}
    assert ticket.realised_ratio == 0.5
    assert ticket.groups_digest == groups.digest()


def test_groups_that_leave_nothing_to_cut_are_refused_with_the_reason():
    groups = ChannelGroups({"0": torch.full((4,), -1)}, protected={"0": dict.fromkeys(range(4), "crosses an add")})
    with pytest.raises(
        MaskError, match=r"no channel may be cut under policy 'tie' \(crosses an add\); give another policy"
    ):
        EarlyBird(0.5, groups).update(rescale_(chain(4), torch.arange(4.0)))


def test_scores_of_convs_need_groups():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(
        MaskError, match="scores of '0', which is no BatchNorm, need groups; give groups=channel_groups"
    ):
        EarlyBird(0.5, criterion=filter_l1).update(net)
    groups = ChannelGroups({"1": torch.arange(4)}, {"0": torch.arange(4)})
    detector = EarlyBird(0.5, groups, criterion=filter_l1, window=1)
    detector.update(net)
    ticket = detector.update(net)
    assert ticket.criterion == "filter_l1"
    assert ticket.mask.kept_counts() == {"1": 2}


def test_a_criterion_of_ones_own_is_asked_once_per_update():
    calls = []

    class Wandering:
        def __call__(self, model: nn.Module) -> dict[str, Tensor]:
            calls.append(model)
            return {"0": torch.tensor([0.1, 0.2, 0.3, float(len(calls))])}

    net, detector = chain(4), EarlyBird([0.25, 0.5], criterion=Wandering(), window=1)
    detector.update(net)
    ticket = detector.update(net)
    assert len(calls) == 2
    assert ticket.criterion == "Wandering"


def test_a_criterion_that_comes_to_see_other_layers_is_followed():
    groups = ChannelGroups({"0": torch.arange(4), "1": torch.arange(4, 8)})
    seen = [{"0": torch.arange(4.0)}, {"0": torch.arange(4.0), "1": torch.arange(4.0)}]
    detector = EarlyBird(0.5, groups, criterion=lambda model: seen[min(detector.draws, 1)])
    with pytest.warns(UserWarning, match="gives 4 units no score"):
        detector.update(chain(4, 4))
    detector.update(chain(4, 4))
    assert detector.distances[0.5] == [2 / 8]


def test_a_criterion_that_scores_nothing_is_refused():
    with pytest.raises(MaskError, match="the criterion scores no layer"):
        EarlyBird(0.5, criterion=lambda model: {}).update(chain())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio is 1.0; give a number in \[0, 1\) or several"),
        ({"prune_ratio": [0.5, -0.1]}, "give a number in"),
        ({"prune_ratio": float("nan")}, "prune_ratio is nan"),
        ({"prune_ratio": []}, r"prune_ratio is \[\]"),
        ({"prune_ratio": [0.5, 0.5]}, "names a ratio twice; give each once"),
        ({"rule": "late"}, "rule is 'late'; give one of paper, authors_code, epi"),
        ({"window": 0}, "window is 0"),
        ({"rule": "authors_code", "window": 1}, "window is 1; rule 'authors_code' needs at least 2"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"min_channels": 0}, "min_channels is 0 and round_to 1; give integers >= 1"),
        ({"round_to": 0}, "min_channels is 1 and round_to 0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_birth(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EarlyBird(**{"prune_ratio": 0.5, **arguments})
