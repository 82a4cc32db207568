"""Networks built by the user's own callable, named `pkg.mod:callable` or `path/to/file.py:callable`.

The callable may be a function, a class or a partial; it gets only the settings that its signature names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from earlybird.errors import ModelError
from earlybird.user_code import find_callable, one_line

SETTINGS = frozenset({"num_classes", "in_channels", "width", "image_size"})  # What every network is told.


def build_custom(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Call the callable that `name` points to with those of `SETTINGS` that its signature accepts, and all others.

    A width other than 1.0 that the callable has no parameter for is refused: the run would be recorded with a width
    that its network does not have.

    Raises:
        ModelError: no such file, module or attribute; not a callable; it raised; or it returned no nn.Module.
    """
    factory = find_callable(name, "model", ModelError, other_forms="torchvision:NAME, timm:NAME")
    arguments = _accepted(factory, name, settings)
    if settings.get("width", 1.0) != 1.0 and "width" not in arguments:
        raise ModelError(f"{name} has no parameter 'width', width is {settings['width']}; leave it at 1.0 or add one")
    arguments |= {key: value for key, value in settings.items() if key not in SETTINGS}
    try:
        model = factory(**arguments)
    except Exception as error:
        raise ModelError(f"{name} raised {one_line(error)} when called with {_spelled(arguments)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _accepted(factory: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} has no readable signature; wrap it in a Python function") from error
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(settings)
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {key: settings[key] for key in settings if key in parameters and parameters[key].kind in by_keyword}


def _spelled(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
