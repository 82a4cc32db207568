"""Gather + BatchNorm + ReLU over a stream in channels_last as Triton kernels, in training: a candidate for CUDA.

`bench_streams.py --device cuda` times it. It is no part of the library: its numbers have been checked in Triton's
interpreter, and that it compiles for sm_90 (`tests/slimming/test_stream_kernel.py`), but it has never run on a GPU.

Rows are the pixels of all images, x `[rows, width]`; `index` `[kept]` says which channels are read, `place` `[width]`
where each channel went, -1 for one that nobody reads. Sums are taken in float32. Against gather, norm and ReLU one by
one the gathered stream and the norm's output are never written: forward reads x twice, backward twice.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE, TILES, CHANNELS = 32, 16, 32  # rows of a tile, tiles of a program, channels of a program


@triton.jit
def moments(
    x, index, means, squares, rows, width, kept, TILE: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and sum of squared deviations of each channel over a program's rows: `[programs, kept]`."""
    k = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    at = tl.load(index + k, mask=k < kept, other=0)
    first = tl.program_id(0) * TILE * TILES
    count = tl.minimum(rows - first, TILE * TILES).to(tl.float32)
    total = tl.zeros([CHANNELS], tl.float32)
    for tile in range(TILES):
        r = first + tile * TILE + tl.arange(0, TILE)
        there = (r < rows)[:, None] & (k < kept)[None, :]
        total += tl.sum(tl.load(x + r[:, None] * width + at[None, :], mask=there, other=0).to(tl.float32), 0)
    mean = total / count
    square = tl.zeros([CHANNELS], tl.float32)
    for tile in range(TILES):  # The second pass finds the rows in the cache.
        r = first + tile * TILE + tl.arange(0, TILE)
        there = (r < rows)[:, None] & (k < kept)[None, :]
        value = tl.load(x + r[:, None] * width + at[None, :], mask=there, other=0).to(tl.float32)
        off = tl.where(there, value - mean[None, :], 0.0)
        square += tl.sum(off * off, 0)
    tl.store(means + tl.program_id(0) * kept + k, mean, mask=k < kept)
    tl.store(squares + tl.program_id(0) * kept + k, square, mask=k < kept)


@triton.jit
def normalise(
    x, index, mean, scale, shift, y, rows, width, kept, TILE: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr
):
    """y = relu((x - mean) * scale + shift), `[rows, kept]`."""
    k = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    at = tl.load(index + k, mask=k < kept, other=0)
    m, a, b = (
        tl.load(mean + k, mask=k < kept, other=0),
        tl.load(scale + k, mask=k < kept, other=0),
        tl.load(shift + k, mask=k < kept, other=0),
    )
    for tile in range(TILES):
        r = (tl.program_id(0) * TILES + tile) * TILE + tl.arange(0, TILE)
        there = (r < rows)[:, None] & (k < kept)[None, :]
        value = tl.load(x + r[:, None] * width + at[None, :], mask=there, other=0).to(tl.float32)
        out = tl.maximum((value - m[None, :]) * a[None, :] + b[None, :], 0.0)
        tl.store(y + r[:, None] * kept + k[None, :], out.to(y.dtype.element_ty), mask=there)


@triton.jit
def gradient_sums(
    x, index, mean, scale, shift, grad, sums, products, rows, width, kept,
    TILE: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums over a program's rows of g and g * (x - mean), g = the gradient behind the ReLU: `[programs, kept]`."""
    k = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    at = tl.load(index + k, mask=k < kept, other=0)
    m, a, b = (
        tl.load(mean + k, mask=k < kept, other=0),
        tl.load(scale + k, mask=k < kept, other=0),
        tl.load(shift + k, mask=k < kept, other=0),
    )
    total = tl.zeros([CHANNELS], tl.float32)
    product = tl.zeros([CHANNELS], tl.float32)
    for tile in range(TILES):
        r = (tl.program_id(0) * TILES + tile) * TILE + tl.arange(0, TILE)
        there = (r < rows)[:, None] & (k < kept)[None, :]
        off = tl.load(x + r[:, None] * width + at[None, :], mask=there, other=0).to(tl.float32) - m[None, :]
        g = tl.load(grad + r[:, None] * kept + k[None, :], mask=there, other=0).to(tl.float32)
        g = tl.where(off * a[None, :] + b[None, :] > 0, g, 0.0)
        total += tl.sum(g, 0)
        product += tl.sum(g * off, 0)
    tl.store(sums + tl.program_id(0) * kept + k, total, mask=k < kept)
    tl.store(products + tl.program_id(0) * kept + k, product, mask=k < kept)


@triton.jit
def gradient_of_stream(
    x, place, mean, scale, shift, level, slope, grad, out, rows, width, kept,
    TILE: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = scale * (g - level - slope * (x - mean)) where a channel is read, else 0: `[rows, width]`."""
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    k = tl.load(place + c, mask=c < width, other=-1)
    read = k >= 0
    m, a, b = (
        tl.load(mean + k, mask=read, other=0),
        tl.load(scale + k, mask=read, other=0),
        tl.load(shift + k, mask=read, other=0),
    )
    flat, tilt = tl.load(level + k, mask=read, other=0), tl.load(slope + k, mask=read, other=0)
    for tile in range(TILES):
        r = (tl.program_id(0) * TILES + tile) * TILE + tl.arange(0, TILE)
        there = (r < rows)[:, None] & (c < width)[None, :]
        off = tl.load(x + r[:, None] * width + c[None, :], mask=there & read[None, :], other=0).to(tl.float32)
        off = off - m[None, :]
        g = tl.load(grad + r[:, None] * kept + k[None, :], mask=there & read[None, :], other=0).to(tl.float32)
        g = tl.where(off * a[None, :] + b[None, :] > 0, g, 0.0)
        value = tl.where(read[None, :], a[None, :] * (g - flat[None, :] - tilt[None, :] * off), 0.0)
        tl.store(out + r[:, None] * width + c[None, :], value.to(out.dtype.element_ty), mask=there)


class GatherNormReLU(torch.autograd.Function):
    """`relu(batch_norm(x[:, index]))` with batch statistics; x `[n, c, h, w]` in channels_last.

    Returns:
        The output in channels_last, and the batch's mean and biased variance `[kept]` for the running ones.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, place: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, width, h, w = x.shape
        rows, kept = n * h * w, index.numel()
        programs = triton.cdiv(rows, TILE * TILES)
        grid = (programs, triton.cdiv(kept, CHANNELS))
        means, squares = (torch.empty(programs, kept, device=x.device) for _ in range(2))
        moments[grid](x, index, means, squares, rows, width, kept, TILE, TILES, CHANNELS)
        count = torch.full((programs, 1), float(TILE * TILES), device=x.device)
        count[-1] = rows - (programs - 1) * TILE * TILES
        mean = (means * count).sum(0) / rows
        variance = (squares.sum(0) + ((means - mean).square() * count).sum(0)) / rows
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        y = x.new_empty(n, h, w, kept).movedim(-1, 1)
        normalise[grid](x, index, mean, scale, bias, y, rows, width, kept, TILE, TILES, CHANNELS)
        ctx.save_for_backward(x, index, place, mean, inverse, scale, bias)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: object) -> tuple[Tensor | None, ...]:
        x, index, place, mean, inverse, scale, bias = ctx.saved_tensors
        (n, width, h, w), kept = x.shape, index.numel()
        rows = n * h * w
        programs = triton.cdiv(rows, TILE * TILES)
        grad = grad.contiguous(memory_format=torch.channels_last)
        sums, products = (torch.empty(programs, kept, device=x.device) for _ in range(2))
        grid = (programs, triton.cdiv(kept, CHANNELS))
        gradient_sums[grid](x, index, mean, scale, bias, grad, sums, products, rows, width, kept, TILE, TILES, CHANNELS)
        total, product = sums.sum(0), products.sum(0)
        level, slope = total / rows, product * inverse.square() / rows
        out = torch.empty_like(x)
        grid = (programs, triton.cdiv(width, CHANNELS))
        gradient_of_stream[grid](
            x, place, mean, scale, bias, level, slope, grad, out, rows, width, kept, TILE, TILES, CHANNELS
        )
        return out, None, None, product * inverse, total, None


def place_of(index: Tensor, width: int) -> Tensor:
    """`[width]`: where each channel of the stream went, -1 for one that is not read."""
    place = torch.full((width,), -1, dtype=torch.int64, device=index.device)
    return place.index_copy(0, index, torch.arange(index.numel(), device=index.device))
