"""A run that is killed after some optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from earlybird.training import loop

KilledAfter = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def killed_after() -> KilledAfter:
    """Context in which a run gets so many steps, and must want one more: nothing is saved on the way out."""

    @contextmanager
    def after(steps: int) -> Iterator[None]:
        count, original = [0], loop._train_step

        def step(*arguments: Any) -> None:
            if count[0] == steps:
                raise InterruptedError
            count[0] += 1
            original(*arguments)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(loop, "_train_step", step)
            yield

    return after
