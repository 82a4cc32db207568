"""Networks built by the user's own callable, named `pkg.mod:callable` or `path/to/file.py:callable`.

The callable may be a function, a class or a partial; it gets only the settings that its signature names. Whatever goes
wrong on the way (no file, no attribute, an exception inside) is said in one line, with the full error chained to it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from earlybird.errors import ModelError

SETTINGS = frozenset({"num_classes", "in_channels", "width", "image_size"})  # What every network is told.


def build_custom(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Call the callable that `name` points to with those of `SETTINGS` that its signature accepts, and all others.

    A width other than 1.0 that the callable has no parameter for is refused: the run would be recorded with a width
    that its network does not have.

    Raises:
        ModelError: no such file, module or attribute; not a callable; it raised; or it returned no nn.Module.
    """
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise ModelError(f"model {name!r} names no callable; write pkg.mod:callable or file.py:callable")
    module = _load_file(Path(source)) if source.endswith(".py") else _import_module(name, source)
    factory = _find_callable(module, name, attribute)
    arguments = _accepted(factory, name, settings)
    if settings.get("width", 1.0) != 1.0 and "width" not in arguments:
        raise ModelError(f"{name} has no parameter 'width', width is {settings['width']}; leave it at 1.0 or add one")
    arguments |= {key: value for key, value in settings.items() if key not in SETTINGS}
    try:
        model = factory(**arguments)
    except Exception as error:
        raise ModelError(f"{name} raised {_one_line(error)} when called with {_spelled(arguments)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _load_file(path: Path) -> ModuleType:
    path = path.expanduser()
    if not path.is_file():
        raise ModelError(f"no file {str(path)!r} to load a network from; name an existing one as file.py:callable")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module_name = f"earlybird_user_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{str(path)!r} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class up by its module's name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ModelError(f"{str(path)!r} raised {_one_line(error)} while it was loaded") from error
    return module


def _import_module(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except Exception as error:
        raise ModelError(
            f"model {name!r}: importing {source!r} raised {_one_line(error)}; "
            f"legal are torchvision:NAME, timm:NAME, pkg.mod:callable (installed or on PYTHONPATH) and file.py:callable"
        ) from error


def _find_callable(module: ModuleType, name: str, attribute: str) -> Callable[..., Any]:
    if not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if _defined_here(value, module)]
        raise ModelError(f"{name}: there is no {attribute!r} in it; its own callables: {', '.join(own) or 'none'}")
    found = getattr(module, attribute)
    if not callable(found):
        raise ModelError(f"{name} is a {type(found).__name__}, not a callable that returns a torch.nn.Module")
    factory: Callable[..., Any] = found
    return factory


def _defined_here(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _accepted(factory: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} has no readable signature; wrap it in a Python function") from error
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(settings)
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {key: settings[key] for key in settings if key in parameters and parameters[key].kind in by_keyword}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _spelled(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
