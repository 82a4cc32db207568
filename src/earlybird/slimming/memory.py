"""Which nodes of a graph may be one tensor in memory: an in-place operation changes every name of it."""

from __future__ import annotations

from typing import Any

from torch import fx

_INPLACE_FUNCTIONS = frozenset({"iadd", "isub", "imul", "itruediv"})
# Operations whose output may be the very memory of their input.
_ALIASES = frozenset(
    {"Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "dropout", "dropout1d", "dropout2d", "dropout3d"}
    | {"Flatten", "flatten", "view", "reshape", "permute", "transpose", "swapaxes", "unsqueeze", "squeeze"}
    | {"expand", "expand_as", "getitem", "chunk", "split", "contiguous", "detach", "to", "type_as", "float", "half"}
    | {"double", "bfloat16", "stochastic_depth"}
)


class Memory:
    """Follows the names of each tensor through a graph, node by node in order."""

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.owner: dict[fx.Node, fx.Node] = {}
        self.names: dict[fx.Node, list[fx.Node]] = {}

    def overwrites_live_value(self, node: fx.Node, module: Any) -> bool:
        """Whether `node` writes into a tensor that another name of it shows to a later operation."""
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        inplace = _is_inplace(node, module)
        kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        owner = self.owner.get(source, source) if source is not None and (inplace or kind in _ALIASES) else node
        owner = node if owner is None else owner
        self.owner[node] = owner
        earlier = self.names.setdefault(owner, [owner])
        late_reads = (user for name in earlier for user in name.users if self.order[user] > self.order[node])
        result = inplace and any(True for _ in late_reads)
        earlier.append(node)
        return result


def _is_inplace(node: fx.Node, module: Any) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
    return bool(node.kwargs.get("inplace")) or name in _INPLACE_FUNCTIONS or (name.endswith("_") and name[0] != "_")
