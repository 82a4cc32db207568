"""`ModelConfig`: the network of a run."""

from __future__ import annotations

from dataclasses import dataclass

from earlybird.settings.fields import check_settings, setting


@dataclass(frozen=True)
class ModelConfig:
    """Name and width of the network.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str = setting("vgg16", "`earlybird list`, torchvision:NAME, timm:NAME, pkg.mod:callable, file.py:callable")
    width: float = setting(1.0, "width multiplier of the built-in networks", "(0, 100)")

    def __post_init__(self) -> None:
        check_settings("model", self)
