from __future__ import annotations

import os
import signal
import threading

import pytest

from earlybird.errors import Terminated
from earlybird.training.session import StopFlag, stop_on_signals


@pytest.fixture(autouse=True)
def handlers():
    """Every test finds and leaves Python's own handlers (a shell starts background jobs with SIGINT ignored)."""
    own = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    found = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in own.items():
        assert signal.getsignal(number) is handler
        signal.signal(number, found[number])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_becomes_a_flag_and_the_flag_an_exit_code(number: signal.Signals, code: int):
    with stop_on_signals() as flag:
        flag.raise_if_set()
        os.kill(os.getpid(), number)
        assert flag.signal_number == number
        with pytest.raises(Terminated) as stopped:
            flag.raise_if_set()
    assert stopped.value.code == code


def test_a_second_signal_acts_as_it_did_before():
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as flag:
            os.kill(os.getpid(), signal.SIGINT)
        assert flag.signal_number is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_changed_and_nothing_fails():
    seen: list[StopFlag] = []

    def enter() -> None:
        with stop_on_signals() as flag:
            seen.append(flag)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen[0].signal_number is None
