"""A training step of ResNet50 (ImageNet form), dense against slim: ratio of times beside ratio of MACs, in one run.

    python benchmarks/bench_resnet50.py [BATCH_SIZE]

Masks are drawn from random BatchNorm scales, which leave odd widths in every layer unless they are rounded, as a
trained network's do. Networks take turns, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import nn

from earlybird import bn_scale, channel_groups, draw_mask, slim
from earlybird.cli.main import keep_freed_memory
from earlybird.cost import count_cost, step_seconds
from earlybird.models import build_model

SHAPE = (3, 224, 224)


def networks() -> dict[str, nn.Module]:
    """Dense, and slim at three ratios with exact widths and with widths in multiples of 8."""
    dense = build_model("torchvision:resnet50", num_classes=1000, image_size=224)
    torch.manual_seed(0)
    for module in dense.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    example = torch.zeros(2, *SHAPE)
    groups = channel_groups(dense, example)
    nets: dict[str, nn.Module] = {"dense": dense}
    for ratio in (0.3, 0.5, 0.7):
        for round_to in (1, 8):
            mask = draw_mask(bn_scale(dense), ratio, groups, round_to=round_to)
            nets[f"p={ratio} round_to={round_to}"] = slim(dense, mask, example, groups, check=False)
    return nets


def main() -> None:
    keep_freed_memory()
    warnings.simplefilter("ignore")
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    nets = networks()
    images = torch.randn(batch, *SHAPE)
    seconds = step_seconds(nets, images, rounds=3)
    nets = {name: net.to(memory_format=torch.channels_last) for name, net in nets.items()}
    last = step_seconds(nets, images.contiguous(memory_format=torch.channels_last), rounds=3)
    costs = {name: count_cost(net, SHAPE) for name, net in nets.items()}
    print(
        f"ResNet50, batch {batch}, fp32, {torch.get_num_threads()} threads; time as a share of dense in the same layout"
    )
    print(f"{'':22}{'params':>8}{'MACs':>8}{'train MACs':>12}{'contiguous':>12}{'channels_last':>15}")
    for name in nets:
        shares = [getattr(costs[name], key) / getattr(costs["dense"], key) for key in ("params", "macs", "train_macs")]
        times = [seconds[name] / seconds["dense"], last[name] / last["dense"]]
        print(f"{name:22}{shares[0]:8.3f}{shares[1]:8.3f}{shares[2]:12.3f}{times[0]:12.3f}{times[1]:15.3f}")
    print(f"dense: {seconds['dense']:.2f} s contiguous, {last['dense']:.2f} s channels_last")


if __name__ == "__main__":
    main()
