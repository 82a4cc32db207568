"""Forward hooks keep channels from being cut; who draws or cuts is told how many, by which hook and on which layer."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.utils.flop_counter import FlopCounterMode

from earlybird import EarlyBird, channel_groups, slim
from earlybird.core import bn_scale, draw_mask, draw_mask_per_layer, filter_l1
from earlybird.core.mask import ChannelMask
from earlybird.errors import MaskError, SlimError
from earlybird.models.catalog import build_model
from earlybird.slimming import masked

X = torch.zeros(2, 3, 16, 16)


def profiler(*_: Any) -> None:
    """What a profiler leaves behind."""


class Profiler:
    def __call__(self, *_: Any) -> None:
        """The same as an object."""


def with_norms() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 2, 3),
    )  # fmt: skip
    with torch.no_grad():
        net[1].weight.copy_(torch.arange(1, 9) / 10)
        net[4].weight.copy_(torch.arange(1, 7) / 10)
    return net


def without_norms() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))


def told(act: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("layer", "realised"), [(0, 3 / 14), (1, 3 / 14), (2, 3 / 14), (3, 0), (4, 4 / 14), (6, 4 / 14)]
)
def test_a_hook_on_any_layer_is_named_with_both_ratios_where_a_mask_is_drawn_and_cut(layer: int, realised: float):
    net = with_norms()
    net[layer].register_forward_hook(profiler)
    groups = channel_groups(net, X)
    why = f"'{layer}': {type(net[layer]).__name__} is not followed: forward hook 'profiler' may change"
    found: list[ChannelMask] = []
    (drawing,) = told(lambda: found.append(draw_mask(bn_scale(net), 0.5, groups)))
    assert drawing.startswith("prune_ratio=0.5 ") and f"removes {realised:.3f} of all" in drawing and why in drawing
    (per_layer,) = told(lambda: draw_mask_per_layer(bn_scale(net), 0.5, groups))
    assert per_layer == drawing
    (cutting,) = told(lambda: slim(net, found[0], X, groups))
    assert cutting.startswith(f"the mask removes {realised:.3f} of its channels; others stay: ") and why in cutting


@pytest.mark.parametrize("layer", range(5))
def test_it_is_told_where_no_norm_follows_too(layer: int):
    net = without_norms()
    net[layer].register_forward_hook(profiler)
    (drawing,) = told(lambda: draw_mask(filter_l1(net), 0.5, channel_groups(net, X)))
    assert f"'{layer}': {type(net[layer]).__name__} is not followed: forward hook 'profiler'" in drawing


@pytest.mark.parametrize("make", [with_norms, without_norms])
def test_hooks_on_every_layer_are_never_silent(make: Callable[[], nn.Sequential]):
    net = make()
    for layer in net:
        layer.register_forward_hook(profiler)
    groups = channel_groups(net, X)
    if make is without_norms:  # No key is left that a score could belong to.
        with pytest.raises(MaskError, match="no scored layer may be cut: .* forward hook 'profiler' may change"):
            draw_mask(filter_l1(net), 0.5, groups)
    else:
        (drawing,) = told(lambda: draw_mask(bn_scale(net), 0.5, groups))
        assert "is taken of the 0 units that may go and removes 0.000 of all: 14 channels stay" in drawing


def replaced(layer: nn.Module) -> None:
    layer.forward = layer.forward


@pytest.mark.parametrize(
    ("hang", "name"),
    [
        (lambda layer: layer.register_forward_hook(profiler), "forward hook 'profiler'"),
        (lambda layer: layer.register_forward_pre_hook(profiler), "forward hook 'profiler'"),
        (lambda layer: layer.register_forward_hook(profiler, with_kwargs=True), "forward hook 'profiler'"),
        (lambda layer: layer.register_forward_hook(functools.partial(profiler, 1)), "forward hook 'profiler'"),
        (lambda layer: layer.register_forward_hook(Profiler()), "forward hook 'Profiler'"),
        (replaced, "its replaced forward"),
    ],
)
def test_every_kind_of_hook_has_its_name(hang: Callable[[nn.Module], object], name: str):
    net = with_norms()
    hang(net[1])
    (drawing,) = told(lambda: draw_mask(bn_scale(net), 0.5, channel_groups(net, X)))
    assert f"'1': BatchNorm2d is not followed: {name} may change what it reads or gives; remove it" in drawing


def test_a_hook_on_a_container_is_named_as_such():
    net = nn.Sequential(with_norms(), nn.Flatten())
    net[0].register_forward_hook(profiler)
    (drawing,) = told(lambda: draw_mask(bn_scale(net), 0.5, channel_groups(net, X)))
    assert "14 of them because '0': Sequential is not followed: forward hook 'profiler'" in drawing


def test_a_detector_tells_once_and_its_ticket_is_flagged():
    net = with_norms()
    net[0].register_forward_hook(profiler)
    detector = EarlyBird(0.5, channel_groups(net, X))
    (drawing,) = told(lambda: [detector.update(net) for _ in range(6)])
    assert "prune_ratio=0.5 is taken of the 6 units that may go and removes 0.214 of all" in drawing
    assert drawing in detector.tickets[0.5].flags


def test_groups_from_before_the_hook_are_refused_with_its_name():
    net = with_norms()
    groups = channel_groups(net, X)
    mask = draw_mask(bn_scale(net), 0.5, groups)
    net[1].register_forward_hook(profiler)
    with pytest.raises(MaskError, match=re.escape("another network or policy, or: '1': BatchNorm2d is not followed")):
        slim(net, mask, X, groups)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), with_norms()[1:2]
        self.conv, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(x + self.block(self.conv(x)))
        return out


@pytest.mark.parametrize("policy", ["inner", "tie", "select"])
def test_what_the_caller_chose_to_keep_is_no_reason_to_warn(policy: Any):
    chain, residual = with_norms(), Residual()
    kept = channel_groups(chain, X, keep=["1"])
    assert told(lambda: slim(chain, draw_mask(bn_scale(chain), 0.5, kept), X, kept)) == []
    groups = channel_groups(residual, X, policy)
    assert told(lambda: draw_mask(bn_scale(residual), 0.5, groups)) == []
    some = {"1": bn_scale(chain)["1"]}
    assert told(lambda: draw_mask(some, 0.5, channel_groups(chain, X))) == []


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "preresnet20"])
def test_built_in_networks_draw_without_a_word(name: str):
    net, images = build_model(name, num_classes=10, width=0.125), torch.zeros(2, 3, 32, 32)
    assert told(lambda: draw_mask(bn_scale(net), 0.5, channel_groups(net, images))) == []


def test_another_reason_to_stay_is_told_too():
    net = with_norms()[:5]  # its last norm is the output
    (drawing,) = told(lambda: draw_mask(bn_scale(net), 0.5, channel_groups(net, X)))
    assert drawing == (
        "prune_ratio=0.5 is taken of the 8 units that may go and removes 0.286 of all: 6 channels stay, 6 of them "
        "because it is a network output"
    )


@pytest.mark.parametrize(
    "register", [register_module_forward_hook, register_module_forward_pre_hook, register_module_full_backward_hook]
)
def test_a_global_hook_is_refused_by_name_and_torchs_own_are_not(register: Callable[..., Any]):
    net = with_norms()
    mask = draw_mask(bn_scale(net), 0.5, channel_groups(net, X))
    handle = register(profiler)
    try:
        for cut in (lambda: channel_groups(net, X), lambda: slim(net, mask, X)):
            with pytest.raises(SlimError, match="the global hook 'profiler' may change what every layer reads"):
                cut()
    finally:
        handle.remove()
    with FlopCounterMode(display=False):
        assert told(lambda: slim(net, mask, X)) == []


@pytest.mark.parametrize("path", ["", "0", "0.0", "0.1"])
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_are_no_obstacle(path: str, kind: str):
    net = nn.Sequential(with_norms(), nn.Flatten())
    mask = draw_mask(bn_scale(net), 0.5, channel_groups(net, X))
    getattr(net.get_submodule(path), kind)(profiler)
    assert told(lambda: channel_groups(net, X)) == []
    small = slim(net, mask, X)
    assert small[0][0].out_channels == int(mask["0.1"].sum()) < 8


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_on_the_root_sees_whole_inputs_and_outputs_and_stays(kind: str):
    net, doubled = with_norms().eval(), []
    getattr(net, kind)(lambda module, x, *out: doubled.append(1) or (x[0] * 2,) if not out else out[0] * 2)
    mask = draw_mask(bn_scale(net), 0.5, channel_groups(net, X))
    small = slim(net, mask, images := torch.randn(2, 3, 16, 16))
    wanted = masked(net, mask)(images)
    assert torch.allclose(small.eval()(images), wanted, atol=1e-6) and mask.kept_counts()["1"] < 8
