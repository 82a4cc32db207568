"""Arguments of the wrong kind end in one line that names them, before anything is drawn, trained or cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from earlybird import EarlyBird, channel_groups, draw_mask, load, save, slim
from earlybird.core import ChannelMask, Ticket, WeightMask, bn_l1_proximal_, bn_l1_subgradient_, bn_scale, filter_l1
from earlybird.errors import EarlyBirdError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight)
    return model


MODEL = net()
GROUPS = channel_groups(MODEL, X)
SCORES = bn_scale(MODEL)
MASK = draw_mask(SCORES, 0.5, GROUPS)
WRONG_RATIOS: list[Any] = ["0.5", None, 1.0, -0.1, 50, float("nan"), True, torch.tensor(0.5), {0.5}]
WRONG_SCORES: list[Any] = [
    [1, 2], MODEL, {"1": np.ones(8)}, {"1": torch.ones(8, device="meta")}, {"1": torch.ones(8, dtype=torch.complex64)},
]  # fmt: skip


def refused(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(EarlyBirdError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", WRONG_RATIOS)
def test_a_ratio_that_is_none(ratio: Any):
    refused("prune_ratio is ", lambda: draw_mask(SCORES, ratio, GROUPS))
    refused("prune_ratio is ", lambda: EarlyBird(ratio, GROUPS))
    refused("prune_ratio is ", lambda: EarlyBird([ratio], GROUPS))


@pytest.mark.parametrize("ratio", [np.float32(0.5), np.float64(0.5)])
def test_a_ratio_of_numpy_is_a_number(ratio: Any):
    assert draw_mask(SCORES, ratio, GROUPS) == MASK
    assert EarlyBird(ratio, GROUPS).prune_ratios == (0.5,)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in ("min_channels", "round_to") for v in ("1", 1.5, None, 0)])
def test_a_count_that_is_none(name: str, value: Any):
    refused(name, lambda: draw_mask(SCORES, 0.5, GROUPS, **{name: value}))
    refused(name, lambda: EarlyBird(0.5, GROUPS, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("window", "5"), ("window", 2.5), ("epsilon", "a"), ("epsilon", None), ("rule", 3), ("criterion", "bn_scale")],
)
def test_a_setting_of_the_detector_that_is_none(name: str, value: Any):
    refused(f"{name} is ", lambda: EarlyBird(0.5, GROUPS, **{name: value}))


@pytest.mark.parametrize("scores", WRONG_SCORES)
def test_scores_that_are_none(scores: Any):
    refused("scores ", lambda: draw_mask(scores, 0.5, GROUPS))


@pytest.mark.parametrize("groups", [{}, MODEL, "tie"])
def test_groups_that_are_none(groups: Any):
    refused(f"groups is a {type(groups).__name__}; ", lambda: draw_mask(SCORES, 0.5, groups))
    refused(f"groups is a {type(groups).__name__}; ", lambda: EarlyBird(0.5, groups))
    refused(f"groups is a {type(groups).__name__}; ", lambda: slim(MODEL, MASK, X, groups))


@pytest.mark.parametrize("mask", [None, dict(MASK), [True]])
def test_a_mask_that_is_none(mask: Any):
    refused(f"the mask is a {type(mask).__name__}; give a ChannelMask", lambda: slim(MODEL, mask, X))


@pytest.mark.parametrize("strength", ["1e-4", None, float("nan"), -1.0, torch.ones(2)])
def test_a_penalty_that_is_none(strength: Any):
    refused("penalty strength is ", lambda: bn_l1_subgradient_(MODEL, strength))
    refused("lr is ", lambda: bn_l1_proximal_(MODEL, 1e-4, lr=strength))


NO_NETWORK: Any = "vgg11"
CALLS: list[Callable[[], object]] = [
    lambda: channel_groups(NO_NETWORK, X), lambda: slim(NO_NETWORK, MASK, X), lambda: bn_scale(NO_NETWORK),
    lambda: filter_l1(NO_NETWORK), lambda: EarlyBird(0.5, GROUPS).update(NO_NETWORK), lambda: save(NO_NETWORK, "x"),
    lambda: bn_l1_subgradient_(NO_NETWORK, 1e-4), lambda: bn_l1_proximal_(NO_NETWORK, 1e-4, lr=0.1),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_network_that_is_none(call: Callable[[], object]):
    refused("the network is a str; give a torch.nn.Module", call)


def test_a_network_on_meta_has_no_numbers():
    on_meta = net().to("meta")
    refused("the scale of '1' is on meta, without numbers", lambda: bn_scale(on_meta))
    refused("the weight of '0' is on meta, without numbers", lambda: filter_l1(on_meta))
    refused("the network is on meta, without numbers to compare; give check=False", lambda: slim(on_meta, MASK, X))
    assert slim(on_meta, MASK, X, check=False)[3].out_channels == int(MASK["4"].sum())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_network_is_refused_with_what_to_give(wrap: Any):
    refused("score the network that is wrapped", lambda: EarlyBird(0.5, GROUPS).update(wrap(net())))
    refused("give what it wraps|give the network without the wrapper", lambda: slim(wrap(net()), MASK, X))


@pytest.mark.parametrize("keep", ["stem.*", [1]])
def test_patterns_that_are_none(keep: Any):
    refused("keep is .*; give a list of glob patterns", lambda: channel_groups(MODEL, X, keep=keep))


def test_a_mask_of_a_list_and_a_state_of_nothing():
    refused("mask of layer is a list; give name -> torch.bool tensor", lambda: ChannelMask([True]))  # type: ignore[arg-type]
    refused(r"detector state holds prune ratios \[\]", lambda: EarlyBird(0.5, GROUPS).load_state_dict({}))
    refused("into is a str; give the dense network", lambda: load("nowhere", into="vgg11"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"mask": {"1": torch.ones(8) > 0}}, {"weights": [1]}, {"weights": {"w": 1}}, {"prune_ratio": "0.5"},
        {"prune_ratio": 1.5}, {"prune_ratio": True}, {"realised_ratio": float("nan")}, {"drawn_after": 1.5},
        {"drawn_after": -1}, {"rule": None}, {"window": "5"}, {"epsilon": [0.1]}, {"distances": [0.1]},
        {"distances": (2.0,)}, {"distances": ("x",)}, {"flags": "drawn late"}, {"flags": (1,)}, {"notes": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_a_ticket_that_is_none(change: dict[str, Any]):
    fields: dict[str, Any] = {"mask": MASK, "weights": {}, "prune_ratio": 0.5, "realised_ratio": 0.5, "drawn_after": 1}
    assert Ticket(**fields).mask == MASK
    refused(f"^{next(iter(change)).rstrip('s')}", lambda: Ticket(**(fields | change)))


@pytest.mark.parametrize("path", [3, None, b"x", ["x"]])
def test_a_path_that_is_none(path: Any):
    ticket = Ticket(MASK, {}, 0.5, 0.5, 1)
    for call in (lambda: ticket.save(path), lambda: Ticket.load(path), lambda: WeightMask.load(path)):
        refused("path is .*; give a path", call)
    refused("folder is .*; give a path", lambda: save(MODEL, path))
    refused("folder is .*; give a path", lambda: load(path))


def test_a_path_of_the_wrong_kind(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "model.safetensors").mkdir(parents=True)
    refused("is a folder; give the path of a file", lambda: Ticket(MASK, {}, 0.5, 0.5, 1).save(tmp_path))
    for folder in ("file", "file/below", "taken"):
        refused("is no folder that can hold the files", lambda folder=folder: save(MODEL, tmp_path / folder))
    assert (tmp_path / "file").read_text() == "mine"
