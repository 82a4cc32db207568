from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird.core import ChannelMask
from earlybird.errors import SlimError
from earlybird.slimming import Difference, channel_groups, difference, masked, slim
from earlybird.slimming.check import check_cut, within_rounding

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
MASK = ChannelMask({"1": torch.tensor([True, False, True, True])})


def network(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *more, nn.Conv2d(4, 2, 1))


def test_a_network_does_not_differ_from_itself():
    assert difference(network(), network(), X) == Difference(0.0, 0.0)


def test_a_difference_is_relative_to_the_largest_output():
    a, b = nn.Identity(), nn.Linear(1, 1, bias=False)
    nn.init.constant_(b.weight, 1.5)
    found = difference(a, b, torch.tensor([[2.0], [4.0]]))
    assert found.eval_error == 0.5  # 2 of 4.
    assert found.dtype == "float64"


def test_dropout_and_stochastic_depth_are_turned_off():
    from torchvision.ops import StochasticDepth

    model = network(nn.Dropout(0.5), StochasticDepth(0.5, "row"))
    assert difference(model, model, X) == Difference(0.0, 0.0)


def test_a_network_that_stays_random_is_compared_in_eval_mode_alone():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x) if self.training else x

    model = network(Noise())
    assert difference(model, model, X) == Difference(0.0, None)


def test_a_constant_example_is_replaced_by_noise():
    """Zeros would make any two networks without shifts agree."""
    a, b = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    assert difference(a, b, torch.zeros(2, 3)).worst > 1e-2


def test_other_outputs_or_shapes_differ_without_end():
    assert difference(nn.Flatten(), nn.Identity(), X).worst == float("inf")


def test_not_a_number_is_a_difference_unless_both_have_it():
    class Breaks(nn.Module):
        def forward(self, x):
            return x / 0

    assert difference(nn.Identity(), Breaks(), X).worst == float("inf")
    assert difference(Breaks(), Breaks(), X).worst == 0.0


def test_hooks_of_the_user_do_not_run():
    seen: list[int] = []
    model = network()
    model[0].register_forward_hook(lambda *_: seen.append(1))
    groups = channel_groups(model, X)
    assert groups.num_units == 0  # The hook may change what flows.
    assert (
        "'0': Conv2d is not followed: forward hook 'test_hooks_of_the_user_do_not_run.<locals>.<lambda>' may"
        in groups.protected["1"][0]
    )
    slim(model, ChannelMask({"1": torch.ones(4).bool()}), X, groups)
    assert seen == []


def test_a_wrong_cut_is_refused_by_its_numbers():
    model = network()
    small = slim(model, MASK, X)
    with torch.no_grad():
        small[0].weight[1] += 1
    with pytest.raises(SlimError, match="the slim network is not the masked one: relative difference .* please report"):
        check_cut(masked(model, MASK), small, X)


def test_half_precision_is_allowed_its_rounding():
    model = network().bfloat16()
    slim(model, MASK, X.bfloat16())
    assert within_rounding(Difference(1e-2, 1e-2), model)
    assert not within_rounding(Difference(1e-2, 1e-2), network())


def test_the_check_can_be_left_out(monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("earlybird.slimming.surgery.check_cut", never)
    slim(network(), MASK, X, check=False)
    with pytest.raises(AssertionError):
        slim(network(), MASK, X)


def test_modes_statistics_and_random_state_stay_as_found():
    model = network().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    slim(model, MASK, X, channel_groups(model, X))
    assert (model.training, model[1].training) == (True, False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
