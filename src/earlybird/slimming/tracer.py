"""`torch.fx` as slimming needs it: in-place operators seen as such, buffers and parameters seen whoever reads them.

What `fx` alone would take for a constant, or not see at all, would make a graph that is not what the network computes.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any
from weakref import ref

from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from earlybird.copying import own_tensors
from earlybird.errors import SlimError
from earlybird.slimming.aliasing import IN_PLACE_OPERATORS
from earlybird.slimming.selection import SELECTING_NORMS
from earlybird.slimming.shape_propagation import ShapePropagation, comes_from_shapes, traced_value

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

    def _is_installed(self, m: nn.Module) -> bool:
        """One made in a forward (`nn.ReLU()(x)`, `self.layers[:3](x)`) has no path, but what it does can be seen."""
        try:
            self.path_of_module(m)
        except NameError:
            return False
        return True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True to record a call of `m` rather than what it does."""
        if type(m) in self.opaque_classes or module_qualified_name in self.opaque_paths:
            return True
        return isinstance(m, SELECTING_NORMS) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a call of a module, knowing where we are."""
        if self.is_running or not self._is_installed(m):
            return forward(*args, **kwargs)
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()  # Not in a `finally`: after an error the innermost path is what the message needs.
        return result


class RawReads(TorchFunctionMode):
    """Notes which modules' parameters and buffers an operation reads past the tracer (`model.parameters()`, say).

    Attributes:
        paths: of their modules.
    """

    def __init__(self, model: nn.Module, tracer: Tracer) -> None:
        super().__init__()
        self.paths: set[str] = set()
        self._tracer = tracer
        self._owner = {id(tensor): path for path, _, _, tensor in own_tensors(model) if tensor.dim()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments, then do what was asked."""
        for value in () if self._tracer.is_running else pytree.tree_leaves((args, kwargs)):
            if id(value) in self._owner:
                self.paths.add(self._owner[id(value)])
        return func(*args, **(kwargs or {}))


def settings_left_out(model: nn.Module, inputs: int) -> dict[str, Any] | None:
    """Parameters of `forward` that the example does not fill, at their defaults; None where there are none."""
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1 + inputs :]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    left = {p.name: p.default for p in parameters if p.kind in kinds and p.default is not inspect.Parameter.empty}
    plain = {name: value for name, value in left.items() if value is None or isinstance(value, (bool, int, float, str))}
    return plain or None


def materialised(model: nn.Module) -> bool:
    """True if all parameters exist; those of lazy modules do after a first call."""
    return not any(is_lazy(parameter) for parameter in model.parameters())
