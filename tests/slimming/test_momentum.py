from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.core import ChannelMask
from earlybird.errors import SlimError
from earlybird.slimming import channel_groups, kept_indices, slim
from earlybird.slimming.surgery import carry_optimizer_state_

X, Y = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2
MASK = ChannelMask({"1": torch.tensor([True, False, True, True])})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, 0.9), lambda p: torch.optim.AdamW(p, 0.01)])
def test_each_state_tensor_is_cut_as_its_parameter_was(make):
    dense = network()
    old = make(dense.parameters())
    step(dense, old)
    indices = kept_indices(dense, MASK, X)
    small = slim(dense, MASK, X)
    new = make(small.parameters())
    carry_optimizer_state_(new, old, small, dense, indices)
    kept = torch.tensor([0, 2, 3])
    for (name, before), after in zip(dense.named_parameters(), small.parameters(), strict=True):
        assert old.state[before].keys() == new.state[after].keys()
        for key, value in old.state[before].items():
            if value.shape != before.shape:
                assert torch.equal(new.state[after][key], value)
                continue
            wanted = value[:, kept] if name == "5.weight" else value if name == "5.bias" else value[kept]
            assert torch.equal(new.state[after][key], wanted), (name, key)
    step(small, new)  # The optimizer takes it.


def test_with_nothing_cut_training_goes_on_to_the_bit():
    whole = ChannelMask({"1": torch.ones(4, dtype=torch.bool)})
    dense, plain = network(), network()
    old, other = torch.optim.SGD(dense.parameters(), 0.1, 0.9), torch.optim.SGD(plain.parameters(), 0.1, 0.9)
    for _ in range(3):
        step(dense, old), step(plain, other)
    small = slim(dense, whole, X, channel_groups(dense, X))
    new = torch.optim.SGD(small.parameters(), 0.1, 0.9)
    carry_optimizer_state_(new, old, small, dense, kept_indices(dense, whole, X))
    for _ in range(3):
        step(small, new), step(plain, other)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), plain.parameters(), strict=True))


def test_a_parameter_never_stepped_has_no_state():
    dense = network()
    old = torch.optim.SGD(dense.parameters(), 0.1, 0.9)
    small = slim(dense, MASK, X)
    new = torch.optim.SGD(small.parameters(), 0.1, 0.9)
    carry_optimizer_state_(new, old, small, dense, kept_indices(dense, MASK, X))
    assert not new.state


def test_networks_of_different_cuts_are_refused():
    dense = network()
    old = torch.optim.SGD(dense.parameters(), 0.1, 0.9)
    step(dense, old)
    small = slim(dense, MASK, X)
    new = torch.optim.SGD(small.parameters(), 0.1, 0.9)
    other = kept_indices(dense, ChannelMask({"1": torch.tensor([True, False, False, True])}), X)
    with pytest.raises(SlimError, match=r"the state of '0\.weight' would have shape \[2, 3, 3, 3\]"):
        carry_optimizer_state_(new, old, small, dense, other)
    with pytest.raises(SlimError, match=r"parameter '0\.weight' of the slim network is not in the dense one"):
        carry_optimizer_state_(new, old, small, copy.deepcopy(dense)[:0], other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.Adafactor(p, 0.01), r"the state of '0\.weight' has shape .* such an optimizer cannot"),
        (lambda p: torch.optim.LBFGS(p), "such an optimizer cannot be carried over a cut"),
    ],
)
def test_state_that_does_not_follow_the_parameters_is_refused(make, message):
    dense = network()
    old = make(dense.parameters())

    def closure() -> torch.Tensor:
        old.zero_grad()
        loss = F.cross_entropy(dense(X), Y)
        loss.backward()
        return loss

    old.step(closure)
    small = slim(dense, MASK, X)
    with pytest.raises(SlimError, match=message):
        carry_optimizer_state_(make(small.parameters()), old, small, dense, kept_indices(dense, MASK, X))
