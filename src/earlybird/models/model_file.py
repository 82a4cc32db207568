"""`save` and `load`: a slim network as two files that hold no code, `model.safetensors` and `config.json`.

`config.json` names the factory of the dense network and the sizes of each layer; loading builds a skeleton, narrows it
to those sizes and fills in the tensors. The dense weights are never needed. A factory that is code of the user's own
runs only if the user names it again: a file's word is not enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import earlybird
from earlybird.atomic import SEAL, json_object, read_file, sealed_json, unsealed_json, write_atomically
from earlybird.copying import full_name
from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError, ConfigError, SlimError, path_given, reason, require_type
from earlybird.models.catalog import BUILT_IN, Watched, build_named, unmade
from earlybird.slimming.layers import LAYER_KINDS, kind_of
from earlybird.slimming.selection import GATHERING, GATHERING_NORMS, Norm, let_gather_, let_scatter_
from earlybird.user_code import is_code

FORMAT_VERSION = 3
_UNSEALED_VERSION = 2
TENSORS, DESCRIPTION = "model.safetensors", "config.json"
# A file that says it was cut from a network larger than this is not believed: to build that would fill the memory.
_MOST_DENSE_PARAMS_PER_KEPT = 10_000
_MOST = {"num_classes": 1_000_000, "in_channels": 1000, "image_size": 10_000, "width": 100}
# What a description that was changed by hand can run into.
_MEDDLED = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, safetensors.SafetensorError)

# Kind of a module that is no layer but holds parameters, such as a layer scale; its sizes are their shapes.
_OWN = "own"
_KINDS = {kind.name: kind for kind in LAYER_KINDS}

Factory = str | Callable[..., nn.Module]
Sizes = dict[str, dict[str, Any]]


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    factory: Factory | None = None,
    kwargs: Mapping[str, Any] | None = None,
    mask: ChannelMask | None = None,
) -> None:
    """Write a network, slim or dense, into `folder`.

    Args:
        model: what `slim` gave, trained or not.
        folder: made if it does not exist; older files are replaced, each in one step.
        factory: what builds the dense network: a name that `build_model` knows, `pkg.mod:callable`, or the callable
            itself. Without one, `load(folder, into=...)` needs a skeleton.
        kwargs: the factory's arguments, JSON values.
        mask: which channels of the dense network these are; kept for the reader.

    Raises:
        ConfigError: the factory has no name by which it could be found again, or the arguments are no JSON.
        CheckpointError: the state dict holds something that is no tensor, or `folder` is a file.
        OSError: the disk is full or refuses.

    Example:
        >>> earlybird.save(small, "out", factory="torchvision:resnet18", kwargs={"num_classes": 10})
    """
    require_type("the network", model, nn.Module, CheckpointError, "give a torch.nn.Module")
    folder = path_given("folder", folder, CheckpointError)
    data = safetensors.torch.save(_plain_tensors(model))
    description = {
        "format_version": FORMAT_VERSION,
        "factory": None if factory is None else factory_name(factory),
        "kwargs": dict(kwargs or {}),
        "layers": layer_sizes(model),
        "kept_channels": None if mask is None else {name: keep.nonzero()[:, 0].tolist() for name, keep in mask.items()},
        "widths": None if mask is None else mask.widths(),
        "versions": {"earlybird": earlybird.__version__, "torch": torch.__version__},
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        text = sealed_json(description)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"kwargs of the factory cannot be written as JSON ({reason(error)}); give plain values"
        ) from error
    _make_folder(folder)
    write_atomically(folder / TENSORS, data)
    write_atomically(folder / DESCRIPTION, text)


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError, NotADirectoryError):  # which the next line finds
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir() or (folder / TENSORS).is_dir() or (folder / DESCRIPTION).is_dir():
        told = f"{folder} is no folder that can hold the files {TENSORS} and {DESCRIPTION}"
        raise CheckpointError(f"{told}; give a new one, or the folder of an earlier network")


def load(folder: str | Path, *, into: nn.Module | None = None, factory: Factory | None = None) -> nn.Module:
    """Rebuild a saved network, in eval mode.

    Args:
        folder: what `save` wrote.
        into: a dense network of the saved one's class to be narrowed, in place; then no factory runs.
        factory: named again by you, where the file names code of your own (not `torchvision:` or `timm:`). It is called
            twice: first with its weights on `meta`, to be compared with the file before there is memory for them.

    Raises:
        CheckpointError: a file is missing, corrupt, of another format version, or does not fit the network.
        ConfigError: the file names code that was not named here.

    Example:
        >>> small = earlybird.load("out")
    """
    if into is not None:
        require_type("into", into, nn.Module, CheckpointError, "give the dense network, a torch.nn.Module")
    folder = path_given("folder", folder, CheckpointError)
    description = read_description(folder / DESCRIPTION)
    path = folder / TENSORS
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a folder that holds {TENSORS} and {DESCRIPTION}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise CheckpointError(f"{path} is corrupt (sha256 differs from {DESCRIPTION}); restore the file or save again")
    try:
        tensors = safetensors.torch.load(data)
        if into is not None:
            model = _filled_(into, description, tensors)
        else:
            model = _rebuilt(description, tensors, factory, path)
    except SlimError as error:
        raise SlimError(f"{folder / DESCRIPTION}: {error}") from error
    except _MEDDLED as error:
        told = f"{folder / DESCRIPTION} and {TENSORS} describe no network ({reason(error)[:300]})"
        raise CheckpointError(f"{told}; restore them or save again") from error
    return model.eval()


def factory_name(factory: Factory) -> str:
    """Name by which the factory is found again.

    Raises:
        ConfigError: it has none: a lambda, a method, something made inside a function or in the script itself.
    """
    if isinstance(factory, str):
        return factory
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    if module in (None, "__main__") or name is None or "." in name or "<" in name:
        raise ConfigError(
            f"factory {name or type(factory).__name__!r} cannot be found again by its name; "
            "give 'pkg.mod:callable' or 'file.py:callable', or save without one and load(..., into=...)"
        )
    return f"{module}:{name}"


def read_description(path: Path) -> dict[str, Any]:
    """Parse `config.json`.

    Raises:
        CheckpointError: it is missing, no JSON object, or of another format version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a folder that holds {TENSORS} and {DESCRIPTION}")
    try:
        description = json_object(data := read_file(path))
        version = description["format_version"]
        if version == FORMAT_VERSION:
            return unsealed_json(data)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is corrupt ({reason(error)}); restore the file or save again") from error
    # Version 2 had no seal; a file that has one was changed.
    if version != _UNSEALED_VERSION or SEAL in description:
        raise CheckpointError(f"{path} has format version {version!r}, this version reads {FORMAT_VERSION}; save again")
    return dict(description)


def _rebuilt(description: dict[str, Any], tensors: dict[str, Tensor], named: Factory | None, path: Path) -> nn.Module:
    """The saved network from its factory; the dense one gets memory once its sizes were compared with the file."""
    factory, kwargs = description["factory"], description["kwargs"]
    if factory is None:
        raise CheckpointError(f"{path.parent} names no factory; give the dense network: load(..., into=MyNet())")
    if not isinstance(factory, str) or not isinstance(kwargs, dict):
        raise TypeError("factory and kwargs are no name and no arguments")
    if is_code(factory, "model"):
        if named is None or factory_name(named) != factory:
            told = f"code that runs only when you name it; give factory={factory!r}"
            raise ConfigError(f"{path.parent} names {factory!r}, {told}")
    else:
        for name, most in _MOST.items():
            if name in kwargs and not 0 < kwargs[name] <= most:
                raise CheckpointError(f"{path.parent}: {name} is {kwargs[name]!r}; a number up to {most} is believed")
    build = partial(named, **kwargs) if callable(named) else partial(build_named, factory, kwargs)
    kept = sum(tensor.numel() for tensor in tensors.values())
    most = _MOST_DENSE_PARAMS_PER_KEPT * max(kept, 1)
    if (model := unmade(build)) is None:  # It reads its weights while it is built; then they are counted.
        with Watched(most):
            model = build()
        return _filled_(model, description, tensors)
    dense = sum(parameter.numel() for parameter in model.parameters())
    if dense > most:
        raise CheckpointError(f"{path} holds {kept} numbers of a network of {dense}; such a cut is not believed")
    _filled_(model, description, tensors)
    # Of the built-in ones all that is on `meta` has come from the file.
    return model if factory in BUILT_IN and not callable(named) else _filled_(build(), description, tensors)


def _filled_(model: nn.Module, description: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Narrow a network, dense or on `meta`, to the saved sizes, in place, and fill in the tensors."""
    match_dtypes_(model, tensors)
    reshape_(model, description["layers"], tensors)
    model.load_state_dict(tensors, assign=any(parameter.is_meta for parameter in model.parameters()))
    return model


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name!r} in the state dict is a {type(value).__name__}; only tensors are written")
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # One memory each.
    return tensors


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
    """Give each parameter and buffer the dtype of its stored tensor; tensors that are shared stay shared.

    Raises:
        SlimError: they differ, and not both are of floating point.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        stored = tensors.get(name)
        if stored is not None and stored.dtype != tensor.dtype:
            if not (stored.is_floating_point() and tensor.is_floating_point()):
                raise SlimError(f"tensor {name!r} is {stored.dtype} in the file, {tensor.dtype} in this network")
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
                # Kernels are compared on loading; all else has a place for each output.
                wanted = kind.weight_shape(module) if name == "weight" else (int(getattr(module, kind.outputs)),)
                wanted = wanted if tensor.dim() else ()
                if tuple(stored.shape[: len(wanted)]) != wanted or stored.dim() != tensor.dim():
                    found = list(stored.shape)
                    raise SlimError(f"layer {path!r}: its {name} has shape {found}, its sizes say {list(wanted)}")
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
