"""`torch.fx` as slimming needs it: in-place operators seen as such, buffers and parameters seen whoever reads them.

What `fx` alone would take for a constant, or not see at all, would make a graph that is not what the network computes.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from earlybird.slimming.select import SELECTING_NORMS


class Value(fx.Proxy):
    """A tensor to be: records `+=` and its kin as in-place operations, and is a tensor for `isinstance`."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance(x, torch.Tensor)` in a forward asks."""
        return Tensor

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class Tracer(fx.Tracer):
    """Modules of `torch.nn`, selecting norms and what is named opaque are leaves.

    Attributes:
        inside: paths of the modules being traced, outermost first, for messages.
    """

    proxy_buffer_attributes = True

    def __init__(self, opaque_classes: Collection[type[nn.Module]], opaque_paths: Collection[str]) -> None:
        super().__init__()
        self.opaque_classes, self.opaque_paths = opaque_classes, opaque_paths
        self.inside: list[str] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Our kind of proxy."""
        return Value(node, self)

    def create_arg(self, a: Any) -> Any:
        """A proxy says that it is a tensor, so it is looked at before tensors are."""
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether to record a call of `m` rather than what it does."""
        if type(m) in self.opaque_classes or module_qualified_name in self.opaque_paths:
            return True
        return isinstance(m, SELECTING_NORMS) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a call of a module, knowing where we are."""
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()  # Not in a `finally`: after an error the innermost path is what the message needs.
        return result


class RawReads(TorchFunctionMode):
    """Notes which modules' parameters and buffers an operation reads past the tracer (`model.parameters()`, say).

    Attributes:
        paths: of their modules.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.paths: set[str] = set()
        self._owner = {
            id(tensor): path
            for path, module in model.named_modules()
            for tensors in (module._parameters, module._buffers)
            for tensor in tensors.values()
            if tensor is not None and tensor.dim()
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments, then do what was asked."""
        for value in pytree.tree_leaves((args, kwargs)):
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
    """Whether all parameters exist; those of lazy modules do after a first call."""
    return not any(is_lazy(parameter) for parameter in model.parameters())
