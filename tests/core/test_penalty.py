from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird.core import bn_l1_proximal_, bn_l1_subgradient_
from earlybird.errors import ConfigError


def norm_with(*scales: float, kind: type[nn.Module] = nn.BatchNorm1d) -> nn.Module:
    norm = kind(len(scales))
    norm.weight.data = torch.tensor(scales)
    return norm


def test_the_subgradient_is_strength_times_sign_and_zero_at_zero():
    norm = norm_with(0.5, -0.25, 0.0)
    norm.weight.grad = torch.tensor([1.0, 1.0, 1.0])
    bn_l1_subgradient_(norm, 0.25)
    assert norm.weight.grad.tolist() == [1.25, 0.75, 1.0]
    assert norm.weight.tolist() == [0.5, -0.25, 0.0]


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_kind_of_batch_norm_is_penalised(kind):
    net = nn.Sequential(nn.ReLU(), norm_with(2.0, kind=kind))
    net[1].weight.grad = torch.zeros(1)
    bn_l1_subgradient_(net, 0.5)
    assert net[1].weight.grad.tolist() == [0.5]
    bn_l1_proximal_(net, 0.5, lr=1.0)
    assert net[1].weight.tolist() == [1.5]


def test_the_subgradient_equals_autograd_of_the_penalty():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    for norm in (net[1], net[4]):
        norm.weight.data.normal_()
    x = torch.randn(2, 3, 8, 8)
    strength = 0.03

    def gradients() -> list[torch.Tensor]:
        return [parameter.grad.clone() for parameter in net.parameters()]

    net(x).square().mean().backward()
    bn_l1_subgradient_(net, strength)
    ours = gradients()
    net.zero_grad()
    penalty = strength * (net[1].weight.abs().sum() + net[4].weight.abs().sum())
    (net(x).square().mean() + penalty).backward()
    for mine, theirs in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_only_scales_of_batch_norms_are_touched():
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    bn_l1_subgradient_(net, 1.0)
    changed = [name for name, parameter in net.named_parameters() if parameter.grad.any()]
    assert changed == ["2.weight"]
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    bn_l1_proximal_(net, 0.1, lr=1.0)
    assert [name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])] == changed


def test_frozen_scales_and_scales_without_gradient_or_scale_are_left_alone():
    frozen = norm_with(1.0)
    frozen.weight.grad = torch.zeros(1)
    frozen.weight.requires_grad_(False)
    idle = norm_with(1.0)
    net = nn.Sequential(frozen, idle, nn.BatchNorm1d(1, affine=False))
    bn_l1_subgradient_(net, 1.0)
    assert frozen.weight.grad.tolist() == [0.0]
    assert idle.weight.grad is None
    bn_l1_proximal_(net, 0.5, lr=1.0)
    assert (frozen.weight.tolist(), idle.weight.tolist()) == ([1.0], [0.5])


def test_a_scale_that_two_norms_share_is_penalised_once():
    first, second = norm_with(2.0), norm_with(2.0)
    second.weight = first.weight
    first.weight.grad = torch.zeros(1)
    bn_l1_subgradient_(nn.Sequential(first, second), 0.5)
    assert first.weight.grad.tolist() == [0.5]
    bn_l1_proximal_(nn.Sequential(first, second), 0.5, lr=1.0)
    assert first.weight.tolist() == [1.5]


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_that_carries_a_graph_can_be_penalised():
    norm = norm_with(0.5, 0.5)
    norm(torch.randn(4, 2)).square().sum().backward(create_graph=True)
    before = norm.weight.grad.detach().clone()
    bn_l1_subgradient_(norm, 1.0)
    torch.testing.assert_close(norm.weight.grad.detach(), before + 1.0)


def test_strength_zero_changes_nothing():
    norm = norm_with(0.5, -0.5)
    norm.weight.grad = torch.tensor([1.0, 2.0])
    bn_l1_subgradient_(norm, 0.0)
    bn_l1_proximal_(norm, 0.0, lr=0.1)
    assert norm.weight.grad.tolist() == [1.0, 2.0]
    assert norm.weight.tolist() == [0.5, -0.5]


def test_the_proximal_step_is_the_soft_threshold():
    norm = norm_with(1.0, -1.0, 0.125, -0.25, 0.0)
    bn_l1_proximal_(norm, 0.25, lr=1.0)
    assert norm.weight.tolist() == [0.75, -0.75, 0.0, 0.0, 0.0]


def test_the_proximal_step_minimises_its_objective():
    # prox(v) = argmin over x of (x - v)^2 / 2 + threshold * |x|, searched on a grid.
    values = torch.linspace(-1, 1, 9)
    norm = norm_with(*values.tolist())
    bn_l1_proximal_(norm, 0.03, lr=0.5, momentum=0.9)
    grid = torch.linspace(-1.5, 1.5, 30_001, dtype=torch.float64)
    for before, after in zip(values, norm.weight.detach(), strict=True):
        best = grid[((grid - before).square() / 2 + 0.15 * grid.abs()).argmin()]
        assert float(after) == pytest.approx(float(best), abs=2e-4)


def test_both_forms_shrink_an_idle_scale_equally_fast():
    strength, lr, momentum, steps = 1e-3, 0.1, 0.9, 400
    sub, prox = norm_with(1.0), norm_with(1.0)
    velocity = torch.zeros(1)
    for _ in range(steps):
        sub.weight.grad = torch.zeros(1)
        bn_l1_subgradient_(sub, strength)
        velocity = momentum * velocity + sub.weight.grad
        sub.weight.data -= lr * velocity
        bn_l1_proximal_(prox, strength, lr=lr, momentum=momentum)
    assert prox.weight.item() == pytest.approx(1.0 - steps * lr * strength / (1 - momentum), abs=1e-4)
    # Momentum takes about 1 / (1 - momentum) steps to build up.
    assert sub.weight.item() == pytest.approx(prox.weight.item(), abs=lr * strength / (1 - momentum) ** 2)


@pytest.mark.parametrize("strength", [-1e-4, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ConfigError, match=f"penalty strength is {strength}; give a number >= 0"):
        bn_l1_subgradient_(norm_with(1.0), strength)
    with pytest.raises(ConfigError, match="penalty strength"):
        bn_l1_proximal_(norm_with(1.0), strength, lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.1, "momentum": 1.0}, r"momentum is 1.0; give a number in \[0, 1\)"),
        ({"lr": 0.1, "momentum": -0.1}, "momentum is -0.1"),
        ({"lr": -0.1}, "lr is -0.1; give a number >= 0"),
        ({"lr": float("nan")}, "lr is nan"),
    ],
)
def test_a_threshold_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        bn_l1_proximal_(norm_with(1.0), 0.1, **arguments)
