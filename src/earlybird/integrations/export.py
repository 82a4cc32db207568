"""Networks in exchange formats, ONNX and `torch.export`'s .pt2, each compared with its source before it is written.

ONNX needs the extra `export` (onnx, onnxscript, onnxruntime).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from earlybird.atomic import write_atomically
from earlybird.copying import copied
from earlybird.errors import ModelError, one_line, reason

# What two runtimes may differ by, relative to the largest output.
TOLERANCE = 1e-4


def export_onnx(model: nn.Module, example_input: Tensor, path: Path) -> float:
    """Write `model` in eval mode as ONNX, for any batch size; run it by ONNX Runtime and compare.

    The model takes one tensor and gives one; example_input is `[n, ...]`, n at least 2.

    Returns:
        The largest difference to the source, relative to its largest output.

    Raises:
        ModelError: a package is missing, the network cannot be exported, or what it became gives other numbers (it is
            then not written).
        OSError: the disk is full or refuses; an older file is intact.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        told = f"ONNX needs more packages ({reason(error)}); install them with pip install 'earlybird[export]'"
        raise ModelError(told) from error

    def made(source: nn.Module) -> bytes:
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(source, (example_input,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        assert program is not None
        data: bytes = program.model_proto.SerializeToString()
        return data

    def run(data: bytes, x: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    return _exported(model, example_input, path, made, run)


def export_pt2(model: nn.Module, example_input: Tensor, path: Path) -> float:
    """Write `model` in eval mode as a `torch.export` program, for any batch size; load it and compare.

    As `export_onnx`; `torch.export.load(path).module()` runs it anywhere without our code.
    """

    def made(source: nn.Module) -> bytes:
        batch = torch.export.Dim("batch")
        buffer = io.BytesIO()  # On a full disk torch's own writer would abort the process.
        torch.export.save(torch.export.export(source, (example_input,), dynamic_shapes=({0: batch},)), buffer)
        return buffer.getvalue()

    def run(data: bytes, x: Tensor) -> Tensor:
        result: Tensor = torch.export.load(io.BytesIO(data)).module()(x)
        return result

    return _exported(model, example_input, path, made, run)


def _exported(
    model: nn.Module,
    example_input: Tensor,
    path: Path,
    made: Callable[[nn.Module], bytes],
    run: Callable[[bytes, Tensor], Tensor],
) -> float:
    source = copied(model).cpu().eval()
    # Another batch size than the example's, so that a batch size written into the file shows.
    x = torch.randn(3, *example_input.shape[1:], generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # Both exporters warn about their own insides.
        try:
            data = made(source)
            actual, expected = run(data, x), source(x)
        except Exception as error:
            raise ModelError(f"{path} could not be written: {one_line(error)[:300]}") from error
    found = float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not found <= TOLERANCE:
        told = f"differs from its source by {found:.1e}, at most {TOLERANCE:g} is right; not kept"
        raise ModelError(f"{path.name} {told}")
    write_atomically(path, data)
    return found
