"""Types of settings: what a field of a settings dataclass may hold, and how that is said.

One place for the words, so that a wrong value reads the same in Python, in YAML and on the command line.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from earlybird.errors import ConfigError

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def require(name: str, value: object, holds: bool, legal: str) -> None:
    """Raise unless the value is legal.

    Raises:
        ConfigError: `holds` is False; the message has the name, the value and the legal values.
    """
    if not holds:
        raise ConfigError(f"{name} is {value!r}; give {legal}")


def check_types(section: str, settings: Any) -> None:
    """Raise unless every field of a settings dataclass holds what its annotation says.

    Args:
        section: what stands before the dot in messages, such as "training".
        settings: an instance; ints pass for floats, lists for tuples, nothing else is converted.

    Raises:
        ConfigError: a field has another type, or is none of its choices.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, kind = getattr(settings, field.name), hints[field.name]
        require(f"{section}.{field.name}", value, fits(value, kind), legal_values(kind))


def fits(value: object, kind: Any) -> bool:
    """Is `value` of this annotation? Knows plain types, `X | None`, `Literal` and lists or tuples of one type."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(entry, get_args(kind)[0]) for entry in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def legal_values(kind: Any) -> str:
    """What a setting of this annotation may be, in words.

    Example:
        >>> legal_values(int | None), legal_values(Literal["step", "cosine"])
        ('an integer or null', 'step, cosine')
    """
    if get_origin(kind) in (Union, types.UnionType):
        options = [legal_values(option) for option in get_args(kind) if option is not types.NoneType]
        return " or ".join([*options, "null"])
    if get_origin(kind) is Literal:
        return ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (list, tuple):
        return "a list of numbers such as [0.3,0.5]"
    return _WORDS.get(kind, str(kind))
