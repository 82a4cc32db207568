"""Does a network have adds? Without groups the detector is for plain chains, and says so elsewhere."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

_ADDS = {operator.add, operator.iadd, torch.add}


def why_not_a_plain_chain(model: nn.Module) -> str | None:
    """One clause that says why channels may be tied in this network; None for a plain chain.

    Only a warning hangs on it: the exact answer is `earlybird.slimming.channel_groups`.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # tracing runs foreign code, which may raise anything
        return f"it cannot be traced to tell ({type(error).__name__})"
    for node in graph.nodes:
        is_add = (node.op == "call_function" and node.target in _ADDS) or (
            node.op == "call_method" and node.target in ("add", "add_")
        )
        if is_add and sum(isinstance(argument, fx.Node) for argument in node.args) == 2:
            return f"it adds two values at {node.name!r}, which ties their channels"
    return None
