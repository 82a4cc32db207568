"""The Triton kernels of `benchmarks/stream_kernel.py`: their numbers in Triton's interpreter, and that they compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

NUMBERS = """
import torch
from torch.nn import functional as F
from stream_kernel import GatherNormReLU, place_of

torch.manual_seed(0)
# Several programs, a last tile that is not full; one channel; bf16.
for n, c, side, kept, dtype, bound in [(3, 40, 14, 35, torch.float32, 1e-5), (2, 5, 4, 1, torch.float32, 1e-5),
                                       (3, 40, 14, 17, torch.bfloat16, 1e-2)]:
    x = (2 * torch.randn(n, c, side, side) + 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    index, weight, bias = torch.randperm(c)[:kept], torch.randn(kept), torch.randn(kept)
    weight.requires_grad_(), bias.requires_grad_()
    y, mean, variance = GatherNormReLU.apply(x, index, place_of(index, c), weight, bias, 1e-5)
    expected = F.relu(F.batch_norm(x.double()[:, index], None, None, weight.double(), bias.double(), True, 0.1, 1e-5))
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    grad = torch.randn(y.shape).to(dtype)
    pairs = [(y, expected), (mean, x.double()[:, index].mean((0, 2, 3)))]
    pairs.append((variance, x.double()[:, index].var((0, 2, 3), unbiased=False)))
    wanted = torch.autograd.grad(expected, (x, weight, bias), grad.double())
    pairs += zip(torch.autograd.grad(y, (x, weight, bias), grad), wanted)
    for actual, right in pairs:
        error = (actual.double() - right.double()).abs().max() / right.double().abs().max()
        assert error <= bound, (dtype, kept, error)
"""

NETWORK = """
import torch
import bench_streams
from earlybird.models import build_model

torch.manual_seed(0)
x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
dense = build_model("preresnet20", num_classes=4)
small = bench_streams.networks(dense, 0.5, 8, x)["gather"].to(memory_format=torch.channels_last).train()
fused = bench_streams.with_kernels(small, dense).train()
kinds = [type(m).__name__ for m in fused.modules()]
assert kinds.count("KernelNorm") == kinds.count("KernelBlock") == 5, kinds
assert torch.allclose(fused(x), small(x), rtol=1e-4, atol=1e-5)
for name in ("running_mean", "running_var"):
    assert torch.allclose(getattr(fused.layer2[1].bn1, name), getattr(small.layer2[1].bn1, name), rtol=1e-4, atol=1e-6)
"""

COMPILES = """
import stream_kernel as kernels
import triton
from triton.backends.compiler import GPUTarget

TYPES = dict(x="*bf16", grad="*bf16", y="*bf16", out="*bf16", index="*i64", place="*i64")
TYPES |= dict.fromkeys(("rows", "width", "kept"), "i32") | dict.fromkeys(("TILE", "TILES", "CHANNELS"), "constexpr")
for kernel in (kernels.moments, kernels.normalise, kernels.gradient_sums, kernels.gradient_of_stream):
    signature = {name: TYPES.get(name, "*fp32") for name in kernel.arg_names}
    sizes = {name: getattr(kernels, name) for name in signature if signature[name] == "constexpr"}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=sizes)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "interpret"), [(NUMBERS, "1"), (NETWORK, "1"), (COMPILES, "0")], ids=["numbers", "network", "compiles"]
)
def test_the_kernels_are_gather_norm_and_relu(code, interpret, tmp_path):
    """In a process of its own: Triton decides on import whether it interprets."""
    pytest.importorskip("triton")
    paths = os.pathsep.join([str(BENCHMARKS), *filter(None, sys.path)])
    own = {"TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
