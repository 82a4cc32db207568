"""Every error that earlybird raises on purpose, and the words for a value out of range and for a foreign error.

One small hierarchy. Each message is one line: what is wrong, where, the legal values, the cure. The command line prints
it as it stands and exits with code 2.
"""

import os
import re
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path


class EarlyBirdError(Exception):
    """Root of all deliberate errors; catch this one to catch them all."""


class ConfigError(EarlyBirdError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(EarlyBirdError):
    """A data set is missing, empty or cannot be decoded."""


class MaskError(EarlyBirdError):
    """A channel mask does not fit the network, the scores or another mask."""


class ModelError(EarlyBirdError):
    """A network is unknown, cannot be built or cannot take the data's input."""


class SlimError(EarlyBirdError):
    """A network cannot be cut exactly; the message names the operation and the module."""


class TicketError(EarlyBirdError):
    """A ticket file is corrupt or belongs to another network."""


class CheckpointError(EarlyBirdError):
    """No intact checkpoint could be read."""


class RunFolderError(EarlyBirdError):
    """A run folder cannot be used: it holds another configuration, or its path is refused."""


class MethodError(EarlyBirdError):
    """A method cannot handle a network, or was not given what it starts from."""


class SweepError(EarlyBirdError):
    """A grid of runs cannot be started as it was asked for, or some of its runs failed."""


class OutOfMemoryError(EarlyBirdError):
    """The device or the machine has too little memory for a training step."""


class NonFiniteError(EarlyBirdError):
    """A loss or a score became NaN or infinite."""


class Terminated(SystemExit):
    """The run was asked to stop; its state is saved. Exits with 128 + the signal's number (SIGTERM: 143)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


def require(name: str, value: object, holds: bool, expected: str) -> None:
    """Raise unless a condition on a value holds.

    Raises:
        ConfigError: `holds` is False; the message has the name, the value and what is expected.
    """
    if not holds:
        raise ConfigError(wrong_value(name, value, expected))


def is_number(value: object) -> bool:
    """True for a real number, numpy's included; a bool, a string and a tensor are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: object) -> bool:
    """True for a whole number, numpy's included; a bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_type(name: str, value: object, wanted: type, error: type[EarlyBirdError], cure: str) -> None:
    """Raise `error` unless a value is of a class."""
    if not isinstance(value, wanted):
        raise error(f"{name} is a {type(value).__name__}; {cure}")


def path_given(name: str, value: object, error: type[EarlyBirdError]) -> Path:
    """The path that an argument names; raise `error` where it is no text and no path."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(value, bytes):
        raise error(f"{name} is {value!r:.60}; give a path")
    return Path(value)


def wrong_value(name: str, value: object, expected: str) -> str:
    """Words for a wrong value, with the nearest of the choices that `expected` lists ("one of fp32, bf16")."""
    choices = [choice for choice in re.split(", | or ", expected.removeprefix("one of ")) if " " not in choice]
    return f"{name} is {value!r}; {did_you_mean(value, choices)}give {expected}"


def did_you_mean(given: object, legal: Iterable[str]) -> str:
    """Hint at no more than four names that a slip of typing turns into `given`, such as "did you mean 'x'? "; else "".

    One letter is too many, missing, wrong or swapped with its neighbour; in names of eight letters or more without a
    digit two are. Case, dashes and underscores do not count. A flag or key without its section is looked for in each.
    Names of up to three letters get none: no suggestion is better than a false one.
    """
    bare, slips = _bare(str(given)), {}
    for name in legal:
        forms = {_bare(name)} if "." in bare else {_bare(name), _bare(name.rpartition(".")[2])}
        slips[name] = min(_slips(bare, form) for form in forms)
    word, nearest = bare.rpartition(".")[2], min(slips.values(), default=0)
    most = -1 if len(word) < 4 else 1 if len(word) < 8 or re.search(r"\d", word) else 2
    names = [name if name.startswith("-") else repr(name) for name in slips if slips[name] == nearest <= most]
    return f"did you mean {' or '.join(names)}? " if 0 < len(names) <= 4 else ""


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _slips(a: str, b: str) -> int:
    """Letters that are too many, missing, wrong, or swapped with their neighbour (Damerau 1964)."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            least = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            swapped = i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other)
            row.append(min(least, rows[-2][j - 2] + 1) if swapped else least)
        rows.append(row)
    return rows[-1][-1]


def one_line(error: Exception) -> str:
    """An exception's class and text on one line."""
    name = type(error).__name__
    return ": ".join(dict.fromkeys([name, " ".join(str(error).split()) or name]))


def first_line(error: Exception) -> str:
    """The first line of why an exception was raised (see `reason`), below a headline that ends with a colon."""
    lines = [line.strip() for line in _why(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), lines[0] if lines else type(error).__name__)


def reason(error: Exception) -> str:
    """Why an exception was raised, on one line: its text without the path of a file; its class where it has none."""
    return " ".join(_why(error).split()) or type(error).__name__


def _why(error: Exception) -> str:
    if isinstance(error, KeyError) and len(error.args) == 1:
        return f"{error.args[0]!r} is missing"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
