"""Networks that broke an earlier version: each is cut exactly, kept whole where it must be, or refused."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlybird.errors import SlimError
from earlybird.slimming import certify, channel_groups, slim

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """Two blocks and a head; what stands between them differs."""

    def __init__(self, middle, **more: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 8), block(8, 8), nn.Linear(8, 4)
        self.middle = middle
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.head(self.middle(self, self.a(x)).mean((2, 3)))


def cut_error(model: nn.Module, randomised, random_mask, x=IMAGES, policy="auto") -> float:
    """Cut half of what may go, and compare with the masked network."""
    groups = channel_groups(randomised(model), x, policy)
    mask = random_mask(groups)
    return certify(model, mask, x, slim(model, mask, x, groups, check=False))


@pytest.mark.parametrize(
    ("middle", "more"),
    [
        (lambda m, x: m.p(m.b(x)), {"p": nn.AvgPool3d(3, 1, 1)}),
        (lambda m, x: m.p(m.b(x).flatten(2))[..., None], {"p": nn.AvgPool2d(3, 1, 1)}),
        (lambda m, x: m.p(m.b(x).flatten(2))[:, :8, :, None], {"p": nn.ZeroPad2d(1)}),
        (lambda m, x: F.max_pool3d(m.b(x), (2, 1, 1)).repeat(1, 2, 1, 1), {}),
        (lambda m, x: m.n(m.b(x).flatten(2))[..., None], {"n": nn.InstanceNorm2d(2)}),
        (lambda m, x: F.interpolate(m.b(x), size=(x.shape[1], x.shape[1]))[:, :, :3], {}),
        (lambda m, x: m.b(F.interpolate(x, scale_factor=2))[:, :, : x.shape[1]], {}),
        (lambda m, x: F.pad(m.b(x), (0, x.shape[1])), {}),
        (lambda m, x: F.adaptive_avg_pool2d(m.b(x), x.size(1))[:, :, :2], {}),
        (lambda m, x: m.b(x) * sum(p.abs().sum() for p in m.b.parameters()), {}),
        (lambda m, x: m.b(x) * m.b[1]._parameters["weight"].mean(), {}),
        (lambda m, x: m.b(x) * m.b[1].running_var.mean(), {}),
        (lambda m, x: m.b(x - x.mean(1, keepdim=True)) if isinstance(x, torch.Tensor) else m.b(x), {}),
        (lambda m, x: m.c(m.b(x).view(x.shape[0], x.shape[1], -1))[..., None], {"c": nn.Conv1d(8, 8, 3, padding=1)}),
        (lambda m, x: m.b(x).mean((2, 3), keepdim=True).expand(x.shape[0], x.shape[1], 8, 8), {}),
        (lambda m, x: m.b(x[:, :, :2, :4]).view(x.size(0), -1, x.size(1))[..., None], {}),
        (lambda m, x: torch.stack([m.d(h)[None] for h in (m.b(x)[0], m.b(x)[1])])[:, 0], {"d": nn.Conv2d(8, 8, 1)}),
    ],
)
@pytest.mark.parametrize("policy", ["tie", "select"])
def test_arguments_ranks_and_reads_past_the_graph(middle, more, policy, randomised, random_mask):
    model = Net(middle, **copy.deepcopy(more))
    assert cut_error(model, randomised, random_mask, policy=policy) <= 1e-5


@pytest.mark.parametrize(
    ("middle", "keep"),
    [
        (lambda m, x: m.b(x) / m.b[0].out_channels ** 0.5, torch.arange(16) % 3 > 0),
        (lambda m, x: m.b(x) + 0.5 if m.b[0].out_channels == m.b[0].in_channels else m.b(x), torch.arange(16) > 4),
    ],
)
def test_a_forward_that_reads_a_size_the_cut_changes_is_refused(middle, keep, randomised):
    model = randomised(Net(middle))
    groups = channel_groups(model, IMAGES)
    with pytest.raises(SlimError, match="may read a size that the cut changes"):
        slim(model, groups.mask_of(keep[: groups.num_units]), IMAGES, groups)


def test_a_depthwise_conv_whose_groups_are_written_as_a_number_is_refused(randomised, random_mask):
    class Depthwise(nn.Conv2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False)
            self.channels = channels

        def forward(self, x):
            return F.conv2d(x, self.weight, self.bias, 1, 1, 1, self.channels)

    model = randomised(nn.Sequential(block(3, 8), Depthwise(8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    groups = channel_groups(model, IMAGES)
    with pytest.raises(SlimError, match="does not run on the example: .*groups=8.* may read a size"):
        slim(model, random_mask(groups), IMAGES, groups)


def test_a_parameter_that_is_given_out_keeps_its_layer_whole():
    class GivesWeight(Net):
        def forward(self, x):
            return super().forward(x), self.b[0].weight, self.a(x).shape[1]

    groups = channel_groups(GivesWeight(lambda m, x: m.b(x)), IMAGES)
    assert groups.num_units == 0
    assert groups.protected["b.1"][0] == "its tensor is a network output"
    assert groups.protected["a.1"][0] in ("its width is a network output", "its tensor is a network output")


def test_norms_that_share_statistics_stay_whole(randomised):
    model = nn.Sequential(block(3, 8), block(8, 8), nn.Conv2d(8, 2, 1))
    model[1][1].running_mean = model[0][1].running_mean
    groups = channel_groups(model, IMAGES)
    assert groups.num_units == 0
    assert groups.protected["0.1"][0] == "'0.1.running_mean' and '1.1.running_mean' are one tensor"


class Stream(nn.Module):
    """A pre-activation block whose norm is reached in an unusual way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n1, self.c1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.n2, self.out = nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)
        self.norms = [self.n1, self.n2]
        self.n1.tag = "mine"


class ByFunction(Stream):
    def norm(self, n, x):
        return F.relu(F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, self.training))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.c1(self.norm(self.n1, x))
        return self.out(self.norm(self.n2, x))


class ByList(Stream):
    def forward(self, x):
        x = self.stem(x)
        x = x + self.c1(F.relu(self.norms[0](x)))
        return self.out(F.relu(self.norms[1](x)))


def test_a_norm_called_by_a_function_is_not_turned_into_a_selecting_one():
    assert channel_groups(ByFunction(), IMAGES, "select").num_units == 0


def test_a_selecting_norm_is_the_same_object_wherever_it_is_held(randomised, random_mask):
    model = randomised(ByList())
    groups = channel_groups(model, IMAGES, "select")
    small = slim(model, random_mask(groups), IMAGES, groups)
    assert small.norms[0] is small.n1
    assert small.n1.tag == "mine"
    assert type(model.n1) is nn.BatchNorm2d


def test_a_module_that_is_not_entered_keeps_what_it_shares_whole(randomised, random_mask):
    class Branching(nn.Module):
        def __init__(self, shared: nn.Module) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x):
            return self.shared(x) if x.isfinite().all() else self.shared(x) * 2

    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h, self.norm = block(3, 8), block(8, 8), nn.GroupNorm(2, 8)
            self.branching, self.o, self.q = Branching(self.h), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.norm(self.a(x))
            return self.o(self.h(x)), self.q(self.branching(x))

    assert cut_error(Sharing(), randomised, random_mask) <= 1e-5


def test_a_bias_pruned_by_torch_is_no_plain_parameter(randomised, random_mask):
    from torch.nn.utils import prune

    model = nn.Sequential(*block(3, 8), *block(8, 8), nn.Conv2d(8, 2, 1))
    prune.l1_unstructured(model[3], "bias", 2)
    with torch.no_grad():
        model(IMAGES)
    assert cut_error(model, randomised, random_mask) <= 1e-5


def test_a_module_used_at_two_widths_is_kept_whole():
    class TwoWidths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 2, 1)
            self.norm = nn.BatchNorm2d(8, affine=False, track_running_stats=False)

        def forward(self, x):
            return self.c(F.relu(self.norm(self.b(F.relu(self.norm(self.a(x)))))))

    assert channel_groups(TwoWidths(), IMAGES).num_units == 0


class OwnTrain(Net):
    def train(self, mode=True):
        super().train(mode)  # And gives nothing back, as many a frozen network.


class Setting(Net):
    def forward(self, x, return_features=False, mask=None, scale=1.0):
        x = self.b(self.a(x))
        if mask is not None:
            x = x * mask
        return x if return_features else self.head(x.mean((2, 3)) * scale)


class PlainTensor(Net):
    def __init__(self, middle) -> None:
        super().__init__(middle)
        self.ramp = torch.ones(8, 1)  # No buffer: it does not move with the network.

    def forward(self, x):
        return self.head((self.b(self.a(x)) * self.ramp).mean((2, 3)))


@pytest.mark.parametrize("build", [OwnTrain, Setting, PlainTensor])
def test_common_ways_of_writing_a_network_are_entered(build, randomised, random_mask):
    model = build(lambda m, x: m.b(x))
    assert channel_groups(model, IMAGES).num_units == 16
    assert cut_error(model, randomised, random_mask) <= 1e-5


def test_inputs_that_are_no_tensors_and_lists_of_inputs_are_taken(randomised, random_mask):
    class Scaled(Net):
        def forward(self, x, times):
            return super().forward(x) * times

    model = Scaled(lambda m, x: m.b(x))
    assert cut_error(model, randomised, random_mask, x=(IMAGES, 3)) <= 1e-5
    assert cut_error(Net(lambda m, x: m.b(x)), randomised, random_mask, x=[IMAGES]) <= 1e-5


def test_a_network_that_cannot_be_copied_says_so():
    model = Net(lambda m, x: m.b(x))
    model.lock = threading.Lock()
    with pytest.raises(SlimError, match="the network cannot be copied: cannot pickle"):
        channel_groups(model, IMAGES)


def test_a_lazy_network_asks_for_a_first_call():
    with pytest.raises(SlimError, match="lazy modules that have not run yet; call it once"):
        channel_groups(nn.Sequential(nn.LazyConv2d(4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), IMAGES)


def test_complex_outputs_are_compared_by_size(randomised, random_mask):
    class Spectrum(Net):
        def forward(self, x):
            return torch.fft.fft(super().forward(x))

    assert cut_error(Spectrum(lambda m, x: m.b(x)), randomised, random_mask) <= 1e-5


def test_a_width_given_by_keyword_holds_the_tensor_it_was_read_from(randomised, random_mask):
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = block(3, 8), block(3, 8)
            self.out, self.other = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y, z = self.a(x), self.b(x)
            y = y.view(size=(2, z.shape[1], *IMAGES.shape[2:]))
            return self.out(y) + self.other(z)

    assert cut_error(ByKeyword(), randomised, random_mask) <= 1e-5


def test_a_replaced_forward_is_not_taken_for_its_class(randomised, random_mask):
    model = nn.Sequential(*block(3, 8), *block(8, 8), nn.Conv2d(8, 2, 1))
    plain = model[4].forward
    model[4].forward = lambda x: x.flip(1)
    assert {name: len(whole) for name, whole in channel_groups(model, IMAGES).protected.items()} == {"4": 8}
    assert cut_error(model, randomised, random_mask) <= 1e-5
    model[4].forward = plain
    model.forward = lambda x: x
    with pytest.raises(SlimError, match="forward was replaced after it was made"):
        channel_groups(model, IMAGES)


def test_a_buffer_that_autograd_made_is_refused_in_one_line():
    model = nn.Sequential(*block(3, 8), nn.Conv2d(8, 2, 1))
    model.register_buffer("ema", model[0].weight * 2)
    with pytest.raises(SlimError, match="the network cannot be copied"):
        channel_groups(model, IMAGES)
