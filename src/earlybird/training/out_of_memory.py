"""Running out of memory in a step becomes one line that says where, and what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from earlybird.errors import OutOfMemoryError

# How PyTorch's CPU allocator words it; it raises a plain RuntimeError.
_CPU_ALLOCATOR = "can't allocate memory"


@contextmanager
def naming_the_step(step: int, phase: str) -> Iterator[None]:
    """Say at which step memory ran out.

    Raises:
        OutOfMemoryError: the device or the machine had too little memory for what ran inside.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _named(step, phase) from error
    except RuntimeError as error:
        if _CPU_ALLOCATOR not in str(error):
            raise
        raise _named(step, phase) from error


def _named(step: int, phase: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"out of memory at step {step} of phase '{phase}'; lower --batch-size or raise --training.micro_batches; the "
        "last checkpoint is intact"
    )
