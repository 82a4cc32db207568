"""Keep the memory that a training step frees, so that the next step need not ask the kernel for it again.

glibc gives large freed blocks back at once; a step that allocates the same activations anew then pays a page fault for
every 4 KiB. On a CPU that is a fifth of the step (`benchmarks/bench_allocator.py`). It is a setting of the whole
process, so only the command line makes it, never the library.
"""

from __future__ import annotations

import ctypes
import sys

# Numbers of mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BLOCKS_UP_TO_BYTES = 1 << 30
_FREE_TOP_UP_TO_BYTES = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Tell glibc to serve blocks up to 1 GiB from the heap and to keep up to 2 GiB of it when free.

    Returns:
        False where there is no glibc or it refuses; then nothing has changed that matters.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCKS_UP_TO_BYTES)) and bool(
        mallopt(_M_TRIM_THRESHOLD, _FREE_TOP_UP_TO_BYTES)
    )
