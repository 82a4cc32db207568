"""Our slimming against Torch-Pruning on torchvision's networks with BatchNorm: the same channels, outputs and seconds.

    pip install torch-pruning==1.6.1
    python benchmarks/compare_torch_pruning.py [NAME ...]

For each network half of the groups are removed by both: Torch-Pruning is asked, convolution by convolution, to remove
the output channels that our mask removes. Both results are compared with the masked dense network in eval mode.
CPU seconds cover what each needs from the dense network to the smaller one: tracing, grouping and cutting.
"""

from __future__ import annotations

import copy
import gc
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from earlybird.core import ChannelMask, bn_scale
from earlybird.core.groups import ChannelGroups
from earlybird.slimming import channel_groups, masked, slim

SIZE = 224
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def kept_units(model: nn.Module, groups: ChannelGroups) -> torch.Tensor:
    """Half of the units that hold a norm's channel, but never a whole layer: in each layer every second one goes.

    Bool `[units]`, True = kept.
    """
    norms = {name: groups.unit_of[name] for name in bn_scale(model)}
    keep = torch.ones(groups.num_units, dtype=torch.bool)
    for units in norms.values():
        own = torch.unique(units[units >= 0])
        if len(own) > 1:
            keep[own[1::2]] = False
    for units in norms.values():
        own = torch.unique(units[units >= 0])
        if len(own) and not bool(keep[own].any()) and not bool((units < 0).any()):
            keep[own[0]] = True
    return keep


def ours(model: nn.Module, x: torch.Tensor) -> tuple[nn.Module, ChannelGroups, torch.Tensor, float]:
    """The slim network, its groups and kept units, and the seconds."""
    start = time.process_time()
    groups = channel_groups(model, x)
    keep = kept_units(model, groups)
    small = slim(model, groups.mask_of(keep), x, groups, check=False)
    return small, groups, keep, time.process_time() - start


def theirs(model: nn.Module, groups: ChannelGroups, keep: torch.Tensor, x: torch.Tensor) -> tuple[nn.Module, float]:
    """Torch-Pruning's result for the same removed channels."""
    import torch_pruning as tp

    model = copy.deepcopy(model).eval()
    modules = dict(model.named_modules())
    producers = {**groups.producer_unit_of, **groups.unit_of}
    producers = {name: units for name, units in producers.items() if isinstance(modules[name], (nn.Linear, *CONVS))}
    gone = {
        name: {i for i, u in enumerate(units.tolist()) if u >= 0 and not keep[u]} for name, units in producers.items()
    }
    left = {modules[name]: list(range(len(units))) for name, units in producers.items()}
    start = time.process_time()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    for name, channels in gone.items():
        module = modules[name]
        now = [place for place, channel in enumerate(left[module]) if channel in channels]
        if not now or module not in graph.module2node:  # Auxiliary heads run in train mode only.
            continue
        prune = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
        group = graph.get_pruning_group(module, prune, idxs=now)
        for dependency, places in group:
            other = dependency.target.module
            if other in left and graph.is_out_channel_pruning_fn(dependency.handler):
                left[other] = [channel for place, channel in enumerate(left[other]) if place not in set(places)]
        group.prune()
    return model, time.process_time() - start


def error(small: nn.Module, dense: nn.Module, mask: ChannelMask, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected, actual = masked(dense, mask).eval()(x), copy.deepcopy(small).eval()(x)
    return float((actual - expected).abs().max() / expected.abs().max())


def compare(name: str) -> str:
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    model.eval()
    x = torch.randn(2, 3, 299 if name == "inception_v3" else SIZE, 299 if name == "inception_v3" else SIZE)
    small, groups, keep, seconds = ours(model, x)
    mask = groups.mask_of(keep)
    cells = [name, f"{error(small, model, mask, x):.0e}", f"{seconds:.2f}"]
    return "| " + " | ".join([*cells, *_theirs_cells(model, small, groups, keep, x, seconds)]) + " |"


def _theirs_cells(
    model: nn.Module, small: nn.Module, groups: ChannelGroups, keep: torch.Tensor, x: torch.Tensor, seconds: float
) -> tuple[str, str, str, str, str]:
    try:
        pruned, their_seconds = theirs(model, groups, keep, x)
    except Exception as problem:
        return f"fails to cut: {type(problem).__name__}: {_first_line(problem)}", "", "", "", ""
    times = f"{their_seconds:.2f}", f"{their_seconds / seconds:.1f}x"
    same = "yes" if [p.shape for p in small.parameters()] == [p.shape for p in pruned.parameters()] else "no"
    try:
        found = error(pruned, model, groups.mask_of(keep), x)
    except Exception as problem:
        return f"does not run: {_first_line(problem)}", "", same, *times
    verdict = "same output" if found <= 1e-4 else "other output"
    try:
        copy.deepcopy(pruned).train()(x)
    except Exception as problem:
        verdict += f"; does not run in train mode: {_first_line(problem)}"
    return verdict, f"{found:.0e}", same, *times


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [""])[0][:90].replace("|", "/")


def main(names: list[str]) -> None:
    from torchvision import models

    warnings.simplefilter("ignore")
    if not names:
        for name in models.list_models(module=models):
            model = models.get_model(name, weights=None)
            if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
                names.append(name)
    head = "| network | our error | our CPU s | Torch-Pruning | its error | same shapes | its CPU s | its time / ours |"
    lines = [head, "|---|---:|---:|---|---:|---|---:|---:|"]
    print("\n".join(lines))
    for name in names:
        lines.append(compare(name))
        print(lines[-1], flush=True)
        gc.collect()
    if len(sys.argv) == 1:
        page = "# Slimming beside Torch-Pruning 1.6.1\n\n" + (__doc__ or "").split("\n\n", 2)[2].strip() + "\n\n"
        (Path(__file__).parents[1] / "docs" / "slimming-torch-pruning.md").write_text(page + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
