"""Operations: products by operand width, and the name of what nobody counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from earlybird.cost import count_cost
from earlybird.cost.operations import MacCounter


class Mixed(nn.Module):
    """A convolution in float32 and a linear layer in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean(dim=(2, 3)).bfloat16())


def small() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)]
    return nn.Sequential(*layers)


def test_products_stand_under_the_width_of_their_operands() -> None:
    # 6x6 places after the 3x3 convolution of 8x8: 36 * 4 * 27 = 3,888; linear 4 * 5 = 20.
    assert count_cost(Mixed(), (3, 8, 8)).macs_by_width == {"32x32": 3888, "16x16": 20}


def test_counted_widths_under_bf16_are_those_that_autocast_gives() -> None:
    counted = count_cost(small(), (3, 8, 8), "bf16")
    net, images = small().train(), torch.randn(2, 3, 8, 8)
    with MacCounter() as counter:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = net(images).float().sum()
        loss.backward()
    assert set(counter.by_width) == set(counted.train_macs_by_width) == {"16x16"}
    assert counter.macs == 2 * counted.train_macs


def test_widths_do_not_change_the_count() -> None:
    single, half = (count_cost(small(), (3, 8, 8), precision) for precision in ("fp32", "bf16"))
    assert single.macs_by_width == {"32x32": single.macs} and half.macs_by_width == {"16x16": single.macs}
    assert sum(half.train_macs_by_width.values()) == single.train_macs


@pytest.mark.parametrize(
    ("run", "macs"),
    [
        (lambda: torch.mv(torch.ones(3, 4), torch.ones(4)), 12),
        (lambda: torch.addmv(torch.ones(3), torch.ones(3, 4), torch.ones(4)), 12),
        (lambda: torch.dot(torch.ones(7), torch.ones(7)), 7),
        (lambda: torch.baddbmm(torch.ones(2, 3, 5), torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 120),
    ],
)
def test_small_products_count(run, macs: int) -> None:
    with MacCounter() as counter:
        run()
    assert counter.macs == macs and not counter.uncounted


def test_the_bias_is_no_operand() -> None:
    with MacCounter() as counter:
        torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 32, dtype=torch.int8))
        torch.addmm(torch.ones(3), torch.ones(2, 4), torch.ones(4, 3))
    assert counter.by_width == {"32x32": 24}
    assert list(counter.uncounted) == ["aten._int_mm"]  # it multiplies, and PyTorch has no formula for it


class Transformed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).real + torch.cdist(x, x) + torch.linalg.inv(x)


def test_operations_that_hide_products_are_named() -> None:
    cost = count_cost(Transformed(), (2, 4, 4))
    assert cost.macs == 0
    assert {"aten._fft_c2c", "aten._cdist_forward", "aten.linalg_inv_ex"} <= set(cost.uncounted)


def test_operations_without_products_are_not_named() -> None:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2),
        nn.Dropout(0.5), nn.PReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 4),
        nn.Softmax(dim=1),
    ]  # fmt: skip
    assert count_cost(nn.Sequential(*layers), (3, 8, 8)).uncounted == ()


def test_recurrent_and_normalised_layers_hide_nothing() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(4, 5, batch_first=True)
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(5, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    cost = count_cost(Recurrent(), (3, 4))
    # Four gates, three steps: inputs 4 and states 5 into 5; then 5 into 2.
    assert cost.macs == 4 * 3 * (4 * 5 + 5 * 5) + 10 and cost.uncounted == ()
