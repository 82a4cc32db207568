"""`earlybird`: find the subnetwork worth training, cut, train only the small one."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from earlybird.cli.allocator import keep_freed_memory
from earlybird.errors import ConfigError, EarlyBirdError, NonFiniteError, Terminated

COMMANDS = {
    "train": "search, cut, retrain and evaluate in one run folder",
    "search": "search only: one dense training, a ticket file for each ratio",
    "retrain": "cut by a ticket file and train the small network",
    "evaluate": "read the test set with the network a run ended with",
    "compare": "a grid of methods, ratios and seeds, each run once, and the tables of it",
    "report": "compare finished runs in a table",
    "cost": "what a training will cost, for every method; the paper's own totals recomputed",
    "energy": "`energy import meter.csv --run RUN`: a power meter's log into a run's record",
    "inspect": "what can be cut from a network, what not and why, and what it saves",
    "export": "the network a run ended with, as ONNX or .pt2",
    "list": "models, data sets, methods and presets; `list methods` says what each does",
}

# Commands whose training steps gain from keeping freed memory; `cost` measures steps as they will be.
_TRAINING = ("train", "search", "retrain", "compare", "cost")


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
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from earlybird import __version__

        print(f"earlybird {__version__}")
        return 0
    try:
        with warnings.catch_warnings():  # Puts back how warnings were shown: `main` may be called from a program.
            warnings.showwarning = show_warning
            return _command(arguments[0])(arguments[1:])
    except Terminated as stopped:
        name = signal.Signals(stopped.signal_number).name
        _complain(f"stopped by {name}; the state is saved, the same command goes on from it")
        raise
    except EarlyBirdError as error:
        if debug:
            raise
        _complain(str(error))
        return 1 if isinstance(error, NonFiniteError) else 2
    except BrokenPipeError:
        # Whoever read our output has heard enough; the interpreter must not complain of it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        _complain(f"{error.filename or 'the disk'}: {error.strerror or error}; mend it and give the same command again")
        return 2


def usage() -> str:
    """Help text of `earlybird --help`."""
    lines = ["usage: earlybird COMMAND [flags]", "", "commands:"]
    lines += [f"  {name:<9} {what}" for name, what in COMMANDS.items()]
    lines += [
        "",
        "`earlybird COMMAND --help` lists the flags; --debug shows a traceback. The whole job on real data:",
        "  earlybird train --model vgg16 --data cifar10 --data.download true --ratio 0.5 --out runs/x",
    ]
    return "\n".join(lines)


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}; give one of {', '.join(COMMANDS)}")
    if name in _TRAINING:
        keep_freed_memory()
    module = import_module(f"earlybird.cli.{name}_command")
    command: Callable[[list[str]], int] = module.command
    return command


def _complain(message: str) -> None:
    """Print a message on one line of stderr."""
    print(f"earlybird: {' '.join(message.split())}", file=sys.stderr)


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning on one line, without the path of our source."""
    _complain(f"warning: {message}")
