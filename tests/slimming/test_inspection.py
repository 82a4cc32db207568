from __future__ import annotations

import torch
from torch import nn

from earlybird.models import build_model
from earlybird.slimming import channel_groups
from earlybird.slimming.groups import GroupRow, inspect_groups


def test_layers_that_share_units_stand_in_one_row():
    depthwise = [nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *depthwise, nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    assert inspect_groups(channel_groups(net, torch.zeros(2, 3, 8, 8))) == [
        GroupRow(("1", "3", "0", "2"), 8, 4, {}),
        GroupRow(("5",), 5, 0, {"it is a network output": 5}),
    ]


def test_every_unit_of_a_real_network_is_in_exactly_one_row():
    groups = channel_groups(build_model("resnet18", num_classes=10, width=0.25), torch.zeros(2, 3, 32, 32))
    rows = inspect_groups(groups)
    assert sum(row.units for row in rows) == groups.num_units
    assert sum(row.channels for row in rows) == sum(groups.widths().values())
    layers = [name for row in rows for name in row.layers]
    assert len(layers) == len(set(layers))
    stage = next(row for row in rows if "layers.0.0.bn2" in row.layers)
    assert {"bn1", "layers.0.1.bn2"} <= set(stage.layers)  # The stream of the first stage is cut as one.
