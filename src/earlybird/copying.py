"""Copies of networks, also of those that hold on to what they calculated last; the tensors that a network owns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

_Module = TypeVar("_Module", bound=nn.Module)
_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})


def copied(model: _Module, memo: dict[int, Any] | None = None) -> _Module:
    """A deep copy; results that a module of the user's keeps (`self.features = x`) lose their history in it.

    `copy.deepcopy` refuses tensors with a history, which such an attribute has after every training step.

    The model is left as it is. memo: `id` of a tensor -> what stands for it in the copy.

    Raises:
        RuntimeError: a parameter or buffer is itself a result of autograd (the older `weight_norm`).
    """
    memo = dict(memo or {})
    for module in model.modules():
        if type(module).__module__.startswith("torch.nn"):
            continue
        kept = [value for name, value in vars(module).items() if name not in _REGISTERED]
        for value in pytree.tree_leaves(kept):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach())
    return copy.deepcopy(model, memo)


def empty_tensors(model: nn.Module) -> dict[int, Any]:
    """For `copied`: parameters and buffers on `meta`, so that no weight is duplicated, on no device."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_leaf:
            continue  # `deepcopy` says what is wrong with it.
        empty = tensor.detach().to("meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return memo


def own_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Path, module, name and tensor of each parameter and buffer, once for every module that holds it."""
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield path, module, name, tensor


def full_name(path: str, name: str) -> str:
    """Name of a tensor in the network's state dict."""
    return f"{path}.{name}" if path else name
