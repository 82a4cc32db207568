"""`earlybird`: find the subnetwork worth training, cut, train only the small one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from earlybird.errors import ConfigError, EarlyBirdError, NonFiniteError, Terminated, did_you_mean, reason

# File that holds the command, and what it does.
COMMANDS = {
    "train": ("run_commands", "search, cut, retrain and evaluate in one run folder"),
    "search": ("run_commands", "search only: one dense training, a ticket file for each ratio"),
    "retrain": ("run_commands", "cut by a ticket file and train the small network"),
    "evaluate": ("run_commands", "read the test set with the network a run ended with"),
    "compare": ("compare_command", "a grid of methods, ratios and seeds, each run once, and the tables of it"),
    "report": ("run_commands", "compare finished runs in a table"),
    "cost": ("plan_commands", "what a training will cost, by the paper's methods or others; the paper's own totals"),
    "energy": ("run_commands", "`energy import meter.csv --run RUN`: a power meter's log into a run's record"),
    "inspect": ("plan_commands", "what can be cut from a network, what not and why, and what it saves"),
    "export": ("run_commands", "the network a run ended with, as ONNX or .pt2"),
    "list": ("plan_commands", "models, data sets, methods and presets; `list methods` says what each does"),
}

# Commands whose training steps gain from keeping freed memory; `cost` measures steps as they will be.
_TRAINING = ("train", "search", "retrain", "compare", "cost", "inspect")

# Parameters of mallopt, by their numbers in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BLOCKS_UP_TO_BYTES = 1 << 30
_FREE_TOP_UP_TO_BYTES = (1 << 31) - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 2 for what the user can mend, 1 for a run that diverged.

    Raises:
        Terminated: a signal asked to stop; it exits with 128 + the signal's number.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        # Puts back how signals are taken and warnings shown: `main` may be called from a program.
        with _heeded_signals(is_program=argv is None), warnings.catch_warnings():
            warnings.showwarning = show_warning
            try:
                return _run(arguments[0] if arguments else "", arguments[1:])
            finally:
                if sys.stdout is not None:  # Here a full disk can still be told of.
                    sys.stdout.flush()
    except Terminated as stopped:
        name = signal.Signals(stopped.signal_number).name
        _complain(f"stopped by {name}; the state is saved, the same command goes on from it")
        raise
    except (EarlyBirdError, OSError) as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):  # Whoever read our output has heard enough.
            return 0
        if debug:
            raise
        said = reason(error)
        if isinstance(error, OSError):
            said = f"{error.filename or 'the disk or standard output'}: {error.strerror or said}"
            said += "; mend it and give the same command again"
        _complain(said)
        return 1 if isinstance(error, NonFiniteError) else 2


@contextmanager
def _heeded_signals(*, is_program: bool) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the process at once, with one line, wherever no run takes them up: files survive."""
    process, before = os.getpid(), {}

    def stop(number: int, frame: object) -> None:
        if not is_program:  # A program has called `main`.
            raise Terminated(number)
        if os.getpid() == process:  # Not in the processes that load data, which inherit this.
            said = f"stopped by {signal.Signals(number).name}; what is written is kept, give the same command again"
            os.write(2, f"earlybird: {said}\n".encode())
            for temporary in list(getattr(sys.modules.get("earlybird.atomic"), "UNFINISHED", ())):
                temporary.unlink(missing_ok=True)
        # An exception might be swallowed, or shown, by what is at work: an import, a __del__.
        os._exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):  # What is ignored stays so (nohup).
                before[number] = handler
                signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():  # All is done: a signal must not spoil the interpreter's end.
            signal.signal(number, signal.SIG_IGN if is_program else handler)


def _drop_output() -> None:
    """Drop what standard output cannot take, of which the interpreter would complain at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage() -> str:
    """Help text of `earlybird --help`."""
    lines = ["usage: earlybird COMMAND [flags]", "", "commands:"]
    lines += [f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items()]
    lines += [
        "",
        "`earlybird COMMAND --help` lists the flags; --debug shows a traceback. The whole job on real data:",
        "  earlybird train --model vgg16 --data cifar10 --data.download true --ratio 0.5 --out runs/x",
    ]
    return "\n".join(lines)


def _run(name: str, arguments: list[str]) -> int:
    if name in ("", "-h", "--help", "--version"):
        from earlybird import __version__

        print(f"earlybird {__version__}" if name == "--version" else usage())
        return 0 if name else 2
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}; {did_you_mean(name, COMMANDS)}give one of {', '.join(COMMANDS)}")
    if name in _TRAINING:
        keep_freed_memory()
    module, options = (import_module(f"earlybird.cli.{file}") for file in (COMMANDS[name][0], "options"))
    with options.naming_the_file(options.value_of("--config", arguments), arguments):
        return getattr(module, f"{name}_command")(arguments) or 0


def keep_freed_memory() -> bool:
    """Tell glibc to serve blocks up to 1 GiB from the heap and to keep up to 2 GiB of it when free.

    It gives large freed blocks back at once; a step that allocates the same activations anew then pays a page fault for
    every 4 KiB, a fifth of the step on a CPU (`benchmarks/bench_allocator.py`). It is a setting of the whole process,
    so only the command line makes it, never the library.

    Returns:
        False where there is no glibc or it refuses; then nothing has changed that matters.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    limits = {_M_MMAP_THRESHOLD: _BLOCKS_UP_TO_BYTES, _M_TRIM_THRESHOLD: _FREE_TOP_UP_TO_BYTES}
    return all(mallopt(*limit) for limit in limits.items())


def _complain(message: str) -> None:
    print(f"earlybird: {' '.join(message.split())}", file=sys.stderr)


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning on one line, without the path of our source."""
    _complain(f"warning: {message}")
