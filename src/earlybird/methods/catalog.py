"""Which methods there are, by name. Their dataclasses hold plain values; the work is imported when it starts."""

from __future__ import annotations

from earlybird.errors import ConfigError
from earlybird.methods.dense import Dense
from earlybird.methods.early_bird import EarlyBirdTraining

Method = Dense | EarlyBirdTraining
METHODS: dict[str, type[Dense] | type[EarlyBirdTraining]] = {"early_bird": EarlyBirdTraining, "dense": Dense}


def method_class(name: str) -> type[Dense] | type[EarlyBirdTraining]:
    """The dataclass of a method.

    Raises:
        ConfigError: no method has this name.
    """
    if name not in METHODS:
        raise ConfigError(f"method.name is {name!r}; give one of {', '.join(METHODS)}")
    return METHODS[name]
