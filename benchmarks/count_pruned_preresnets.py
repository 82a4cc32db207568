"""FLOPs of pruned PreResNets by the paper's convention: our norm, which gathers first, beside one at full width.

    python benchmarks/count_pruned_preresnets.py

The authors' channel selection stands behind the norm, which is charged at full width (2 per element, and the ReLU
behind the selection is charged for the channels kept, as ours). Scales are drawn at random from one seed.
"""

from __future__ import annotations

import torch
from torch import nn

from earlybird import channel_groups, slim
from earlybird.core import bn_scale, draw_mask
from earlybird.cost import count_cost
from earlybird.models import build_model
from earlybird.slimming.selection import GatheringNorm

SHAPE = (3, 32, 32)


def missing_flops(network: nn.Module, dense: nn.Module) -> int:
    """FLOPs that gathering norms would be charged more at the width they read from."""
    widths = {name: m.num_features for name, m in dense.named_modules() if isinstance(m, nn.BatchNorm2d)}
    found, hooks = [], []
    for name, module in network.named_modules():
        if isinstance(module, GatheringNorm):
            less = widths[name] - module.num_features
            hooks.append(
                module.register_forward_hook(
                    lambda _, __, out, less=less: found.append(2 * less * out.shape[-2] * out.shape[-1])
                )
            )
    with torch.no_grad():
        network.eval()(torch.zeros(1, *SHAPE))
    for hook in hooks:
        hook.remove()
    return sum(found)


def main() -> None:
    print("| network | p | gather first | full-width norm | below by |\n|---|---:|---:|---:|---:|")
    for name in ("preresnet20", "preresnet56", "preresnet101"):
        dense = build_model(name, num_classes=10)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for module in dense.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0, 1, generator=generator)
        x = torch.zeros(2, *SHAPE)
        groups = channel_groups(dense, x)
        for ratio in (0.3, 0.5, 0.7):
            small = slim(dense, draw_mask(bn_scale(dense), ratio, groups), x, groups, check=False)
            gathered = count_cost(small, SHAPE).paper_flops
            whole = gathered + missing_flops(small, dense)
            below = 100 * (1 - gathered / whole)
            print(f"| {name} | {ratio} | {gathered / 1e9:.4f} G | {whole / 1e9:.4f} G | {below:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
