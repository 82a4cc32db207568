"""`torch.fx` as slimming needs it: in-place operators seen as such, buffers and parameters seen whoever reads them.

What `fx` alone would take for a constant, or not see at all, would make a graph that is not what the network computes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

from earlybird.errors import SlimError, first_line
from earlybird.slimming.selection import SELECTING_NORMS, ScatterSyncBatchNorm

_VALUE, _FROM_SHAPES = "earlybird_value", "earlybird_from_shapes"
_RANKS: dict[type[nn.Module], tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
IN_PLACE_OPERATORS: tuple[Callable[..., Any], ...] = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
_UNKNOWN = object()


def _recorded(function: Callable[..., Any]) -> Callable[..., fx.Proxy]:
    """Method that records a call of `function` in the graph."""
    return lambda value, *more: value.tracer.create_proxy("call_function", function, (value, *more), {})


class Value(fx.Proxy):
    """A tensor to be, or a number read from a shape: answers what a forward may ask of it.

    Records `+=` and its kin as in-place operations. A number is given out where one is needed (`if h % 2`,
    `range(h)`), as it is on the example; the graph then says who asked, so that a number that counts channels is known
    to be fixed.
    """

    tracer: Tracer

    def __init__(self, node: fx.Node, tracer: Tracer | None = None) -> None:
        if type(node) is not fx.Node or tracer is None:  # `type(x)(x)` in a forward.
            raise TraceError("a tensor cannot be made of another by its class")
        super().__init__(node, tracer)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Class of the value, for `isinstance(x, torch.Tensor)` in a forward."""
        value = self.tracer.value_of(self.node)
        if isinstance(value, (bool, int, float, tuple, list, dict)):
            return type(value)
        return Tensor if isinstance(value, Tensor) or value is _UNKNOWN else type(self)

    def __hash__(self) -> int:
        """Of a number its own, so that it is found in a set or a dict."""
        return hash(self._number(int)) if self.tracer.is_number(self.node) else id(self)

    def __getattr__(self, k: str) -> Any:
        # `nn.Module` asks these of what is stored in it: a value to be is neither.
        return False if k in ("_is_param", "_is_buffer") else ValueAttribute(self, k)

    def __len__(self) -> int:
        value = self.tracer.value_of(self.node)
        return len(value) if isinstance(value, (tuple, list, dict)) else super().__len__()

    def __int__(self) -> int:
        return int(self._number(int))

    def __index__(self) -> int:
        return operator.index(self._number(operator.index))

    def __float__(self) -> float:
        return float(self._number(float))

    def __divmod__(self, other: Any) -> tuple[fx.Proxy, fx.Proxy]:
        return self // other, self % other

    __ceil__, __floor__, __round__ = _recorded(math.ceil), _recorded(math.floor), _recorded(round)
    __iadd__, __isub__, __imul__, __itruediv__ = map(_recorded, IN_PLACE_OPERATORS)

    def _number(self, asked: Callable[..., Any]) -> Any:
        if not self.tracer.is_number(self.node):
            raise TraceError("a tensor's numbers are not known while it is traced")
        return self.tracer.value_of(self.tracer.create_proxy("call_function", asked, (self,), {}).node)


class ValueAttribute(Value, fx.proxy.Attribute):
    """`x.shape` and its kin, which become a node when used, or a method, which becomes one when called."""

    def __init__(self, root: Value, attr: str) -> None:
        fx.proxy.Attribute.__init__(self, root, attr)


class Tracer(fx.Tracer):
    """Modules of `torch.nn`, selecting norms and what is named opaque are leaves.

    Args:
        inputs: what the network is called with, tensors on `meta`.
        batch_is_known: the inputs have as many images as the example.
        opaque_classes: modules of these are leaves.
        opaque_paths: and so are the modules at these.

    Attributes:
        inside: paths of the modules being traced, outermost first, for messages.
        is_running: nodes are being run right now, on shapes, in the midst of tracing.
        made: the proxies of this trace, as far as they are alive.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        inputs: tuple[Any, ...],
        batch_is_known: bool,
        opaque_classes: Collection[type[nn.Module]],
        opaque_paths: Collection[str],
    ) -> None:
        super().__init__()
        self.inputs, self.batch_is_known = inputs, batch_is_known
        self.opaque_classes, self.opaque_paths = opaque_classes, opaque_paths
        self.inside: list[str] = []
        self.is_running = False
        self.made: list[ref[Value]] = []

    @cached_property
    def shapes(self) -> ShapePropagation:
        """Of the graph so far."""
        return ShapePropagation(self.root, self.graph, self.inputs)

    def value_of(self, node: fx.Node) -> Any:
        """Value of a node on the example, tensors on `meta`; `_UNKNOWN` where that takes more than shapes."""
        if self.is_running:
            return _UNKNOWN
        self.is_running = True
        try:
            self.shapes.advance(node)
            return traced_value(node)
        except SlimError:
            return _UNKNOWN
        finally:
            self.is_running = False

    def is_number(self, node: fx.Node) -> bool:
        """True if a node gives a number that is known: one that comes from shapes."""
        value = self.value_of(node)
        return isinstance(value, (bool, int, float)) and comes_from_shapes(node, self.batch_is_known)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Branches on sizes go the way of the example; numbers in tensors are not known."""
        if not self.is_number(obj.node):
            return super().to_bool(obj)
        self.create_proxy("call_function", bool, (obj,), {})
        return bool(self.value_of(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """A shape is as long as it is."""
        value = self.value_of(obj.node)
        if not isinstance(value, (tuple, list)):
            return super().iter(obj)
        return iter([operator.getitem(obj, i) for i in range(len(value))])

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers as proxies, while they are traced."""
        return attr_val if self.is_running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Our kind of proxy."""
        value = Value(node, self)
        self.made.append(ref(value))
        return value

    def create_arg(self, a: Any) -> Any:
        """A proxy says that it is a tensor, so it is looked at before tensors are."""
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True to record a call of `m` rather than what it does."""
        is_opaque = type(m) in self.opaque_classes or module_qualified_name in self.opaque_paths
        return is_opaque or isinstance(m, SELECTING_NORMS) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a call of a module, knowing where we are."""
        try:
            path = None if self.is_running else self.path_of_module(m)
        except NameError:  # One made in a forward (`nn.ReLU()(x)`, `self.layers[:3](x)`); what it does can be seen.
            path = None
        if path is None:
            return forward(*args, **kwargs)
        self.inside.append(path)
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()  # Not in a `finally`: after an error the innermost path is what the message needs.
        return result


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
    if node.target is operator.getitem and isinstance(x, fx.Node) and not batch_is_known:
        is_attribute = x.target is getattr and str(x.args[1]) == "shape"
        if is_attribute or (x.op == "call_method" and x.target == "size" and len(x.args) == 1):
            return _is_past_batch(node.args[1], x.args[0])
    return bool(node.all_input_nodes) and all(comes_from_shapes(n, batch_is_known) for n in node.all_input_nodes)


def _is_past_batch(index: Any, tensor: Any) -> bool:
    """True if a part of a shape leaves the first dimension out."""
    places = range(traced_value(tensor).dim())
    if isinstance(index, slice):
        bounds = (index.start, index.stop, index.step)
        return not any(isinstance(bound, fx.Node) for bound in bounds) and 0 not in places[index]
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
            told = f"cannot run {n.op} {target_name(n)!r} in module {where!r} on the example input: {first_line(error)}"
            raise SlimError(f"{told}; give an example_input of the network's own shape") from error
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
        if isinstance(x, Tensor) and x.is_meta and _fits(module, x):
            return torch.empty_like(x)  # Run on `meta` it is a dozen operations: most of the time of all nodes.
        return super().call_module(target, args, kwargs)


def _fits(norm: nn.Module, x: Tensor) -> bool:
    return x.dim() in _RANKS.get(type(norm), ()) and x.shape[1] == norm.num_features and x.numel() > x.shape[1]
