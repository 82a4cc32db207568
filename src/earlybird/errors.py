"""Every error that earlybird raises on purpose, and the words for a value out of range and for a foreign error.

One small hierarchy. Each message is one line: what is wrong, where, the legal values, the cure. The command line prints
it as it stands and exits with code 2.
"""


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
        raise ConfigError(f"{name} is {value!r}; give {expected}")


def one_line(error: Exception) -> str:
    """An exception's class and text on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def first_line(error: Exception) -> str:
    """The first line of an exception's text; its class where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
