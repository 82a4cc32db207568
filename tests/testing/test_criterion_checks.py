"""`check_criterion`: the built-in criteria pass, and each way to be wrong is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from earlybird import bn_scale, filter_l1, taylor
from earlybird.core import filter_l2
from earlybird.testing import check_criterion


@pytest.mark.parametrize("criterion", [bn_scale, filter_l1, filter_l2, taylor])
def test_every_built_in_criterion_passes(criterion):
    check_criterion(criterion)


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def with_gradient(model):
    return {name: norm.weight.abs() for name, norm in norms(model).items()}


def unknown_module(model):
    return {"nothing": torch.ones(3)}


def too_few(model):
    return {name: norm.weight.detach()[:-1] for name, norm in norms(model).items()}


def whole_numbers(model):
    return {name: norm.weight.detach().long() for name, norm in norms(model).items()}


def not_finite(model):
    return {name: norm.weight.detach() / 0 for name, norm in norms(model).items()}


def at_random(model):
    return {name: torch.rand(norm.num_features) for name, norm in norms(model).items()}


def by_itself_at_random(model):
    draw = torch.Generator()
    draw.seed()
    return {name: torch.rand(norm.num_features, generator=draw) for name, norm in norms(model).items()}


def that_trains(model):
    with torch.no_grad():
        next(iter(norms(model).values())).weight.mul_(1.1)
    return bn_scale(model)


def that_clears_gradients(model):
    model.zero_grad()
    return bn_scale(model)


def that_changes_the_mode(model):
    model.eval()
    return bn_scale(model)


def of_the_head_alone(model):
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {name: linear.weight.detach().abs().sum(1) for name, linear in linears.items()}


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (with_gradient, "carry a gradient; detach them"),
        (unknown_module, "scores 'nothing', which is no module of the network"),
        (too_few, "channels, the criterion gives"),
        (whole_numbers, r"are torch\.int64; give a floating dtype"),
        (not_finite, "hold NaN or infinity"),
        (at_random, "draws from the global random generator"),
        (by_itself_at_random, "gives other scores for the same network the second time"),
        (that_trains, "the criterion changes '.*'; score without training"),
        (that_clears_gradients, "changes the gradient of"),
        (that_changes_the_mode, "leaves the network in another mode"),
        (of_the_head_alone, "a mask of these scores cuts nothing|scores no layer that channels may be cut from"),
        (lambda model: [], "returns a dict of scores, not list"),
    ],
)
def test_each_way_to_be_wrong_is_named(criterion, message):
    with pytest.raises(Exception, match=message):
        check_criterion(criterion)
