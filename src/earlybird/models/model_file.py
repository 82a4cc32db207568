"""`save` and `load`: a slim network as two files that hold no code, `model.safetensors` and `config.json`.

`config.json` names the factory of the dense network and the sizes of each layer; loading builds a skeleton, narrows it
to those sizes and fills in the tensors. The dense weights are never needed. A factory that is code of the user's own
runs only if the user names it again: a file's word is not enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import earlybird
from earlybird.atomic import write_atomically
from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError, ConfigError
from earlybird.models.catalog import build_named
from earlybird.slimming.rebuild import layer_sizes, match_dtypes_, reshape_
from earlybird.user_code import is_code

FORMAT_VERSION = 2
TENSORS, DESCRIPTION = "model.safetensors", "config.json"
# A file that says it was cut from a network larger than this is not believed: to build that would fill the memory.
_MOST_DENSE_PARAMS_PER_KEPT = 10_000
_MOST = {"num_classes": 1_000_000, "in_channels": 1000, "image_size": 10_000, "width": 100}
# What a description that was changed by hand can run into.
_MEDDLED = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, safetensors.SafetensorError)

Factory = str | Callable[..., nn.Module]


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
        CheckpointError: the state dict holds something that is no tensor.
        OSError: the disk is full or refuses.

    Example:
        >>> earlybird.save(small, "out", factory="torchvision:resnet18", kwargs={"num_classes": 10})
    """
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
        text = json.dumps(description, indent=1)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"kwargs of the factory cannot be written as JSON ({error}); give plain values") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TENSORS, data)
    write_atomically(folder / DESCRIPTION, text.encode())


def load(folder: str | Path, *, into: nn.Module | None = None, factory: Factory | None = None) -> nn.Module:
    """Rebuild a saved network, in eval mode.

    Args:
        folder: what `save` wrote.
        into: a dense network of the saved one's class to be narrowed, in place; then no factory runs.
        factory: named again by you, where the file names code of your own (not `torchvision:` or `timm:`).

    Raises:
        CheckpointError: a file is missing, corrupt, of another format version, or does not fit the network.
        ConfigError: the file names code that was not named here.

    Example:
        >>> small = earlybird.load("out")
    """
    folder = Path(folder)
    description = read_description(folder / DESCRIPTION)
    path = folder / TENSORS
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a folder that holds {TENSORS} and {DESCRIPTION}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise CheckpointError(f"{path} is corrupt (sha256 differs from {DESCRIPTION}); restore the file or save again")
    try:
        tensors = safetensors.torch.load(data)
        model = into if into is not None else _skeleton(description, tensors, factory, path)
        match_dtypes_(model, tensors)
        reshape_(model, description["layers"], tensors)
        model.load_state_dict(tensors)
    except _MEDDLED as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"{folder / DESCRIPTION} and {TENSORS} describe no network ({reason}); restore them or save again"
        ) from error
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
        description = json.loads(path.read_bytes())
        version = description["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); restore the file or save again") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}, this version reads {FORMAT_VERSION}; save again")
    return dict(description)


def _skeleton(description: dict[str, Any], tensors: dict[str, Tensor], named: Factory | None, path: Path) -> nn.Module:
    factory, kwargs = description["factory"], description["kwargs"]
    if factory is None:
        raise CheckpointError(f"{path.parent} names no factory; give the dense network: load(..., into=MyNet())")
    if not isinstance(factory, str) or not isinstance(kwargs, dict):
        raise TypeError("factory and kwargs are no name and no arguments")
    if is_code(factory, "model") and (named is None or factory_name(named) != factory):
        raise ConfigError(
            f"{path.parent} names {factory!r}, code that runs only when you name it; give factory={factory!r}"
        )
    if not is_code(factory, "model"):
        _refuse_huge(factory, kwargs, tensors, path)
    return named(**kwargs) if callable(named) else build_named(factory, kwargs)


def _refuse_huge(factory: str, kwargs: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise if the dense network would be far larger than the saved one, without allocating it."""
    for name, most in _MOST.items():
        if name in kwargs and not 0 < kwargs[name] <= most:
            raise CheckpointError(f"{path.parent}: {name} is {kwargs[name]!r}; a number up to {most} is believed")
    if factory.startswith("timm:"):  # timm reads numbers from tensors while it builds, which `meta` cannot give.
        return
    with torch.device("meta"):
        dense = sum(parameter.numel() for parameter in build_named(factory, kwargs).parameters())
    kept = sum(tensor.numel() for tensor in tensors.values())
    if dense > _MOST_DENSE_PARAMS_PER_KEPT * max(kept, 1):
        raise CheckpointError(f"{path} holds {kept} numbers of a network of {dense}; such a cut is not believed")


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name!r} in the state dict is a {type(value).__name__}; only tensors are written")
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # One memory each.
    return tensors
