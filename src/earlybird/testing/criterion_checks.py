"""Conformance checks of a criterion: `model -> {module name: scores [out channels]}`, higher = keep."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.core import Criterion, draw_mask
from earlybird.core.criteria import WEIGHTED
from earlybird.models import build_model
from earlybird.slimming import channel_groups, slim
from earlybird.testing.tiny import CLASSES, network


def check_criterion(criterion: Criterion) -> None:
    """Raise unless a criterion can be used wherever `bn_scale` can: for detection, drawing and cutting.

    It is tried on a plain chain and on a network with tied channels, both with weights that differ and with gradients.

    Raises:
        AssertionError: what does not hold, in one sentence.
    """
    for model, images in _networks():
        scores = _scores_that_leave_alone(criterion, model)
        _check_scores(scores, model)
        _check_it_repeats(criterion, model, scores)
        _check_it_draws(scores, model, images)


def _networks() -> list[tuple[nn.Module, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for model, size in ((build_model("vgg11", num_classes=CLASSES, width=0.125), 32), (network(CLASSES), 8)):
        images = torch.randn(6, 3, size, size, generator=draw)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):  # As after some training: no two scales alike.
                    module.weight.uniform_(0.1, 1.0, generator=draw)
        functional.cross_entropy(model(images), torch.arange(6) % CLASSES).backward()
        found.append((model, images))
    return found


def _check_scores(scores: object, model: nn.Module) -> None:
    assert isinstance(scores, dict) and scores, f"a criterion returns a dict of scores, not {type(scores).__name__}"
    modules = dict(model.named_modules())
    for name, score in scores.items():
        assert name in modules, f"the criterion scores {name!r}, which is no module of the network"
        assert isinstance(score, Tensor) and score.dim() == 1, f"scores of {name!r} must be a tensor [out channels]"
        assert score.is_floating_point(), f"scores of {name!r} are {score.dtype}; give a floating dtype"
        assert bool(torch.isfinite(score).all()), f"scores of {name!r} hold NaN or infinity"
        assert not score.requires_grad, f"scores of {name!r} carry a gradient; detach them"
        assert score.device.type == "cpu", f"scores of {name!r} are on {score.device}; move them to the CPU"
        width = _width(modules[name])
        assert width == score.numel(), f"{name!r} has {width} channels, the criterion gives {score.numel()} scores"


def _width(module: nn.Module) -> int | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.num_features
    if isinstance(module, WEIGHTED):
        return int(getattr(module, "out_channels", getattr(module, "out_features", 0)))
    return None


def _scores_that_leave_alone(criterion: Criterion, model: nn.Module) -> dict[str, Tensor]:
    """Scores of a network, checked to be left as it was found."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    mode, random_state = model.training, torch.get_rng_state()
    scores = criterion(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"the criterion changes {name!r}; score without training"
    for name, parameter in model.named_parameters():
        now = parameter.grad
        same = (now is None) == (name not in gradients) and (now is None or torch.equal(now, gradients[name]))
        assert same, f"the criterion changes the gradient of {name!r}"
    assert model.training == mode, "the criterion leaves the network in another mode than it found it in"
    assert torch.equal(torch.get_rng_state(), random_state), "the criterion draws from the global random generator"
    return scores


def _check_it_repeats(criterion: Criterion, model: nn.Module, first: dict[str, Tensor]) -> None:
    again = criterion(model)
    same = again.keys() == first.keys() and all(torch.equal(again[name], first[name]) for name in first)
    assert same, "the criterion gives other scores for the same network the second time"


def _check_it_draws(scores: dict[str, Tensor], model: nn.Module, images: Tensor) -> None:
    groups = channel_groups(model, images)
    assert any(groups.units_of_layer(name) is not None for name in scores), (
        "the criterion scores no layer that channels may be cut from; key scores by BatchNorm, conv or linear"
    )
    mask = draw_mask(scores, 0.4, groups)
    assert sum(mask.kept_counts().values()) < sum(mask.widths().values()), "a mask of these scores cuts nothing"
    slim(model, mask, images, groups)  # which compares the small network with the masked one
