from __future__ import annotations

import pytest
import torch

from earlybird.cost import count_cost
from earlybird.errors import ModelError
from earlybird.models import ResNet, build_model


def test_resnet18_for_cifar_has_the_published_macs():
    assert round(count_cost(build_model("resnet18", num_classes=10), (3, 32, 32)).macs / 1e6, 1) == 555.4


def test_logits_have_one_row_per_image():
    assert build_model("resnet34", num_classes=7, width=0.25)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_an_unknown_depth_is_refused():
    with pytest.raises(ModelError, match="ResNet depth is 50; choose one of 18, 34"):
        ResNet(50, num_classes=10)


def test_new_weights_are_drawn_at_the_widths_of_now():
    model = build_model("resnet18", num_classes=10, width=0.25)
    before = model.conv1.weight.clone()
    model.initialise_()
    assert not torch.equal(before, model.conv1.weight)
    assert all(bool((m.weight == 0.5).all()) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
