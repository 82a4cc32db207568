"""Does a network tie channels? Without groups the detector is for plain chains, and says so where it is not one."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

_ADDS = {operator.add, operator.iadd, torch.add}


def why_not_a_plain_chain(model: nn.Module) -> str | None:
    """One clause that says why channels may be tied in this network; None for a plain chain.

    Only a warning hangs on it: the exact answer is `earlybird.slimming.channel_groups`.
    """
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd) and module.groups > 1:
            return f"{name!r} is a grouped convolution, which ties what it reads to what it writes"
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # Tracing runs foreign code, which may raise anything.
        return f"it cannot be traced to tell ({type(error).__name__})"
    for node in graph.nodes:
        is_add = (node.op == "call_function" and node.target in _ADDS) or (
            node.op == "call_method" and node.target in ("add", "add_")
        )
        # A parameter that is added (`get_attr`) is no second value.
        if is_add and sum(source.op != "get_attr" for source in node.all_input_nodes) == 2:
            return f"it adds two values at {node.name!r}, which ties their channels"
    return None
