"""Bytes moved, worked out by hand for one layer and compared with what really runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from earlybird.cost.network import SGD_PASSES, Traffic, count_cost_and_traffic, count_traffic
from earlybird.cost.operations import Watch, moved_bytes
from earlybird.errors import ModelError


def test_a_linear_layer_moves_what_the_hand_says() -> None:
    # Forward of 4 -> 3 without bias: 4 in and 3 out per image, 12 weights per batch, 4 bytes each.
    traffic = count_traffic(nn.Linear(4, 3, bias=False), (4,))
    assert traffic.forward == Traffic(image_bytes=(4 + 3) * 4, batch_bytes=12 * 4)


def test_training_adds_the_weights_gradient_and_the_optimizer() -> None:
    # Per image: forward 4 + 3, the sum that stands for the loss reads 3, the weight's gradient reads the 4 again; the
    # gradient of a sum is one number, expanded.
    # Per batch: weights 12 (forward), their gradient 12, SGD; the loss's few scalars.
    traffic = count_traffic(nn.Linear(4, 3, bias=False), (4,)).training
    weights = 12 * 4
    assert traffic.image_bytes == (4 + 3 + 3 + 4) * 4
    assert 0 <= traffic.batch_bytes - weights * (2 + SGD_PASSES) <= 64


def test_sgd_makes_the_passes_that_are_charged() -> None:
    parameter = nn.Parameter(torch.zeros(1000))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)
    parameter.grad = torch.ones(1000)
    optimizer.step()
    moved = Watch(moved_bytes)
    with moved:
        optimizer.step()
    assert sum(moved.found) == SGD_PASSES * 4000


def test_views_move_nothing_and_what_is_expanded_is_read_once() -> None:
    moved = Watch(moved_bytes)
    x = torch.zeros(10)
    with moved:
        x.view(2, 5).t().unsqueeze(0).detach()
    assert sum(moved.found) == 0
    with moved:
        x[:1].expand(5).clone()
    # The one float that is read lies in a storage of ten, of which five would fit; five are written.
    assert sum(moved.found) == 20 + 20


def test_autocast_halves_activations_and_adds_casts() -> None:
    net = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1))
    single, half = (count_traffic(net, (8, 16, 16), precision).forward for precision in ("fp32", "bf16"))
    assert 0.5 < half.image_bytes / single.image_bytes < 0.6
    assert half.batch_bytes > single.batch_bytes  # weights are read in fp32 and written in bf16 before they are used


def test_frozen_networks_pay_no_optimizer() -> None:
    frozen = nn.Linear(4, 3, bias=False).requires_grad_(False)
    assert count_traffic(frozen, (4,)).training.batch_bytes < 12 * 4 + 64


def test_the_line_through_two_batches_holds_for_a_third() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    moved, images = Watch(moved_bytes), torch.zeros(7, 3, 8, 8)
    with torch.no_grad(), moved:
        net(images)
    assert count_traffic(net, (3, 8, 8)).forward.of(7, 1) == sum(moved.found)


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_reads_values_is_refused() -> None:
    with pytest.raises(ModelError, match="memory traffic of ReadsValues cannot be counted"):
        count_traffic(ReadsValues(), (3,))


def test_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    count_traffic(net, (3, 8, 8), "bf16")
    assert not net.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


class Keeps(nn.Module):
    """Plain tensor attributes: a constant, and what it calculated last."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.last, self.layer = torch.tensor([0.5]), None, nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x - self.mean)
        return self.last


def test_plain_tensors_of_a_network_do_not_stand_in_the_way() -> None:
    net = Keeps()
    before = count_traffic(net, (3,))
    net(torch.zeros(2, 3)).sum().backward()
    assert count_traffic(net, (3,)) == before


def test_a_sparse_gradient_is_no_error() -> None:
    net = nn.Sequential(nn.Embedding(10, 4, sparse=True))

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = net

        def forward(self, x: Tensor) -> Tensor:
            return self.table((x > 0).long())

    assert count_traffic(Looks(), (3,)).training.image_bytes > 0


def test_why_traffic_is_missing_is_kept_and_nothing_is_printed(capfd) -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if torch.rand(1).item() > 2 else self.layer(self.layer(x))

    cost = count_cost_and_traffic(Drops(), (3,))
    assert (cost.macs, cost.traffic) == (18, None)
    assert "DataDependentOutputException" in cost.traffic_reason and "\n" not in cost.traffic_reason
    assert capfd.readouterr().err == ""
