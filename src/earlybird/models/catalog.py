"""Networks by name, with seeded random weights.

Five kinds of name: the built-in CIFAR nets, `torchvision:NAME`, `timm:NAME` (extra `timm`), and two ways to a callable
of the user's, `pkg.mod:callable` and `file.py:callable`. No pretrained weights are loaded: a ticket is drawn from a
training that starts at random weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from earlybird.errors import ModelError, did_you_mean, one_line, reason
from earlybird.models.cifar import BLOCKS_PER_STAGE, CONVS_PER_STAGE, VGG, PreResNet, ResNet
from earlybird.user_code import find_callable, is_code

CIFAR_IMAGE_SIZE = 32
SETTINGS = frozenset({"num_classes", "in_channels", "width", "image_size"})  # what every network is told
PRERESNET_DEPTHS = (20, 29, 56, 101, 110, 164)
# What makes weights, and what makes numbers that a factory may read: few of them are real, too.
_WEIGHTS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.eye)
_READ = (torch.arange, torch.linspace)
_MOST_READ = 100_000
OTHER_FORMS = "torchvision:NAME, timm:NAME, pkg.mod:callable or file.py:callable"

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    **{f"vgg{depth}": partial(VGG, depth) for depth in CONVS_PER_STAGE},
    **{f"preresnet{depth}": partial(PreResNet, depth) for depth in PRERESNET_DEPTHS},
    **{f"resnet{depth}": partial(ResNet, depth) for depth in BLOCKS_PER_STAGE},
}


def model_names() -> list[str]:
    """Names of the built-in networks, without the prefixed forms (`torchvision:NAME`, ...)."""
    return list(BUILT_IN)


def check_model_name(name: str) -> None:
    """Raise `ModelError` for a name of no known form; cheap, so that a typo is found before data are read."""
    if name not in BUILT_IN and ":" not in name:
        raise _unknown_name(name, model_names(), f"{', '.join(model_names())}, {OTHER_FORMS}")


def build_named(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Build the named network with these arguments: those of `build_model`, or of the user's own code.

    Raises:
        ModelError: as `build_model`; or an argument is missing or not known.
    """
    if is_code(name, "model"):
        with _seeded_cpu_generator(0):
            return _build_custom(name, kwargs)
    unknown = sorted(set(kwargs) - SETTINGS - {"seed"})
    if unknown or "num_classes" not in kwargs:
        what = f"no argument {unknown[0]!r}" if unknown else "an argument 'num_classes'"
        raise ModelError(f"{name} takes {what}; give num_classes, in_channels, width, image_size or seed")
    return build_model(name, **kwargs)


def build_model(
    name: str, *, num_classes: int, in_channels: int = 3, width: float = 1.0, image_size: int = 32, seed: int = 0
) -> nn.Module:
    """Build the named network with random weights, the same ones for the same seed.

    `name` is one of `model_names()`, `torchvision:NAME`, `timm:NAME`, `pkg.mod:callable` or `file.py:callable`. A
    callable is given those of num_classes, in_channels, image_size and width that its signature accepts. `width`
    multiplies the channel counts of the built-in nets. Images are [n, in_channels, image_size, image_size].
    Weights are drawn from PyTorch's CPU generator, seeded with `seed` and afterwards put back as it was found.

    Example:
        model = build_model("vgg16", num_classes=10, width=0.25, seed=1)

    Raises:
        ModelError: the name is unknown, its package or file is missing, the network cannot take these settings, or
            the callable failed.
    """
    _check_sizes(num_classes, in_channels, width, image_size)
    with _seeded_cpu_generator(seed):
        if name in BUILT_IN:
            if image_size != CIFAR_IMAGE_SIZE:
                raise ModelError(
                    f"{name} takes 32x32 images, image_size is {image_size}; resize the data (--data.image_size 32) "
                    f"or choose a network for other sizes, such as torchvision:resnet18"
                )
            return BUILT_IN[name](num_classes=num_classes, in_channels=in_channels, width=width)
        check_model_name(name)
        if name.startswith(("torchvision:", "timm:")):
            return _build_from_library(name, num_classes, in_channels, width)
        settings = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size, "width": width}
        return _build_custom(name, settings)


def unmade(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The network that `build` makes, its weights on `meta`: sizes without memory. None if it needs their numbers."""
    try:
        with Watched():
            model = build()
    except Exception:  # Whatever is wrong with it, a real build will say.
        return None
    return model if isinstance(model, nn.Module) else None


class Watched(TorchFunctionMode):
    """Makes the weights of what is built inside on `meta`.

    Args:
        most: make them after all, but refuse, unmade, the tensor with which they would have more numbers than this.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most, self._made = most, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _WEIGHTS and func not in _READ:
            return func(*args, **kwargs)
        sizes = func(*args, **{k: v for k, v in kwargs.items() if k != "generator"} | {"device": "meta"})
        if self.most is None:
            return sizes if func in _WEIGHTS or sizes.numel() > _MOST_READ else func(*args, **kwargs)
        self._made += sizes.numel()
        if self._made > self.most:
            raise ModelError(f"it has more than {self.most} numbers; such a cut is not believed")
        return func(*args, **kwargs)


@contextmanager
def _seeded_cpu_generator(seed: int) -> Iterator[None]:
    # Only the CPU generator: torch.manual_seed would also reseed, or lazily queue a reseed of, every GPU.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _check_sizes(num_classes: int, in_channels: int, width: float, image_size: int) -> None:
    for label, count in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        if count < 1:
            raise ModelError(f"{label} is {count}; a network needs at least 1")
    if not (math.isfinite(width) and width > 0):
        raise ModelError(f"width is {width}; it multiplies channel counts and must be a finite number above 0")


def _build_from_library(full_name: str, num_classes: int, in_channels: int, width: float) -> nn.Module:
    """A network of torchvision or timm, which take seconds to import."""
    library, _, name = full_name.partition(":")
    home: Any
    if library == "timm":
        try:
            home = import_module("timm")
        except ImportError as error:
            raise ModelError(
                f"{full_name} needs the package timm ({reason(error)}); install it with pip install 'earlybird[timm]'"
            ) from error
        build = partial(home.create_model, name, pretrained=False, in_chans=in_channels)
        names: Callable[[], list[str]] = home.list_models
        is_known = home.is_model(name)
    else:
        home = import_module("torchvision.models")
        build = partial(home.get_model, name, weights=None)
        names = partial(home.list_models, module=home)
        is_known = name in names()
    if width != 1.0:
        raise ModelError(
            f"{full_name} has no width multiplier, width is {width}; leave it at 1.0 or use a built-in network"
        )
    if library == "torchvision" and in_channels != 3:
        raise ModelError(
            f"{full_name} takes 3 input channels, in_channels is {in_channels}; "
            f"convert the data to RGB or name a callable of yours that builds the stem it needs"
        )
    if not is_known:
        where = "timm" if library == "timm" else "torchvision.models"
        raise _unknown_name(full_name, names(), f"a name from {where}.list_models()")
    try:
        model: nn.Module = build(num_classes=num_classes)
    except Exception as error:
        raise ModelError(f"{full_name} could not be built: {one_line(error)}") from error
    return model


def _build_custom(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Call the callable that `name` points to with those of `SETTINGS` that its signature accepts, and all others.

    A width other than 1.0 that the callable has no parameter for is refused: the run would be recorded with a width
    that its network does not have.
    """
    factory = find_callable(name, "model", ModelError, other_forms="torchvision:NAME, timm:NAME")
    arguments = _accepted(factory, name, settings)
    if settings.get("width", 1.0) != 1.0 and "width" not in arguments:
        raise ModelError(f"{name} has no parameter 'width', width is {settings['width']}; leave it at 1.0 or add one")
    arguments |= {key: value for key, value in settings.items() if key not in SETTINGS}
    try:
        model = factory(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        raise ModelError(f"{name} raised {one_line(error)} when called with {given}") from error
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


def _unknown_name(full_name: str, choices: Sequence[str], legal: str) -> ModelError:
    hint = did_you_mean(full_name.rpartition(":")[2], choices)
    return ModelError(f"unknown model {full_name!r}; {hint}expected {legal}")
