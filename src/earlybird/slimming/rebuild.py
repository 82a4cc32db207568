"""Rebuild a slim network: the sizes of its layers as plain numbers, and a dense network brought to them.

No tracing: a skeleton of the dense network is narrowed layer by layer to what was written down. Which norms gather or
scatter is part of the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.copying import full_name
from earlybird.errors import SlimError
from earlybird.slimming.layers import LAYER_KINDS, kind_of
from earlybird.slimming.selection import GATHERING, GATHERING_NORMS, Norm, let_gather_, let_scatter_

Sizes = dict[str, dict[str, Any]]

# Kind of a module that is none of these but holds parameters, such as a layer scale; its sizes are their shapes.
_OWN = "own"
_KINDS = {kind.name: kind for kind in LAYER_KINDS}


def layer_sizes(model: nn.Module) -> Sizes:
    """Path of each module that slimming may narrow -> its kind and its sizes."""
    found: Sizes = {}
    for path, module in model.named_modules():
        kind = kind_of(module)
        if kind is not None:
            found[path] = {"kind": kind.name} | {name: int(getattr(module, name)) for name in kind.sizes}
        elif _may_be_narrowed(module):
            shapes = {name: list(p.shape) for name, p in module._parameters.items() if p is not None}
            found[path] = {"kind": _OWN, "shapes": shapes}
    return found


def reshape_(model: nn.Module, sizes: Sizes, tensors: Mapping[str, Tensor]) -> None:
    """Bring a skeleton to the sizes of a slim network; its tensors are then empty and of the right shape and dtype.

    Args:
        model: the dense network, or the slim one; changed in place.
        sizes: what `layer_sizes` gave for the slim network.
        tensors: the slim network's state dict.

    Raises:
        SlimError: a layer is missing or of another kind, or sizes and tensors contradict each other.
    """
    modules = dict(model.named_modules())
    for path, size in sizes.items():
        module = modules.get(path)
        if module is None:
            raise SlimError(f"layer {path!r} of the file is not in this network; name the network that was saved")
        if size.get("kind") == _OWN and _may_be_narrowed(module):
            _resize_own_(module, path, size.get("shapes"), tensors)
        else:
            _resize_(module, path, size, tensors)


def match_dtypes_(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give each parameter and buffer the dtype of its stored tensor; tensors that are shared stay shared."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        stored = tensors.get(name)
        if stored is not None and stored.dtype != tensor.dtype:
            tensor.data = tensor.data.to(stored.dtype)


def _may_be_narrowed(module: nn.Module) -> bool:
    """True if parameters of its own stand in a module of the user's: torch's own keep theirs, or are layers."""
    return bool(module._parameters) and kind_of(module) is None and not type(module).__module__.startswith("torch.nn")


def _resize_own_(module: nn.Module, path: str, shapes: Any, tensors: Mapping[str, Tensor]) -> None:
    where = path or "the network"
    for name, shape in shapes.items() if isinstance(shapes, dict) else ():
        tensor, stored = module._parameters.get(name), tensors.get(full_name(path, name))
        if tensor is None or stored is None or list(stored.shape) != shape:
            raise SlimError(f"parameter {name!r} of {where!r}: file and network do not agree that it is there")
        if len(shape) != tensor.dim() or any(now > dense for now, dense in zip(shape, tensor.shape, strict=True)):
            raise SlimError(
                f"parameter {name!r} of {where!r} has shape {shape} in the file, the network's {list(tensor.shape)} "
                "cannot be narrowed to it"
            )
        _replace_tensor_(module._parameters, name, tensor, stored)


def _resize_(module: nn.Module, path: str, size: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    own, kind = kind_of(module), _KINDS.get(size.get("kind", ""))
    selects = kind is not None and kind.name in ("gather", "scatter")
    if kind is None or not (own is kind or (selects and type(module) in GATHERING)):
        raise SlimError(f"layer {path!r} is a {type(module).__name__} here and {size.get('kind')!r} in the file")
    numbers = {name: size.get(name) for name in kind.sizes}
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 1 for number in numbers.values()):
        raise SlimError(f"layer {path!r}: its sizes in the file are {numbers}; they must be integers from 1 on")
    # What a gathering norm reads from is not written down; the file's hash and its own check must do.
    wide = None if isinstance(module, GATHERING_NORMS) else getattr(module, "width", getattr(module, "num_features", 0))
    for name, number in numbers.items():
        if name != "width":
            setattr(module, name, number)
    for own_tensors in (module._parameters, module._buffers):
        for name, tensor in own_tensors.items():
            stored = tensors.get(full_name(path, name))
            if tensor is not None and stored is not None and name != "index":
                wanted = kind.weight_shape(module) if name == "weight" else ()  # Kernels are compared on loading.
                if tuple(stored.shape[: len(wanted)]) != wanted:
                    found = list(stored.shape)
                    raise SlimError(f"layer {path!r}: its weight has shape {found}, its sizes say {list(wanted)}")
                _replace_tensor_(own_tensors, name, tensor, stored)
    if selects:
        _let_select_(module, path, numbers, tensors.get(f"{path}.index"), wide)


def _replace_tensor_(owner: dict[str, Any], name: str, tensor: Tensor, stored: Tensor) -> None:
    if tensor.shape == stored.shape and tensor.dtype == stored.dtype:
        return
    empty = torch.empty(stored.shape, dtype=stored.dtype, device=tensor.device)
    owner[name] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _let_select_(
    module: nn.Module, path: str, numbers: dict[str, Any], index: Tensor | None, dense_width: int | None
) -> None:
    width = numbers.get("width", dense_width)
    fits = (
        index is not None
        and index.dtype == torch.int64
        and index.shape == (numbers["num_features"],)
        and (dense_width is None or width is None or width <= dense_width)
        and int(index.min()) >= 0
        and (width is None or int(index.max()) < width)
    )
    if not fits or index is None:
        raise SlimError(f"layer {path!r}: its channel index does not fit a norm of {dense_width} channels")
    assert isinstance(module, Norm)
    if type(module) not in GATHERING:
        module._buffers["index"] = index.clone()
    elif "width" in numbers:
        let_scatter_(module, index.clone(), numbers["width"])
    else:
        let_gather_(module, index.clone())
