"""Draws at which `authors_code` fires on our masks and on those of the authors' released code, on made-up scales.

    python benchmarks/compare_authors_mask.py [SEARCHES]

Theirs: sort all |gamma|, take the value at index int(p N) as threshold, keep what is strictly above it. The scales are
a random walk that settles: gamma <- gamma + noise * 0.9**draw, |gamma| after each draw. Only the mask differs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from earlybird.core import ChannelMask, draw_mask, mask_distance
from earlybird.core.stop_rules import STOP_RULES, MaskHistory

WINDOW, EPSILON, DRAWS = 5, 0.1, 80
Scales = dict[str, Tensor]


def authors_mask(scales: Scales, ratio: float) -> ChannelMask:
    """Their mask: int(p N) + 1 channels and every tie with the threshold go; no layer has a floor."""
    flat = torch.cat(list(scales.values()))
    threshold = flat.sort().values[int(len(flat) * ratio)]
    return ChannelMask({name: scale > threshold for name, scale in scales.items()})


def our_mask(scales: Scales, ratio: float) -> ChannelMask:
    """Ours: round(p N) channels go, and each layer keeps one."""
    return draw_mask(scales, ratio)


def firing_draw(search: list[Scales], ratio: float, draw: Callable[[Scales, float], ChannelMask]) -> int | None:
    """Draw at which the rule fires, from 1; None for never."""
    history = MaskHistory(STOP_RULES["authors_code"], WINDOW, EPSILON)
    for number, scales in enumerate(search, 1):
        mask = draw(scales, ratio)
        history.record(mask, [mask_distance(mask, earlier) for earlier in reversed(history.masks)])
        if history.fires():
            return number
    return None


def made_up_search(widths: list[int], noise: float, rng: torch.Generator) -> list[Scales]:
    """|gamma| at each draw, `{layer: [width]}`."""
    gamma, search = torch.full((sum(widths),), 0.5), []
    for number in range(DRAWS):
        gamma = gamma + noise * 0.9**number * torch.randn(len(gamma), generator=rng)
        search.append({str(i): part for i, part in enumerate(gamma.abs().split(widths))})
    return search


def main(searches: int) -> None:
    warnings.simplefilter("ignore")  # Floors hold at high ratios; that is what is compared.
    print("| channels | p | searches | fire at another draw | largest shift |\n|---:|---:|---:|---:|---:|")
    for width in (10, 50, 200, 1000):
        for ratio in (0.3, 0.5, 0.7):
            rng, shifts = torch.Generator().manual_seed(0), []
            for number in range(searches):
                search = made_up_search([width] * 4, 0.02 * (1 + number % 3), rng)
                ours, theirs = (firing_draw(search, ratio, draw) for draw in (our_mask, authors_mask))
                shifts.append(abs((ours or DRAWS + 1) - (theirs or DRAWS + 1)))
            changed = sum(shift > 0 for shift in shifts)
            print(f"| {4 * width} | {ratio} | {searches} | {changed} | {max(shifts)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 120)
