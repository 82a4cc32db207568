"""A data set and a network small enough that a whole run takes a second, given by path as a user would give his own."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Test processes that share the cores: threads of one would spin while they wait for the other's.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not go through half a million objects again and again."""
    gc.collect()
    gc.freeze()


TINY = '''
import torch
from torch import nn
from earlybird.data import DataBundle, MemoryImages


def data():
    """Three classes of 8x8 pictures, told apart by which channel is bright."""
    def split(n, seed):
        g = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % 3
        images = torch.randint(0, 120, (n, 3, 8, 8), generator=g)
        images[torch.arange(n), labels] += 60
        return MemoryImages(images.to(torch.uint8), labels)

    return DataBundle("tiny", 3, 3, 8, (0.25,) * 3, (0.15,) * 3, split(90, 0), None, split(30, 1), ("a", "b", "c"))


def network(num_classes):
    """Two branches that are added, so that channels are tied."""
    return Net(num_classes)


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.right = nn.Sequential(nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(self.drop(x.mean((2, 3))))
'''


class FakeClock:
    """Seconds that a test lets pass: of the wall, and of the CPU where it says so."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def sleep(self, seconds: float) -> None:
        self.wall += seconds

    def work(self, seconds: float) -> None:
        self.wall, self.cpu = self.wall + seconds, self.cpu + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock that phase meters read; it began at a moment long ago."""
    from earlybird.cost import meter

    clock = FakeClock()
    monkeypatch.setattr(meter, "read_clocks", lambda device: (clock.wall, clock.cpu))
    monkeypatch.setattr(meter, "time", SimpleNamespace(time=lambda: 1e9 + clock.wall))
    return clock


@pytest.fixture
def allocated() -> Any:
    """Counts, entered as a context, the `bytes` of all tensors made inside, other than on `meta`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocated(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                    self.bytes += tensor.nbytes
            return out

    return Allocated()


@pytest.fixture(scope="session")
def costs_counted_once() -> Iterator[None]:
    """The cost of a network is counted once, and not again in each of the hundreds of runs of the same one.

    Counting takes a third of a tiny run. What it may depend on is the key; tests of counting itself count.
    """
    from earlybird.cost import count_cost, count_cost_and_traffic

    for name in ("forecast.run", "methods.thinet", "methods.uniform", "runs.run"):
        import_module(f"earlybird.{name}")
    known: dict[Any, Any] = {}
    users = [module for name, module in sys.modules.items() if re.match(r"earlybird\.(forecast|methods|runs)\.", name)]
    with pytest.MonkeyPatch.context() as patch:
        for count in (count_cost, count_cost_and_traffic):
            for module in users:
                if vars(module).get(count.__name__) is count:
                    patch.setattr(module, count.__name__, _once(count, known))
        yield


def _once(count: Callable[..., Any], known: dict[Any, Any]) -> Callable[..., Any]:
    def counted(model: Any, shape: tuple[int, ...], precision: str = "fp32") -> Any:
        key = (count.__name__, _structure(model), tuple(shape), precision)
        if key not in known:
            known[key] = count(model, shape, precision)
        return known[key]

    return counted


def _structure(model: Any) -> tuple[Any, ...]:
    """Code, settings and tensor shapes of a network's modules: all but the numbers in its tensors."""
    modules = [(name, module.extra_repr(), _code(module), _plain(module)) for name, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return tuple(modules), tuple((name, tuple(t.shape), t.dtype, t.requires_grad) for name, t in tensors)


def _code(module: Any) -> tuple[Any, ...]:
    forward = type(module).forward.__code__
    path = forward.co_filename
    return type(module).__qualname__, forward, path if "site-packages" in path else Path(path).read_bytes()


def _plain(module: Any) -> tuple[Any, ...]:
    return tuple((k, v) for k, v in vars(module).items() if isinstance(v, int | float | str | tuple | None))


@pytest.fixture
def tiny(tmp_path: Path, costs_counted_once: None) -> Path:
    """A Python file with `data` and `network`."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_settings(tiny: Path) -> Callable[..., dict[str, Any]]:
    """Nested settings of a tiny run; `method`, `training` and `data` take what should differ."""

    def settings(method: str = "early_bird", training: Any = None, data: Any = None, **values: Any) -> dict[str, Any]:
        hyper = {"round_to": 1, "penalty": 1e-4, "min_draw_steps": 1} if method == "early_bird" else {}
        return {
            "model": {"name": f"{tiny}:network"},
            "data": {"name": f"{tiny}:data", "augment": "flip", **(data or {})},
            "method": {"name": method, **hyper, **values},
            "training": {"epochs": 12, "batch_size": 20, "lr": 0.05, "precision": "fp32", **(training or {})},
        }

    return settings


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Path, Path]]]:
    """A folder for finished runs; settings and source -> the folder of the run and the source that it names."""
    return tmp_path_factory.mktemp("finished"), {}


@pytest.fixture
def run_once(tiny: Path, finished_runs: Any) -> Callable[[dict[str, Any], Path], dict[str, Any]]:
    """`run`, or a copy of what it left when a test of this process asked for the same of the same source."""
    from earlybird.atomic import SEAL, sealed_json
    from earlybird.runs.record_file import file_digests
    from earlybird.runs.run import run
    from earlybird.settings.run import RunConfig

    root, known = finished_runs

    def once(settings: dict[str, Any], out: Path) -> dict[str, Any]:
        key = json.dumps([settings, tiny.read_text()], sort_keys=True).replace(str(tiny), tiny.name)
        if key not in known:
            run(RunConfig.from_dict(settings), out, quiet=True)
            known[key] = root / str(len(known)), tiny
            shutil.copytree(out, known[key][0])
        else:
            folder, source = known[key]
            shutil.copytree(folder, out)
            for path in (*out.glob("*.json"), *out.glob("*.yaml")):
                path.write_text(path.read_text().replace(str(source), str(tiny)))
            description = json.loads((out / "config.json").read_text())
            del description[SEAL]
            (out / "config.json").write_bytes(sealed_json(description))
            moved = json.loads((out / "record.json").read_text())
            (out / "record.json").write_text(json.dumps(moved | {"files": file_digests(out)}))
        record: dict[str, Any] = json.loads((out / "record.json").read_text())
        return record

    return once


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., BaseProcess]]:
    """Start a function in a process of its own, whose standard error goes to `child.err`.

    It is forked, so that it need not import torch again: as real to a signal as one that is started, and seconds
    cheaper. Where there is a GPU, which does not survive a fork, it is started. One thread, here too: bits depend on
    their number, and a fork has none of its parent's.
    """
    import torch

    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # where a started process finds this file
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
        process = context.Process(target=_alone, args=(tmp_path / "child.err", function, *arguments))
        process.start()
        return process

    yield start
    torch.set_num_threads(threads)


def _alone(said: Path, function: Callable[..., Any], *arguments: Any) -> None:
    import torch

    torch.set_num_threads(1)
    sys.stderr = open(said, "a")  # noqa: SIM115  # A traceback is written after this has ended.
    os.dup2(sys.stderr.fileno(), 2)
    sys.exit(function(*arguments))
