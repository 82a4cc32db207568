"""`earlybird`: find the subnetwork worth training, cut, train only the small one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from earlybird.errors import ConfigError, EarlyBirdError, NonFiniteError

COMMANDS = {
    "train": "search, cut, retrain and evaluate in one run folder",
    "search": "search only: one dense training, a ticket file for each ratio",
    "retrain": "cut by a ticket file and train the small network",
    "evaluate": "read the test set with the network a run ended with",
    "report": "compare finished runs in a table",
    "list": "what there is: models, data sets, methods",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for what the user can mend, 1 for a run that diverged."""
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
    warnings.showwarning = _show_warning
    try:
        return _command(arguments[0])(arguments[1:])
    except EarlyBirdError as error:
        if debug:
            raise
        print(f"earlybird: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, NonFiniteError) else 2


def usage() -> str:
    """What `earlybird --help` prints."""
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
    module = import_module(f"earlybird.cli.{name}_command")
    command: Callable[[list[str]], int] = module.command
    return command


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """One line, without the path of our source."""
    print(f"earlybird: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
