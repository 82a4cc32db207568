"""Networks in exchange formats, ONNX and `torch.export`'s .pt2, each read back and compared with its source.

ONNX needs the extra `export` (onnx, onnxscript, onnxruntime).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

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
        ModelError: a package is missing, the network cannot be exported, or the file gives other numbers (it is then
            removed).
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        told = f"ONNX needs more packages ({reason(error)}); install them with pip install 'earlybird[export]'"
        raise ModelError(told) from error

    def write(source: nn.Module, temporary: Path) -> None:
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(source, (example_input,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        assert program is not None
        program.save(str(temporary), external_data=False)

    def run(temporary: Path, x: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    return _exported(model, example_input, path, write, run)


def export_pt2(model: nn.Module, example_input: Tensor, path: Path) -> float:
    """Write `model` in eval mode as a `torch.export` program, for any batch size; load it and compare.

    As `export_onnx`; `torch.export.load(path).module()` runs it anywhere without our code.
    """

    def write(source: nn.Module, temporary: Path) -> None:
        batch = torch.export.Dim("batch")
        buffer = io.BytesIO()  # On a full disk torch's own writer would abort the process.
        torch.export.save(torch.export.export(source, (example_input,), dynamic_shapes=({0: batch},)), buffer)
        temporary.write_bytes(buffer.getvalue())

    def run(temporary: Path, x: Tensor) -> Tensor:
        result: Tensor = torch.export.load(str(temporary)).module()(x)
        return result

    return _exported(model, example_input, path, write, run)


def _exported(
    model: nn.Module,
    example_input: Tensor,
    path: Path,
    write: Callable[[nn.Module, Path], None],
    run: Callable[[Path, Tensor], Tensor],
) -> float:
    source = copied(model).cpu().eval()
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    # Another batch size than the example's, so that a batch size written into the file shows.
    x = torch.randn(3, *example_input.shape[1:], generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # Both exporters warn about their own insides.
            try:
                write(source, temporary)
                actual, expected = run(temporary, x), source(x)
            except Exception as error:
                raise ModelError(f"{path} could not be written: {one_line(error)[:300]}") from error
        found = float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not found <= TOLERANCE:
            told = f"differs from its source by {found:.1e}, at most {TOLERANCE:g} is right; not kept"
            raise ModelError(f"{path.name} {told}")
        temporary.replace(path)
        return found
    finally:
        temporary.unlink(missing_ok=True)
