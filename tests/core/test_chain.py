from __future__ import annotations

import operator

import pytest
import torch
from torch import Tensor, nn

from earlybird.core.detector import why_not_a_plain_chain


class Joined(nn.Module):
    """Two values of one input, joined by a given operation."""

    def __init__(self, join) -> None:
        super().__init__()
        self.join, self.a, self.b = join, nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.a(x), self.b(x))


class Chain(nn.Module):
    """Adds that tie nothing: a number, a parameter, a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)) + 1) + self.shift
        return self.head(x.mean((2, 3)).view(x.size(0), -1))


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    "join",
    [
        operator.add,
        operator.iadd,
        torch.add,
        lambda a, b: torch.add(a, other=b),
        lambda a, b: a.add(b),
        lambda a, b: a.add_(b),
        lambda a, b: a.add(other=b),
        lambda a, b: sum([a, b]),
    ],
)
def test_an_add_of_two_values_is_told(join):
    assert "adds two values at 'add" in why_not_a_plain_chain(Joined(join)).replace("iadd", "add")


@pytest.mark.parametrize("join", [lambda a, b: torch.cat([a, b]), lambda a, b: b, lambda a, b: a + a])
def test_other_ways_to_use_two_values_tie_no_batch_norm(join):
    assert why_not_a_plain_chain(Joined(join)) is None


def test_a_plain_chain_is_one():
    assert why_not_a_plain_chain(Chain()) is None
    assert why_not_a_plain_chain(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2))) is None


def test_a_depthwise_convolution_is_told():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    assert why_not_a_plain_chain(net) == "'1' is a grouped convolution, which ties what it reads to what it writes"


def test_a_network_that_cannot_be_traced_may_be_no_chain():
    assert why_not_a_plain_chain(Undecided()) == "it cannot be traced to tell (TraceError)"


def test_the_network_is_left_as_found():
    net = Chain().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    why_not_a_plain_chain(net)
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
