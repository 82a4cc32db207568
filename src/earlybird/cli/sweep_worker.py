"""Worker process of `earlybird compare`, which starts it: executes run nodes of a sweep until none is left."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from earlybird.cli.allocator import keep_freed_memory
from earlybird.cli.main import show_warning


def main(argv: list[str]) -> int:
    """Work on the sweep in folder `argv[0]` under the token `argv[1]`."""
    keep_freed_memory()
    from earlybird.grids.sweep import Sweep, read_grid, work

    root, token = Path(argv[0]), argv[1]
    warnings.showwarning = show_warning
    work(Sweep(root, read_grid(root), token))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
