"""Our slimming against Torch-Pruning on torchvision's networks with BatchNorm: the same channels, outputs and seconds.

    pip install torch-pruning==1.6.1
    python benchmarks/compare_torch_pruning.py [NAME ...]

For each network half of the units are removed by both: Torch-Pruning is asked, norm by norm, to remove the channels
that our mask removes. Both results are compared with the masked dense network in eval mode.
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

from earlybird.core import ChannelMask
from earlybird.core.groups import ChannelGroups
from earlybird.slimming import channel_groups, masked, slim

SIZE = 224


def random_mask(groups: ChannelGroups) -> ChannelMask:
    """Half of the units, but never a whole layer: in each layer every second unit goes."""
    keep = torch.ones(groups.num_units, dtype=torch.bool)
    for units in groups.unit_of.values():
        own = torch.unique(units[units >= 0])
        if len(own) > 1:
            keep[own[1::2]] = False
    for units in groups.unit_of.values():
        own = torch.unique(units[units >= 0])
        if len(own) and not bool(keep[own].any()) and not bool((units < 0).any()):
            keep[own[0]] = True
    return groups.mask_of(keep)


def ours(model: nn.Module, x: torch.Tensor) -> tuple[nn.Module, ChannelMask, float]:
    start = time.process_time()
    groups = channel_groups(model, x)
    mask = random_mask(groups)
    small = slim(model, mask, x, groups, check=False)
    return small, mask, time.process_time() - start


def theirs(model: nn.Module, mask: ChannelMask, x: torch.Tensor) -> tuple[nn.Module, float]:
    """Torch-Pruning's result for the same removed channels."""
    import torch_pruning as tp

    model = copy.deepcopy(model).eval()
    start = time.process_time()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    modules = dict(model.named_modules())
    removed = {name: torch.nonzero(~keep).flatten().tolist() for name, keep in mask.items()}
    done: set[str] = set()
    for name, channels in removed.items():
        module = modules[name]
        if name in done or not channels or not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        group = graph.get_pruning_group(module, tp.prune_batchnorm_out_channels, idxs=channels)
        if not graph.check_pruning_group(group):
            continue
        for dependency, _ in group:
            found = next((n for n, m in modules.items() if m is dependency.target.module), None)
            if found in removed:
                done.add(found)
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
    small, mask, seconds = ours(model, x)
    cells = [name, f"{error(small, model, mask, x):.0e}", f"{seconds:.2f}"]
    try:
        pruned, their_seconds = theirs(model, mask, x)
        same = [tuple(p.shape) for p in small.parameters()] == [tuple(p.shape) for p in pruned.parameters()]
        try:
            found = error(pruned, model, mask, x)
            verdict = "same" if found <= 1e-4 else "other output"
            cells += [verdict, f"{found:.0e}"]
        except Exception as problem:
            cells += [f"does not run: {str(problem).splitlines()[0][:90]}", ""]
        cells += ["yes" if same else "no", f"{their_seconds:.2f}", f"{their_seconds / seconds:.1f}x"]
    except Exception as problem:
        cells += [f"fails: {type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:90]}", "", "", "", ""]
    return "| " + " | ".join(cells) + " |"


def main(names: list[str]) -> None:
    from torchvision import models

    warnings.simplefilter("ignore")
    if not names:
        for name in models.list_models(module=models):
            with torch.device("meta"):
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
