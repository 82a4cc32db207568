"""CUDA graphs as far as a CPU can tell: what is refused, and that CUDA is left as it was found."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from earlybird.errors import ConfigError
from earlybird.training import graphs
from earlybird.training.compute import Compute

CPU = torch.device("cpu")


def test_a_device_without_graphs_is_refused():
    with pytest.raises(ConfigError, match="'captured', but cpu has no CUDA graphs; give auto, eager or compiled"):
        graphs.graphs_of(CPU)
    assert isinstance(graphs.graphs_of(torch.device("cuda")), graphs.CudaGraphs)


class FakeCuda:
    """Writes down what is asked of `torch.cuda`; its capture fails."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.mode = 0
        for name in ("device", "stream", "graph"):
            patch.setattr(torch.cuda, name, lambda *a, of=name, **k: self.context(f"{of} {k}" if k else of))
        patch.setattr(
            torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=lambda s: self.log.append("main waits"))
        )
        patch.setattr(
            torch.cuda, "Stream", lambda: SimpleNamespace(wait_stream=lambda s: self.log.append("side waits"))
        )
        patch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
        patch.setattr(torch.cuda, "set_stream", lambda stream: self.log.append("main again"))
        patch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        patch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "mode", mode))

    @contextmanager
    def context(self, name: str) -> Any:
        self.log.append(name.split(" ")[0])
        yield
        self.log.append(f"end of {name.split(' ')[0]}")


def test_cuda_is_left_as_it_was_where_a_step_fails(monkeypatch):
    cuda, found = FakeCuda(monkeypatch), graphs.CudaGraphs(torch.device("cuda", 1))
    with pytest.raises(RuntimeError), found.warm_up(), found.forbid_waiting():
        assert cuda.mode == "error"
        raise RuntimeError
    assert cuda.mode == 0
    assert cuda.log == ["device", "side waits", "stream", "main waits"]
    cuda.log.clear()

    def fails() -> None:
        raise RuntimeError("cannot be captured")

    with pytest.raises(RuntimeError, match="cannot be captured"):
        found.capture(fails)
    assert cuda.log == ["device", "graph", "main again"]


@pytest.mark.parametrize(
    ("tf32", "inside"), [("conv", (True, False)), ("all", (True, True)), ("never", (False, False))]
)
def test_tf32_is_allowed_inside_only(tf32: Any, inside: tuple[bool, bool]):
    def flags() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with Compute(CPU, tf32=tf32).float32_rules():
        assert flags() == inside
    assert flags() == before


def test_the_recorder_refuses_what_a_graph_would(fake):
    with pytest.raises(RuntimeError, match="synchronizing"), fake.forbid_waiting():
        torch.ones(()).item()
    with pytest.raises(RuntimeError, match="synchronizing"):
        fake.capture(lambda: torch.ones(3).nonzero())
