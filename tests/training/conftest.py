"""A stand-in for CUDA graphs on a CPU: it records operations with the tensors they had, and does them again.

As in a real graph no Python runs at a replay: a number that was read on the host while recording stays what it was, and
every result goes into the memory that it had then. Recording does nothing to tensors that were there before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class NoWaiting(TorchDispatchMode):
    """Raises, as `torch.cuda.set_sync_debug_mode` does, where the host would wait for the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name in _WAITS:
            raise RuntimeError("called a synchronizing CUDA operation")
        return function(*args, **(kwargs or {}))


class _Recorder(NoWaiting):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self._made: set[int] = set()
        self.found: dict[int, tuple[Tensor, Tensor]] = {}  # tensors that were there before, and their values

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for x in pytree.tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in self._made:
                self.found.setdefault(key, (x, x.detach().clone()))
        out = super().__torch_dispatch__(function, types, args, kwargs)
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self.found:
                self._made.add(x.untyped_storage()._cdata)
        self.operations.append((function, args, kwargs, out))
        return out


class RecordedGraphs:
    """The graphs of a test; `captures` and `replays` count."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def warm_up(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forbid_waiting(self) -> AbstractContextManager[Any]:
        return NoWaiting()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        recorder, random_state = _Recorder(), torch.get_rng_state()
        with recorder:
            work()
        torch.set_rng_state(random_state)
        with torch.no_grad():
            for x, value in recorder.found.values():
                x.copy_(value)
        self.captures += 1
        return lambda: self._replay(recorder)

    @torch.no_grad()
    def _replay(self, recorder: _Recorder) -> None:
        self.replays += 1
        for function, args, kwargs, out in recorder.operations:
            taken = {x.untyped_storage()._cdata for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            again = function(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage()._cdata not in taken:
                    old.copy_(new)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> RecordedGraphs:
    """Graphs on this CPU, and the same optimizer, the fused one, in every form of the step."""
    from earlybird.training import state, step

    found, original = RecordedGraphs(), step.make_optimizer
    monkeypatch.setattr(step, "graphs_of", lambda device: found)
    monkeypatch.setattr(state, "make_optimizer", lambda model, settings, kind: original(model, settings, "captured"))
    return found
