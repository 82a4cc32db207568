"""In-place operations: every operation that may give its input back counts as another name of it."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from earlybird.slimming import certify, channel_groups, slim
from earlybird.slimming.propagation import Aliasing
from earlybird.slimming.rules import RULES
from earlybird.slimming.tracing import trace

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Overwriting(nn.Module):
    """Another name of `x` is overwritten before `x` is read."""

    def __init__(self, alias) -> None:
        super().__init__()
        self.alias = alias
        self.a, self.bn, self.out = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.bn(self.a(x))
        self.alias(x).add_(1.0)
        return self.out(x)


@pytest.mark.parametrize(
    "alias",
    [
        lambda x: x.view_as(x),
        lambda x: x.reshape_as(x),
        lambda x: x.view(x.shape),
        lambda x: torch.reshape(input=x, shape=x.shape),
        lambda x: x.unsqueeze(0).squeeze(0),
        lambda x: x[:],
        lambda x: x.chunk(1, 1)[0],
        lambda x: x.to(torch.float32),
        lambda x: F.relu(x, True),
        lambda x: F.hardtanh(x, -100.0, 100.0, True),
        lambda x: F.dropout(x, 0.5, False),
        lambda x: F.channel_shuffle(x, 1),
    ],
)
def test_overwriting_a_tensor_under_another_name_keeps_it_whole(alias, randomised):
    model = randomised(Overwriting(alias))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 0
    assert "it overwrites a tensor that a later operation reads" in groups.protected["bn"][0]


@pytest.mark.parametrize("copy", [lambda x: x.clone(), lambda x: F.relu(x, False), lambda x: x * 2])
def test_overwriting_a_copy_leaves_the_channels_free(copy, randomised, random_mask):
    model = randomised(Overwriting(copy))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 6
    mask = random_mask(groups)
    assert certify(model, mask, IMAGES, slim(model, mask, IMAGES, groups)) <= 1e-5


X = "the tensor itself"
# Arguments after the tensor, chosen such that an operation is likely to return it: by name, else by rule.
ARGUMENTS = {
    "StochasticDepth": (0.5, "batch"),
    "dropout": (0.5, False), "dropout1d": (0.5, False), "dropout2d": (0.5, False), "dropout3d": (0.5, False),
    "interpolate": (None, 1), "upsample": (None, 1), "Upsample": (None, 1), "UpsamplingNearest2d": (None, 1),
    "UpsamplingBilinear2d": (None, 1), "to": (torch.float32,), "type_as": (X,), "Hardtanh": (), "new_full": ((2,), 1.0),
    "reshape": ((2, 4, 8, 8),), "reshape_as": (X,), "permute": ((0, 1, 2, 3),), "transpose": (0, 1), "unsqueeze": (0,),
    "expand": (2, 4, 8, 8), "expand_as": (X,), "squeeze": (0,), "chunk": (1,), "split": (4,), "channel_shuffle": (1,),
    "item": (slice(None),), "attribute": ("shape",), "created": (2,), "clamp": (-9, 9), "power": (1,), "softmax": (1,),
    "pad": ((0, 0),), "spatial_mean": (0,), "add": (0,), "multiply": (1,), "divide": (1,),
}  # fmt: skip


def name_of(target) -> str:
    return target if isinstance(target, str) else target.__name__


def arguments_of(target, rule) -> tuple:
    name = name_of(target)
    if "daptive" in name:
        return (8,)
    if rule.__name__ == "pooling" and name not in ARGUMENTS:
        return (0,) if "Pad" in name else (1,)
    return ARGUMENTS.get(name, ARGUMENTS.get(rule.__name__, ()))


def applied(target, rule, **more) -> nn.Module:
    """A network that does nothing but apply one operation."""
    arguments = arguments_of(target, rule)
    if isinstance(target, type) and issubclass(target, nn.Module):
        return nn.Sequential(target(*arguments, **more))

    class Applied(nn.Module):
        def forward(self, x):
            given = [x if each is X else each for each in arguments]
            if isinstance(target, str):
                return getattr(x, target)(*given)
            return target([x] if rule.__name__ == "concatenate" else x, *given, **more)

    return Applied()


def takes_inplace(target) -> bool:
    try:
        return "inplace" in inspect.signature(target).parameters
    except (TypeError, ValueError):  # A method's name; a function that is not written in Python.
        return False


def shares_memory(result, x: torch.Tensor) -> bool:
    results = result if isinstance(result, (tuple, list)) else [result]
    return x.data_ptr() in [each.data_ptr() for each in results if isinstance(each, torch.Tensor)]


OPERATIONS = {StochasticDepth: RULES["stochastic_depth"], **RULES}  # Its forward is that function, found by its name.
del OPERATIONS["stochastic_depth"]


@pytest.mark.filterwarnings("ignore:.*upsample:UserWarning")
@pytest.mark.parametrize(("target", "rule"), OPERATIONS.items(), ids=map(name_of, OPERATIONS))
def test_what_returns_its_input_is_known_to_alias_it(target, rule):
    x = torch.rand(2, 4, *(8,) * next((int(digit) for digit in "123" if f"{digit}d" in name_of(target).lower()), 2))
    for network in [applied(target, rule), *([applied(target, rule, inplace=True)] if takes_inplace(target) else [])]:
        traced = trace(network, x)
        for mode, graph in traced.graphs.items():
            network.train(mode == "train")
            aliasing, (given, *operations, _) = Aliasing(graph), graph.nodes
            for node in operations:
                aliasing.overwrites_live_value(
                    node, traced.modules.get(node.target), getattr(rule, "may_return_input", False)
                )
            assert given in aliasing.owners(operations[-1]) or not shares_memory(network(x), x)
