"""`earlybird inspect`: what can be cut from a network, what not and why, and what it would save."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jsonargparse import Namespace

from earlybird.cli.network_options import SECTIONS, add_network, planned_network
from earlybird.cli.options import Parser, expand_short_flags
from earlybird.errors import require
from earlybird.report.table import Column, Table, named_columns, print_lines, to_terminal


def command(argv: Sequence[str]) -> int:
    """Print the groups as a table, or JSON."""
    arguments = expand_short_flags(argv, SECTIONS)
    parsed = _parser().parse_args(arguments)
    _check(parsed)
    facts = _facts(parsed, arguments)
    if parsed.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(facts)
    return 0


def _parser() -> Parser:
    parser = Parser("inspect", "Show what can be cut from a network, and what the cut would save.")
    add_network(parser)
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of the prunable channels to remove")
    parser.add_argument("--policy", type=str, default="auto", help="residual policy: auto, inner, tie or select")
    parser.add_argument("--round-to", type=int, default=1, help="kept widths are multiples of this")
    parser.add_argument("--min-channels", type=int, default=1, help="channels that stay in every layer")
    parser.add_argument("--keep", type=list[str], default=[], help="names or patterns of layers to leave whole")
    parser.add_argument("--criterion", type=str, default="bn_scale", help="bn_scale or filter_l1")
    parser.add_argument("--batch-size", type=int, default=8, help="images in the measured training step; 0: no timing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _check(parsed: Namespace) -> None:
    criterion, images = parsed.criterion, parsed.batch_size
    require("--ratio", parsed.ratio, 0 <= parsed.ratio < 1, "a number in [0, 1)")
    expected = "bn_scale or filter_l1 (others need gradients)"
    require("--criterion", criterion, criterion in ("bn_scale", "filter_l1"), expected)
    require("--batch-size", images, images == 0 or images >= 2, "2 or more, or 0 for no timing")


def _facts(parsed: Namespace, argv: Sequence[str]) -> dict[str, Any]:
    import torch

    from earlybird.core import bn_scale, draw_mask, filter_l1
    from earlybird.core.drawing import realised_ratio, scored_groups
    from earlybird.cost import count_cost
    from earlybird.cost.step_time import step_seconds
    from earlybird.slimming import channel_groups, slim
    from earlybird.slimming.groups import inspect_groups

    spec, sizes = planned_network(parsed, argv)
    model, shape = spec.build(seed=0), sizes.image_shape
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    groups = channel_groups(model, example, parsed.policy, keep=parsed.keep)
    facts: dict[str, Any] = {
        "model": spec.name,
        "image_shape": list(shape),
        "policy": groups.policy,
        "units": groups.num_units,
        "groups": [asdict(row) for row in inspect_groups(groups)],
        "criterion": parsed.criterion,
        "requested_ratio": parsed.ratio,
        "before": asdict(count_cost(model, shape)),
        "after": None,
    }
    if not groups.num_units:
        return facts
    scores = (bn_scale if parsed.criterion == "bn_scale" else filter_l1)(model)
    scored = scored_groups(scores, groups)
    facts["scored_units"] = scored.num_units
    if not scored.num_units:
        return facts
    mask = draw_mask(scores, parsed.ratio, groups, min_channels=parsed.min_channels, round_to=parsed.round_to)
    small = slim(model, mask, example, groups)
    facts["realised_ratio"] = realised_ratio(mask, scored)
    facts["after"] = asdict(count_cost(small, shape))
    if parsed.batch_size:
        images = torch.randn(parsed.batch_size, *shape)
        facts["step_seconds"] = step_seconds({"before": model, "after": small}, images)
    return facts


def _print(facts: dict[str, Any]) -> None:
    to_terminal(_groups_table(facts))
    if not facts["units"]:
        said = "Nothing can be cut: the table says why, layer by layer."
    elif facts["after"] is None:
        said = f"{facts['criterion']} scores none of the {facts['units']} units that can go; try another criterion."
    else:
        said = (
            f"At ratio {facts['requested_ratio']:g} (realised {facts['realised_ratio']:.3f} of the "
            f"{facts['scored_units']} units that {facts['criterion']} scores), untrained, which says little about a "
            "trained network's widths:"
        )
    print_lines([said])
    if facts["after"] is not None:
        to_terminal(_savings_table(facts))


def _groups_table(facts: dict[str, Any]) -> Table:
    """Groups of layers that are cut together, with the reasons of the channels that stay."""
    shape = "x".join(map(str, facts["image_shape"]))
    rows = []
    for row in facts["groups"]:
        more = f" and {len(row['layers']) - 3} more" if len(row["layers"]) > 3 else ""
        why = "; ".join(f"{count}: {reason}" for reason, count in row["protected"].items())
        rows.append((", ".join(row["layers"][:3]) + more, row["channels"], row["units"], why))
    columns = [
        Column("layers cut together", "left"),
        Column("channels"),
        Column("units"),
        Column("stay, and why", "left"),
    ]
    title = f"{facts['model']} on {shape}, policy {facts['policy']}: {facts['units']} units can go"
    return Table(columns, rows, title)


def _savings_table(facts: dict[str, Any]) -> Table:
    """Sizes and, where they were measured, seconds before and after the cut."""
    before, after = facts["before"], facts["after"]
    counted = {"parameters": "params", "MACs per image": "macs", "MACs per training image": "train_macs"}
    rows = [(name, f"{before[key]:,}", f"{after[key]:,}", after[key] / before[key]) for name, key in counted.items()]
    if seconds := facts.get("step_seconds"):
        before, after = seconds["before"], seconds["after"]
        rows.append(("seconds per training step, measured", f"{before:.4f}", f"{after:.4f}", after / before))
    return Table([*named_columns("", "before", "after"), Column("ratio", form=".2f")], rows)
