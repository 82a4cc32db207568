"""Parameters that a forward multiplies by or adds, such as a layer scale: narrowed with the channels they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import earlybird
from earlybird.errors import SlimError
from earlybird.slimming import channel_groups, kept_indices, slim
from earlybird.slimming.surgery import carry_optimizer_state_

IMAGES = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(1))


class Scale(nn.Module):
    def __init__(self, operation, shape=(8,)) -> None:
        super().__init__()
        self.gamma, self.operation = nn.Parameter(torch.rand(shape) + 0.5), operation

    def forward(self, x):
        return self.operation(x, self.gamma)


def net(scale: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), scale, nn.Conv2d(8, 2, 1))


FOLLOWED = [
    (lambda x, g: x * g.view(1, -1, 1, 1), (8,)),
    (lambda x, g: g.reshape(1, -1, 1, 1) * x, (8,)),
    (lambda x, g: x * g[:, None, None], (8,)),
    (lambda x, g: x * g[None, :, None, None].to(x.dtype), (8,)),
    (lambda x, g: x.mul(g.unsqueeze(-1).unsqueeze(-1)), (8,)),
    (lambda x, g: x * g, (8, 1, 1)),
    (lambda x, g: x * g, (1, 8, 6, 5)),
    (lambda x, g: (x.permute(0, 2, 3, 1) * g).permute(0, 3, 1, 2), (8,)),
    (lambda x, g: x * g[:, :, None], (8, 1)),
    (lambda x, g: x * g + x * g, (8, 1, 1)),
]
KEPT = [
    (lambda x, g: x + g, (8, 1, 1)),  # A removed channel would no longer be zero.
    (lambda x, g: x * g.abs(), (8, 1, 1)),
    (lambda x, g: x * g * g.sum(), (8, 1, 1)),
    (lambda x, g: x * g.view(1, 8, 1, 1), (8,)),
    (lambda x, g: x * g.softmax(0), (8, 1, 1)),
    (lambda x, g: x * g[0] * g.view(1, -1, 1, 1), (8,)),
]


@pytest.mark.parametrize(("operation", "shape"), FOLLOWED)
def test_it_is_cut_with_its_channels(operation, shape, randomised, random_mask):
    model = randomised(net(Scale(operation, shape)))
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 8
    mask = random_mask(groups)
    small = slim(model, mask, IMAGES, groups)
    (dim,) = (place for place, n in enumerate(shape) if n == 8)
    kept = mask["1"].nonzero().flatten()
    assert torch.equal(small[3].gamma, model[3].gamma.index_select(dim, kept))
    assert isinstance(small[3].gamma, nn.Parameter)


@pytest.mark.parametrize(("operation", "shape"), KEPT)
def test_what_cannot_be_cut_with_it_stays(operation, shape, randomised):
    assert channel_groups(randomised(net(Scale(operation, shape))), IMAGES).num_units == 0


def test_a_bias_before_a_norm_is_cut(randomised, random_mask):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Scale(lambda x, g: x + g, (8, 1, 1)), *net(nn.Identity())[1:])
    groups = channel_groups(randomised(model), IMAGES)
    assert groups.num_units == 8
    assert slim(model, random_mask(groups), IMAGES, groups)[1].gamma.shape == (4, 1, 1)


def test_read_along_the_width_of_an_image_it_keeps_the_channels(randomised):
    square = torch.randn(2, 3, 8, 8)
    scale = Scale(lambda x, g: x * g * g.view(1, -1, 1, 1))
    groups = channel_groups(randomised(net(scale)), square)
    assert groups.num_units == 0
    assert "reads 'gamma' across the channels" in groups.protected["1"][0]


def test_one_parameter_of_two_layers_ties_their_channels(randomised, random_mask):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gamma = (
                net(nn.Identity())[:3],
                net(nn.Identity())[:3],
                nn.Parameter(torch.rand(8, 1, 1)),
            )
            self.out = nn.Conv2d(16, 2, 1)

        def forward(self, x):
            return self.out(torch.cat([self.a(x) * self.gamma, self.gamma * self.b(x)], 1))

    model = randomised(Shared())
    groups = channel_groups(model, IMAGES)
    assert torch.equal(groups.unit_of["a.1"], groups.unit_of["b.1"])
    assert slim(model, random_mask(groups), IMAGES, groups).gamma.shape == (4, 1, 1)


def test_a_parameter_that_two_modules_hold_stays(randomised):
    model = net(Scale(lambda x, g: x * g, (8, 1, 1)))
    model.append(Scale(lambda x, g: x * g.mean(), (8, 1, 1)))
    model[5].gamma = model[3].gamma
    groups = channel_groups(randomised(model), IMAGES)
    assert groups.num_units == 0
    assert "are one tensor" in groups.protected["1"][0]


def test_an_in_place_operation_on_it_stays(randomised):
    class Running(Scale):
        def forward(self, x):
            with torch.no_grad():
                self.gamma.mul_(x.mean((0, 2, 3)))
            return x * self.gamma.view(1, -1, 1, 1)

    assert channel_groups(randomised(net(Running(None))), IMAGES).num_units == 0


class Kept(nn.Module):
    """A network with a factory, for the file."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net(nn.Identity())
        self.gamma = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x):
        return self.body[4](self.body[:3](x) * self.gamma)


def test_momentum_and_files_follow(tmp_path: Path, randomised, random_mask):
    model = randomised(Kept())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGES).sum().backward()
    optimizer.step()
    groups = channel_groups(model, IMAGES)
    mask = random_mask(groups)
    small = slim(model, mask, IMAGES, groups)
    new = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    carry_optimizer_state_(new, optimizer, small, model, kept_indices(model, mask, IMAGES, groups))
    kept = mask["body.1"].nonzero().flatten()
    carried = new.state[small.gamma]["momentum_buffer"]
    assert torch.equal(carried, optimizer.state[model.gamma]["momentum_buffer"][kept])
    earlybird.save(small, tmp_path / "net")
    loaded = earlybird.load(tmp_path / "net", into=Kept())
    assert torch.equal(loaded.gamma, small.gamma)
    assert torch.equal(loaded.eval()(IMAGES), small.eval()(IMAGES))


def test_a_file_cannot_widen_it(tmp_path: Path):
    wide = Kept()
    wide.gamma = nn.Parameter(torch.rand(16, 1, 1))
    earlybird.save(wide, tmp_path / "net")
    with pytest.raises(SlimError, match=r"parameter 'gamma' of 'the network' has shape \[16, 1, 1\] in the file"):
        earlybird.load(tmp_path / "net", into=Kept())
