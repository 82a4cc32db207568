"""Out-of-memory errors as one line: the place, and the settings to lower."""

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
def explain_out_of_memory(where: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into one line with its place ("at step 7 of ...") and its remedy.

    Raises:
        OutOfMemoryError: the device or the machine had too little memory for what ran inside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # `torch.OutOfMemoryError` is a RuntimeError.
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and _CPU_ALLOCATOR not in str(error):
            raise
        raise OutOfMemoryError(f"out of memory {where}; {remedy}; the last checkpoint is intact") from error
