"""Worker process of `earlybird compare --workers N`, which starts it: `python -m earlybird.cli.worker FOLDER TOKEN`."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path


def worker(root: Path, token: str) -> None:
    """Execute run nodes of the sweep in a folder, under a call's token, until none is left.

    SIGINT, which a terminal sends to every process, ends it without a word where no run takes it up to save; who
    started it has the word.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Blocked while the interpreter started.
    from earlybird.cli.main import keep_freed_memory, show_warning
    from earlybird.grids.sweep import Sweep, read_grid, work

    keep_freed_memory()
    warnings.showwarning = show_warning
    work(Sweep(root, read_grid(root), token))


if __name__ == "__main__":
    worker(Path(sys.argv[1]), sys.argv[2])
