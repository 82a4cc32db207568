"""Shape propagation: values of a traced graph's nodes on the example input, tensors as shapes alone.

Run on the `meta` device while the graph is still being traced (a forward may ask how high its image is) and to its end
afterwards.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from earlybird.errors import SlimError
from earlybird.slimming.selection import ScatterSyncBatchNorm

_VALUE, _FROM_SHAPES = "earlybird_value", "earlybird_from_shapes"
_PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def traced_value(node: fx.Node) -> Any:
    """Value of a node on the example input; tensors on `meta`, so only their shapes mean something."""
    return node.meta[_VALUE]


def module_path(node: fx.Node) -> str:
    """Path of the module whose forward holds this node ("" for the root)."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def target_name(node: fx.Node) -> str:
    """Name of a node's operation, for messages."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", repr(node.target))


def comes_from_shapes(node: fx.Node, batch_is_known: bool) -> bool:
    """True if a node gives numbers that the shapes of tensors decide, or inputs that are no tensors.

    Other facts (a device, a memory format, whether gradients are wanted) are not the same on `meta`; nor is the size of
    a batch, which is doubled where the example has one image.
    """
    if _FROM_SHAPES not in node.meta:
        node.meta[_FROM_SHAPES] = _comes_from_shapes(node, batch_is_known)
    return bool(node.meta[_FROM_SHAPES])


def _comes_from_shapes(node: fx.Node, batch_is_known: bool) -> bool:
    if node.op == "placeholder":
        return not isinstance(traced_value(node), Tensor)
    if node.op not in ("call_function", "call_method") or not node.args:
        return False
    x = node.args[0]
    if isinstance(x, fx.Node) and isinstance(traced_value(x), Tensor):
        name = node.args[1] if node.target is getattr else node.target
        dims = node.args[1:] if node.op == "call_method" else ()
        return name in ("ndim", "dim", "ndimension") or (
            name in ("shape", "size", "numel") and (batch_is_known or (bool(dims) and _is_past_batch(dims[0], x)))
        )
    if node.target is operator.getitem and isinstance(x, fx.Node) and not batch_is_known and _is_shape(x):
        return _is_past_batch(node.args[1], x.args[0])
    return bool(node.all_input_nodes) and all(comes_from_shapes(n, batch_is_known) for n in node.all_input_nodes)


def _is_shape(node: fx.Node) -> bool:
    is_attribute = node.target is getattr and str(node.args[1]) == "shape"
    return is_attribute or (node.op == "call_method" and node.target == "size" and len(node.args) == 1)


def _is_past_batch(index: Any, tensor: Any) -> bool:
    """True if a part of a shape leaves the first dimension out."""
    places = range(traced_value(tensor).dim())
    if isinstance(index, slice):
        bounds = (index.start, index.stop, index.step)
        return not any(isinstance(bound, fx.Node) for bound in bounds) and not any(
            place == 0 for place in places[index]
        )
    return isinstance(index, int) and bool(places[index])


class ShapePropagation(fx.Interpreter):
    """Runs a graph node by node, as far as asked, and notes what each gave.

    Args:
        model: whose modules and parameters the graph names.
        graph: it may grow between two runs.
        inputs: of the network.
        is_complete: the graph grows no more, so what no later node reads is let go at once.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, inputs: Iterable[Any], *, is_complete: bool = False) -> None:
        super().__init__(model, garbage_collect_values=is_complete, graph=graph)
        self.extra_traceback = False  # It would append lines to our one-line errors.
        self.args_iter = iter(inputs)
        self._last = graph._root  # its `next` is the first node

    def advance(self, last: fx.Node | None = None) -> None:
        """Run up to and with `last`; by default to the end.

        Raises:
            SlimError: a node cannot run. The message names its module.
        """
        with torch.no_grad():
            while self._last.next.op != "root" and (last is None or last not in self.env):
                node = self._last.next
                self.env[node] = self.run_node(node)
                self._last = node
                for dead in self.user_to_last_uses.get(node, ()) if self.garbage_collect_values else ():
                    del self.env[dead]

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        try:
            result = super().run_node(n)
        except Exception as error:
            where = module_path(n) or type(self.module).__name__
            first_line = str(error).split("\n", 1)[0]
            raise SlimError(
                f"cannot run {n.op} {target_name(n)!r} in module {where!r} on the example input: {first_line}; "
                "give an example_input of the network's own shape"
            ) from error
        # Shapes as they are now: an in-place operation may change them, and numbers would only take memory.
        is_shape = isinstance(result, torch.Size)  # A tree of it would be a plain tuple.
        n.meta[_VALUE] = result if is_shape else pytree.tree_map_only(Tensor, lambda x: x.detach().to("meta"), result)
        return result

    def call_module(self, target: fx.node.Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module, but for norms whose result needs no call."""
        module = self.module.get_submodule(str(target))
        x = args[0] if args else None
        if isinstance(module, nn.SyncBatchNorm) and isinstance(x, Tensor):
            # In a process group it would wait for the other ranks.
            width = module.width if isinstance(module, ScatterSyncBatchNorm) else module.num_features
            return x.new_empty((x.shape[0], width, *x.shape[2:]))
        if type(module) in _PLAIN_NORMS and isinstance(x, Tensor) and x.is_meta and _fits(module, x):
            return torch.empty_like(x)  # Run on `meta` it is a dozen operations: most of the time of all nodes.
        return super().call_module(target, args, kwargs)


def _fits(norm: nn.Module, x: Tensor) -> bool:
    ranks = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}[type(norm)]  # type: ignore[index]
    return x.dim() in ranks and x.shape[1] == norm.num_features and x.numel() > x.shape[1]
