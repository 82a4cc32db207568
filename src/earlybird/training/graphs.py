"""CUDA graphs of a training step: how one is recorded, the numbers it reads, and a trial that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from earlybird.errors import ConfigError


class Graphs(Protocol):
    """Recorder of a step, which replays it."""

    def warm_up(self) -> AbstractContextManager[None]:
        """A context for steps before the recording."""

    def forbid_waiting(self) -> AbstractContextManager[None]:
        """A context in which an operation that makes the host wait for the device raises RuntimeError."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` does, without doing it; the function returned does it again."""


class CudaGraphs:
    """CUDA graphs of one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """A side stream, as PyTorch asks for before a capture."""
        with torch.cuda.device(self._device):
            main, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(main)
            try:
                with torch.cuda.stream(side):
                    yield
            finally:
                main.wait_stream(side)

    @contextmanager
    def forbid_waiting(self) -> Iterator[None]:
        """PyTorch's own check. A capture that fails may leave the generator unusable, so it is asked before."""
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record a graph, with memory of its own and the default generator: dropout draws anew at each replay."""
        with torch.cuda.device(self._device):
            graph, main = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                # Threads of a DataLoader go on pinning memory meanwhile, which the stricter default would refuse.
                with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                    work()
            finally:
                torch.cuda.set_stream(main)  # A capture that fails leaves its own stream behind.
        return graph.replay


def graphs_of(device: torch.device) -> Graphs:
    """Graphs of a device.

    Raises:
        ConfigError: it is a CPU.
    """
    if device.type != "cuda":
        raise ConfigError(f"training.step is 'captured', but {device} has no CUDA graphs; give auto, eager or compiled")
    return CudaGraphs(device)


class NumberOnDevice:
    """Number that a graph reads; written only when it changes."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.tensor, self._value = torch.zeros((), dtype=dtype, device=device), 0.0

    def set(self, value: float) -> None:
        """Write it, without waiting for the device."""
        if value != self._value:
            self.tensor.fill_(value)
            self._value = value


@contextmanager
def untouched(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Put back tensors and random state after the block, in place."""
    before = [x.detach().clone() for x in tensors]
    host = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        with torch.no_grad():
            for x, value in zip(tensors, before, strict=True):
                x.copy_(value)
        torch.set_rng_state(host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)
