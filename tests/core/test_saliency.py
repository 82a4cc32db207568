from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird import BNSaliency, EarlyBird, bn_l1_subgradient_, bn_scale, draw_mask, mask_distance
from earlybird.errors import ConfigError, MaskError
from earlybird.models import build_model


def net_with_gradients(scale: float = 1.0) -> nn.Sequential:
    """A norm of two channels with terms |2*3 + 1*(-1)| = 5 and |-1*1 + 0*4| = 1, times `scale`."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net[1].weight.data, net[1].bias.data = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    net[1].weight.grad, net[1].bias.grad = torch.tensor([3.0, 1.0]) * scale, torch.tensor([-1.0, 4.0]) * scale
    return net


def test_a_score_is_scale_times_gradient_plus_shift_times_gradient():
    saliency = BNSaliency()
    saliency.update(net_with_gradients())
    assert saliency.scores()["1"].tolist() == pytest.approx([5.0, 1.0])


def test_scores_are_a_bias_corrected_moving_average():
    saliency = BNSaliency(decay=0.5)
    for scale in (1.0, 2.0, -4.0):  # sizes 1, 2, 4 with weights 1/8, 1/4, 1/2, which add up to 7/8
        saliency.update(net_with_gradients(scale))
    expected = 5 * (1 / 8 + 2 / 4 + 4 / 2) / (7 / 8)
    assert saliency.scores()["1"].tolist() == pytest.approx([expected, expected / 5])


def test_a_norm_without_a_shift_counts_by_its_scale_alone():
    net = net_with_gradients()
    net[1].bias = None
    saliency = BNSaliency()
    saliency.update(net)
    assert saliency.scores()["1"].tolist() == pytest.approx([6.0, 1.0])


def test_a_resumed_average_goes_on_with_the_same_bits():
    whole, first, second = BNSaliency(), BNSaliency(), BNSaliency()
    scales = [0.3, -1.7, 0.9, 2.1]
    for place, scale in enumerate(scales):
        whole.update(net_with_gradients(scale))
        if place < 2:
            first.update(net_with_gradients(scale))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    first.update(net_with_gradients(9.0))  # what was saved is a copy
    for scale in scales[2:]:
        second.update(net_with_gradients(scale))
    assert torch.equal(whole.scores()["1"], second.scores()["1"])


def test_updates_keep_their_tensors_and_count_none_before_the_first():
    saliency, net = BNSaliency(), net_with_gradients()
    saliency.begin(net)
    with pytest.raises(MaskError, match="has seen no gradient yet"):
        saliency.scores()
    before = saliency.tensors()
    saliency.update(net)
    assert [a is b for a, b in zip(before, saliency.tensors(), strict=True)] == [True, True]
    assert saliency.scores()["1"].tolist() == pytest.approx([5.0, 1.0])


@pytest.mark.parametrize(
    "changed",
    [
        {"weight": torch.tensor(2.0, dtype=torch.float64)},
        {"means": {"1": -torch.ones(2)}},
        {"means": {"2": torch.ones(2)}},
    ],
)
def test_a_state_that_was_changed_is_refused(changed):
    saliency = BNSaliency()
    saliency.update(net_with_gradients())
    with pytest.raises(ConfigError, match="the saved bn_saliency is of another network, or was changed"):
        saliency.load_state_dict(saliency.state_dict() | changed)


def test_a_detector_takes_it_as_its_criterion():
    saliency = BNSaliency()
    net = net_with_gradients()
    saliency.update(net)
    ticket = EarlyBird(0.5, criterion=saliency).draw(net, 0.5)
    assert (ticket.mask["1"].tolist(), ticket.criterion) == ([True, False], "bn_saliency")


def test_what_it_cannot_gather_is_said():
    saliency, net = BNSaliency(), net_with_gradients()
    with pytest.raises(MaskError, match=r"seen no gradient yet; call update\(model\) after backward"):
        saliency.scores()
    with pytest.raises(MaskError, match="found no BatchNorm with a scale; use criterion=filter_l1"):
        saliency.update(nn.Linear(2, 2))
    net.zero_grad()
    with pytest.raises(MaskError, match=r"no gradient at '1'; update it after backward\(\) and before zero_grad"):
        saliency.update(net)
    saliency.update(net_with_gradients())
    cut = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    cut(torch.randn(4, 3)).sum().backward()
    with pytest.raises(MaskError, match="other BatchNorm layers or widths; begin a new BNSaliency"):
        saliency.update(cut)
    with pytest.raises(ConfigError, match=r"decay is 1.0; give a number in \[0, 1\)"):
        BNSaliency(decay=1.0)
    with pytest.raises(ConfigError, match=r"decay of the saved bn_saliency is 0.9; give 0.5"):
        BNSaliency(decay=0.5).load_state_dict(saliency.state_dict())


def backward(net: nn.Module, x: Tensor, y: Tensor) -> None:
    net.zero_grad()
    functional.cross_entropy(net(x), y).backward()


def trained(batches: list[tuple[Tensor, Tensor]], eps: float) -> nn.Module:
    """A chain whose channels differ, as after a few steps of training under the penalty."""
    net = build_model("vgg11", num_classes=10, width=0.25, seed=1).to(batches[0][0].dtype).train()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eps = eps
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for x, y in batches:
        backward(net, x, y)
        bn_l1_subgradient_(net, 1e-3)
        optimizer.step()
    return net


@torch.no_grad()
def rescaled(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """The same function up to eps: scale and shift of every norm but the last times a factor in [.25, 4]."""
    other = copy.deepcopy(net)
    for norm in [module for module in other.modules() if isinstance(module, nn.BatchNorm2d)][:-1]:
        factor = 4.0 ** (2 * torch.rand((), generator=generator) - 1)
        norm.weight *= factor
        norm.bias *= factor
    return other


@pytest.mark.parametrize(("dtype", "eps", "most"), [(torch.float64, 1e-12, 2), (torch.float32, 1e-5, 14)])
def test_factors_that_change_no_function_leave_the_saliency_mask_where_it_is_up_to_eps(
    dtype: torch.dtype, eps: float, most: int
):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(24, 3, 32, 32, generator=generator).to(dtype), torch.randint(10, (24,), generator=generator))
        for _ in range(4)
    ]
    net = trained(batches, eps)
    twin = rescaled(net, generator)
    saliencies = [BNSaliency(), BNSaliency()]
    for x, y in batches:
        for saliency, model in zip(saliencies, (net, twin), strict=True):
            backward(model, x, y)
            saliency.update(model)
    moved, counts = compared([saliency.scores() for saliency in saliencies])
    assert moved <= most
    assert all(abs(a - b) <= 2 for a, b in counts)
    moved, counts = compared([bn_scale(net), bn_scale(twin)])
    assert moved > 100
    assert max(abs(a - b) for a, b in counts) > 50


def compared(scores: list[dict[str, Tensor]]) -> tuple[int, list[tuple[int, int]]]:
    """Channels on which two masks at p = .5 disagree, and both counts of each layer."""
    a, b = (draw_mask(score, 0.5) for score in scores)
    moved = round(mask_distance(a, b) * sum(a.widths().values()))
    return moved, list(zip(a.kept_counts().values(), b.kept_counts().values(), strict=True))
