"""Running out of memory becomes one line that says where, and what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from earlybird.errors import OutOfMemoryError

# How PyTorch's CPU allocator words it; it raises a plain RuntimeError.
_CPU_ALLOCATOR = "can't allocate memory"


SMALLER_STEPS = "lower --batch-size or raise --training.micro_batches"
SMALLER_EVALUATION = "lower --training.eval_batch_size"


@contextmanager
def naming_the_place(where: str, cure: str) -> Iterator[None]:
    """Say where memory ran out.

    Args:
        where: "at step 7 of phase 'search'".
        cure: what to lower.

    Raises:
        OutOfMemoryError: the device or the machine had too little memory for what ran inside.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _named(where, cure) from error
    except RuntimeError as error:
        if _CPU_ALLOCATOR not in str(error):
            raise
        raise _named(where, cure) from error


def _named(where: str, cure: str) -> OutOfMemoryError:
    return OutOfMemoryError(f"out of memory {where}; {cure}; the last checkpoint is intact")
