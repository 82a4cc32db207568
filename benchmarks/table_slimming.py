"""Cut every classification network of torchvision, or one per family of timm, and write the table into `docs/`.

    python benchmarks/table_slimming.py torchvision [NAME ...]
    python benchmarks/table_slimming.py timm [NAME ...]

Each network gets random weights, random BatchNorm scales, shifts and statistics, and a mask at p = 0.5; networks
without BatchNorm are scored by `filter_l1`. The slim network is compared with the masked one in eval and train mode.
With names, the rows are printed and no file is written.
"""

from __future__ import annotations

import gc
import re
import sys
import textwrap
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from earlybird.core import draw_mask
from earlybird.core.criteria import bn_scale, filter_l1
from earlybird.core.drawing import realised_ratio, scored_groups
from earlybird.errors import EarlyBirdError
from earlybird.slimming import channel_groups, masked, slim
from earlybird.slimming.check import Difference, difference, within_rounding

DOCS = Path(__file__).parents[1] / "docs"
PRUNE_RATIO = 0.5
LINE = 120
_NORM = nn.modules.batchnorm._BatchNorm


@dataclass
class Row:
    """One network's result; `verdict` is exact, WRONG or refused."""

    name: str
    family: str = ""
    verdict: str = ""
    why: str = ""
    has_norm: bool = False
    channels: int = 0  # of mask keys, those that stay included
    prunable: int = 0
    removed: int = 0
    realised: float = 0.0
    params_kept: float = 1.0
    found: Difference | None = None
    seconds: float = 0.0


def randomise_(model: nn.Module) -> None:
    """Random scales, shifts and statistics, so that a wrong channel shows."""
    for module in model.modules():
        if isinstance(module, _NORM) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.3, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            if module.running_mean is not None:
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 2.0)
    norms = {id(p) for m in model.modules() if isinstance(m, _NORM) for p in m.parameters()}
    for parameter in model.parameters():
        # A head of zeros or a layer scale of 1e-6 would hide what comes before it.
        if id(parameter) not in norms and float(parameter.detach().std(correction=0)) < 1e-3:
            nn.init.uniform_(parameter, 0.1, 1.0) if parameter.dim() < 2 else nn.init.normal_(parameter, std=0.05)


def examine(name: str, model: nn.Module, size: int) -> Row:
    """Cut one network and compare."""
    row = Row(name, has_norm=any(isinstance(m, _NORM) and m.weight is not None for m in model.modules()))
    randomise_(model)
    x = torch.randn(2, 3, size, size)
    try:
        start = time.process_time()
        groups = channel_groups(model, x)
        scores = bn_scale(model) if row.has_norm else filter_l1(model)
        mask = draw_mask(scores, PRUNE_RATIO, groups)
        small = slim(model, mask, x, groups, check=False)
        row.seconds = time.process_time() - start
    except EarlyBirdError as error:
        row.verdict, row.why = "refused", str(error)
        return row
    keyed = {key: units for key, units in groups.unit_of.items() if key in scores}
    row.channels = sum(units.numel() for units in keyed.values())
    row.prunable = sum(int((units >= 0).sum()) for units in keyed.values())
    row.removed = sum(int((~mask[key]).sum()) for key in keyed)
    row.realised = realised_ratio(mask, scored_groups(scores, groups))
    row.params_kept = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    reasons = Counter(r for key in keyed for r in groups.protected.get(key, {}).values())
    row.why = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(2))
    row.found = difference(masked(model, mask), small, x)
    row.verdict = "exact" if within_rounding(row.found, model) else "WRONG"
    return row


def markdown(rows: list[Row], title: str, intro: str) -> str:
    """The page."""
    exact, wrong = (sum(row.verdict == verdict for row in rows) for verdict in ("exact", "WRONG"))
    pruned = sum(row.removed >= max(1, row.channels / 10) for row in rows)
    norm = [row for row in rows if row.has_norm]
    lines = [
        f"# {title}",
        "",
        textwrap.fill(intro, LINE),
        "",
        textwrap.fill(
            f"{len(rows)} networks: {exact} cut exactly ({pruned} of them lose a "
            f"tenth of their channels or more), {len(rows) - exact - wrong} refused, {wrong} wrong. "
            f"Of the {len(norm)} with BatchNorm {sum(row.verdict == 'exact' for row in norm)} cut exactly.",
            LINE,
        ),
        "",
        "| network | verdict | channels | of them prunable | removed | realised p | params kept | eval error "
        "| train error | CPU s | what stays, and why |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = [row.name + ("" if row.has_norm else " (no BatchNorm)"), row.verdict]
        if row.found is None:
            cells += [""] * 8
        else:
            train = "random" if row.found.train_error is None else f"{row.found.train_error:.0e}"
            mark = " (fp64)" if row.found.dtype == "float64" else ""
            cells += [
                str(row.channels),
                str(row.prunable),
                str(row.removed),
                f"{row.realised:.3f}",
                f"{row.params_kept:.2f}",
                f"{row.found.eval_error:.0e}{mark}",
                train + mark,
                f"{row.seconds:.2f}",
            ]
        lines.append("| " + " | ".join([*cells, row.why.replace("|", "/")]) + " |")
    return "\n".join(lines) + "\n"


INTRO = (
    "Written by `python benchmarks/table_slimming.py {kind}`. Random weights and BatchNorm scales, p = 0.5, default "
    "policy, image size {size}. `channels`: channels of the layers that carry the scores (BatchNorms; convolutions and "
    "linears where there is none). Errors are relative to the largest output of the masked network; `fp64`: compared "
    "in float64, because float32 rounding alone exceeded 1e-5 (1e-4 in train mode); `random`: the network draws random "
    "numbers in train mode that cannot be turned off. CPU s: tracing, grouping, drawing and cutting."
)


def torchvision_networks(names: list[str]) -> list[tuple[str, str, int]]:
    from torchvision import models

    return [(n, n, 299 if n == "inception_v3" else 224) for n in names or models.list_models(module=models)]


def build(kind: str, name: str) -> nn.Module:
    """Random weights; no download."""
    torch.manual_seed(0)
    if kind == "torchvision":
        from torchvision import models

        return models.get_model(name, weights=None)
    import timm

    return timm.create_model(name, pretrained=False)


def timm_networks(names: list[str]) -> list[tuple[str, str, int]]:
    """The smallest network with BatchNorm of each of timm's families: the letters a name begins with."""
    import timm

    smallest: dict[str, tuple[int, str, int]] = {}
    for name in names or timm.list_models():
        family = _timm_family(name)
        if family == "test":  # timm's own miniatures of families that are here anyway
            continue
        try:
            model = _on_meta(name)
        except Exception as error:
            print(f"{name}: timm itself cannot build it here: {error}", file=sys.stderr)
            continue
        if not any(isinstance(m, _NORM) for m in model.modules()):
            continue
        params = sum(p.numel() for p in model.parameters())
        size = model.default_cfg.get("input_size", (3, 224, 224))[-1]
        key = name if names else family
        if key not in smallest or params < smallest[key][0]:
            smallest[key] = (params, name, size)
    return [(family, name, size) for family, (_, name, size) in sorted(smallest.items())]


def _timm_family(name: str) -> str:
    words = re.split(r"[_\d]", name)
    # Whose weights they are is no family.
    return next(word for word in words if word and word not in ("tf", "legacy", "gc", "wide"))


def _on_meta(name: str) -> nn.Module:
    import timm

    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name, pretrained=False)
    except Exception:  # Some compute with their weights while they are built.
        model = timm.create_model(name, pretrained=False)
    return model


def main(argv: list[str]) -> None:
    kind, names = argv[0], argv[1:]
    networks = torchvision_networks(names) if kind == "torchvision" else timm_networks(names)
    rows = []
    for family, name, size in networks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = examine(name, build(kind, name), size)
        row.family = family
        rows.append(row)
        found = row.found
        errors = f"{found.eval_error:.1e} {found.train_error} {found.dtype}" if found else ""
        counts = f"{row.removed}/{row.prunable}/{row.channels} p={row.realised:.3f}"
        print(f"{name:34} {row.verdict:8} {counts} {errors} {row.seconds:.2f}s {row.why}", flush=True)
        gc.collect()
    if not names:
        intro = INTRO.format(kind=kind, size="224 (Inception 299)" if kind == "torchvision" else "as timm gives it")
        page = markdown(rows, f"Slimming the networks of {kind}", intro)
        (DOCS / f"slimming-{kind}.md").write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])
