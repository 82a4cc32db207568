"""Fields of settings dataclasses: type, default, help and range in one place, and how a wrong value is refused.

One place for the words, so that a wrong value reads the same in Python, in YAML and on the command line.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from earlybird.errors import require

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}

Value = TypeVar("Value")


def setting(default: Value, help: str, within: str = "") -> Value:
    """Field of a settings dataclass.

    Args:
        help: one line for `--help`.
        within: interval of its numbers, "[0, 1)" or ">= 1"; they are finite in any case. Empty for no bounds.
    """
    # To type checkers a default, as `dataclasses.field` is; at run time the field.
    field: Any = dataclasses.field(default=default, metadata={"help": help, "within": within})
    return field  # type: ignore[no-any-return]


def check_settings(section: str, settings: Any) -> None:
    """Raise unless every field of a settings dataclass has the type and lies in the range that it was declared with.

    Args:
        section: what stands before the dot in messages, such as "training".
        settings: an instance; ints pass for floats, lists for tuples, nothing else is converted.

    Raises:
        ConfigError: a field has another type, is none of its choices or lies outside its range.
    """
    kinds = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, kind = getattr(settings, field.name), kinds[field.name]
        require(f"{section}.{field.name}", value, fits(value, kind), legal_values(kind))
    check_ranges(section, settings)


def check_ranges(section: str, settings: Any) -> None:
    """Raise `ConfigError` unless every number of a settings dataclass lies in the range it was declared with."""
    kinds = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, within = getattr(settings, field.name), field.metadata.get("within", "")
        # Text and null beside numbers ("rule", "ticket") have no place in an interval.
        if within and isinstance(value, (int, float)):
            expected = expected_in(kinds[field.name], within)
            require(f"{section}.{field.name}", value, lies_within(value, within), expected)


def lies_within(value: float, within: str) -> bool:
    """True if a finite number lies in an interval as `setting` takes it.

    Example:
        >>> lies_within(1, "[0, 1)"), lies_within(1, ">= 1"), lies_within(float("inf"), "> 0")
        (False, True, False)
    """
    if not abs(value) <= sys.float_info.max:  # Integers may be too large for a float.
        return False
    if within.startswith(">"):
        sign, bound = within.split()
        return value > float(bound) if sign == ">" else value >= float(bound)
    low, high = (float(bound) for bound in within[1:-1].split(", "))
    above = low <= value if within[0] == "[" else low < value
    return above and (value <= high if within[-1] == "]" else value < high)


def expected_in(kind: Any, within: str) -> str:
    """Words for a number of this annotation in an interval, with what may stand instead of it.

    Example:
        >>> expected_in(int, ">= 1"), expected_in(int | Literal["ticket"], ">= 0")
        ('an integer >= 1', 'an integer >= 0, or ticket')
    """
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    number = next(option for option in options if option in (int, float))
    words = [legal_values(option) for option in options if get_origin(option) is Literal]
    interval = f"in {within}" if within[0] in "[(" else within
    return ", or ".join([f"{_WORDS[number]} {interval}", *words])


def fits(value: object, kind: Any) -> bool:
    """True if `value` is of this annotation: plain types, `X | None`, `Literal`, lists or tuples of one type."""
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
    """Words for what a setting of this annotation may be.

    Example:
        >>> legal_values(int | None), legal_values(float | Literal["search"]), legal_values(Literal["step", "cosine"])
        ('an integer or null', 'a number or search', 'step, cosine')
    """
    if get_origin(kind) in (Union, types.UnionType):
        options = [legal_values(option) for option in get_args(kind) if option is not types.NoneType]
        return " or ".join([*options, *(["null"] if types.NoneType in get_args(kind) else [])])
    if get_origin(kind) is Literal:
        return ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (list, tuple):
        (inner,) = {*get_args(kind)} - {...}
        if get_origin(inner) in (Union, types.UnionType):
            return "a list such as [rule,0,5,last]"
        return "a list of names such as [stem,layer1*]" if inner is str else "a list of numbers such as [0.3,0.5]"
    return _WORDS.get(kind, str(kind))
