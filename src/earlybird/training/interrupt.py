"""Interrupts: SIGTERM and SIGINT as a flag that the loop reads between two steps, so that it can save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_EXIT_BASE = 128


class Terminated(SystemExit):
    """The run was asked to stop; its state is saved. Exits with 128 + the signal's number (SIGTERM: 143)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(_EXIT_BASE + signal_number)
        self.signal_number = signal_number


class StopFlag:
    """Signal that asked the run to stop, if any."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def raise_if_set(self) -> None:
        """Raise `Terminated` if a signal has come; call it where everything is saved."""
        if self.signal_number is not None:
            raise Terminated(self.signal_number)


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM and SIGINT into a `StopFlag` inside the block. A second signal acts as it did before.

    Outside the main thread Python delivers no signals, so there the flag stays unset and nothing is changed.
    """
    flag = StopFlag()
    previous: dict[int, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        flag.signal_number = number
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # Under nohup, or in the background of a script: somebody chose that.
                # None: a handler that Python did not install and could not put back.
                previous[number] = signal.SIG_DFL if handler is None else handler
                signal.signal(number, remember)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
