"""Costs of tiny networks worked out by hand, and of the paper's networks against the published figures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlybird.cost import ModelCost, count_cost
from earlybird.errors import ModelError
from earlybird.models import build_model


class ByModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.average(self.pool(self.relu(self.bn(self.conv(x))))).flatten(1))


class ByFunctions(ByModules):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.fc(x.mean((2, 3)))


class SelectNorm(nn.BatchNorm2d):
    def __init__(self, index: Tensor) -> None:
        super().__init__(len(index))
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.index_select(1, self.index))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"logits": self.a(x), "auxiliary": (self.b(x),), "count": torch.ones(1, dtype=torch.int64)}


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("net", [ByModules, ByFunctions])
def test_a_small_net_costs_what_the_hand_says(net: type[nn.Module]) -> None:
    # 8x8 image. conv: 64 places * 4 channels * 27 = 6912 MAC (+4 bias), linear: 4 * 5 = 20 MAC.
    # Backward: conv weight 6912 (the image needs no gradient), linear weight and input 40.
    # Paper: 2 * 6932, BN 2 * 256, ReLU 256, 2x2 pool 4 * 64; the global average is free.
    expected = ModelCost(
        params=3 * 4 * 9 + 4 + 8 + 20 + 5,
        macs=6912 + 20,
        train_macs=6912 * 2 + 20 * 3,
        paper_flops=2 * 6932 + 512 + 256 + 256,
        macs_by_width={"32x32": 6932},
        train_macs_by_width={"32x32": 6912 * 2 + 20 * 3},
    )
    assert count_cost(net(), (3, 8, 8)) == expected


def test_a_depthwise_convolution_trains_at_three_times_its_forward_cost() -> None:
    # 5x5 image. 1x1: 25 * 4 = 100, once more for its weight. Depthwise: 25 * 8 * 9 = 1800, three times.
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, padding=1, groups=4))
    cost = count_cost(net, (1, 5, 5))
    assert (cost.macs, cost.train_macs) == (100 + 1800, 200 + 5400)


def test_a_transposed_convolution_trains_at_three_times_its_forward_cost() -> None:
    # 4x4 image. 1x1: 16 * 2 = 32. Transposed 2x2 on 16 places: 16 * 2 * 3 * 4 = 384.
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ConvTranspose2d(2, 3, 2, stride=2))
    cost = count_cost(net, (1, 4, 4))
    assert (cost.macs, cost.train_macs) == (32 + 384, 64 + 3 * 384)


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        (nn.ReLU(), 2 * 6 * 6),
        (nn.ReLU6(), 2 * 6 * 6),
        (nn.BatchNorm2d(2), 2 * 2 * 6 * 6),
        (nn.AvgPool2d(3), 9 * 2 * 2 * 2),
        (nn.MaxPool2d((3, 2)), 6 * 2 * 2 * 3),
        (nn.MaxPool2d(3, stride=1, padding=1), 9 * 2 * 6 * 6),
        (nn.AdaptiveAvgPool2d(2), 9 * 2 * 2 * 2),
        (nn.AdaptiveAvgPool2d(6), 2 * 6 * 6),
        (nn.AdaptiveMaxPool2d(3), 4 * 2 * 3 * 3),
        (nn.AdaptiveAvgPool2d(1), 0),
        (nn.AvgPool2d(6), 0),
        (nn.Sigmoid(), 0),
    ],
    ids=str,
)
def test_the_papers_convention_charges_each_layer_by_its_own_rule(layer: nn.Module, flops: int) -> None:
    cost = count_cost(layer, (2, 6, 6))
    assert (cost.paper_flops, cost.macs) == (flops, 0)


def test_a_residual_add_is_free_in_the_papers_convention() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x

    assert count_cost(Double(), (2, 6, 6)).paper_flops == 0


def test_frozen_parameters_cost_no_backward() -> None:
    frozen = ByModules().requires_grad_(False)
    cost = count_cost(frozen, (3, 8, 8))
    assert cost.train_macs == cost.macs == 6932
    frozen.fc.requires_grad_(True)  # its weight's gradient, 20 MAC, and nothing before it
    assert count_cost(frozen, (3, 8, 8)).train_macs == 6932 + 20


def test_a_norm_that_gathers_channels_first_counts_the_channels_it_keeps() -> None:
    net = nn.Sequential(SelectNorm(torch.tensor([0, 2])), nn.Conv2d(2, 3, 1, bias=False))
    cost = count_cost(net, (4, 5, 5))
    assert cost.macs == 25 * 2 * 3
    assert cost.paper_flops == 2 * 150 + 2 * (2 * 25)


def test_every_head_of_an_output_is_charged_in_training() -> None:
    cost = count_cost(TwoHeads(), (3,))
    assert (cost.macs, cost.train_macs) == (3 * 2 + 3 * 4, 2 * (3 * 2 + 3 * 4))


@pytest.mark.parametrize(
    ("name", "num_classes", "image_size", "macs", "gflops"),
    [
        ("vgg16", 10, 32, 313.20e6, 0.63),
        ("preresnet101", 10, 32, 154.06e6, 0.31),
        ("torchvision:resnet18", 1000, 224, 1.8141e9, 3.64),
        ("torchvision:resnet50", 1000, 224, 4.0892e9, 8.21),
    ],
)
def test_the_papers_networks_cost_the_published_figures(
    name: str, num_classes: int, image_size: int, macs: float, gflops: float
) -> None:
    cost = count_cost(build_model(name, num_classes=num_classes, image_size=image_size), (3, image_size, image_size))
    assert cost.macs == pytest.approx(macs, rel=4e-5)
    assert cost.paper_gflops == gflops
    assert 2.9 < cost.train_macs / cost.macs < 3.0  # only the first layer computes no gradient of its input


def test_counting_leaves_the_network_and_the_random_state_as_found() -> None:
    net = ByModules()
    net.bn.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    count_cost(net, (3, 8, 8))
    assert torch.equal(torch.rand(2), expected)
    assert net.training and not net.bn.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in net.parameters())


def test_a_parameter_that_two_layers_share_counts_once() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    cost = count_cost(nn.Sequential(first, second), (3,))
    assert (cost.params, cost.macs) == (9, 18)


def test_half_precision_networks_are_counted_alike() -> None:
    half, full = count_cost(ByModules().bfloat16(), (3, 8, 8)), count_cost(ByModules(), (3, 8, 8))
    assert (half.macs, half.train_macs, half.paper_flops) == (full.macs, full.train_macs, full.paper_flops)
    assert half.macs_by_width == {"16x16": full.macs}


def test_a_network_that_reads_values_is_refused_with_the_cause() -> None:
    with pytest.raises(ModelError, match=r"cost of ReadsValues .* must not read values out of tensors") as caught:
        count_cost(ReadsValues(), (3,))
    assert "meta" in str(caught.value) and "\n" not in str(caught.value)


def test_a_shape_that_does_not_fit_is_refused_with_the_shape() -> None:
    with pytest.raises(ModelError, match=r"images of shape \(1, 3, 8, 8\) \(no batch dimension\)"):
        count_cost(ByModules(), (1, 3, 8, 8))
    for shape in ((), (3, 0, 8)):
        with pytest.raises(ModelError, match="give the shape of one image"):
            count_cost(ByModules(), shape)
