"""Channel selection: BatchNorms that read from or write to a residual stream which keeps its width.

A BatchNorm on a stream cannot narrow it, since other layers use it at full width. A *gathering* one reads only the
channels it keeps (Liu et al. 2017, pre-activation networks); a *scattering* one writes its channels to their places in
zeros, which an add brings to the stream. `slim` puts them in place of BatchNorms that really drop channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = nn.modules.batchnorm._BatchNorm

# Up to this width a CPU is faster at a product with ones and zeros, which is exact too (benchmarks/bench_gather.py).
_NARROW = 64


def gather_channels(x: Tensor, index: Tensor) -> Tensor:
    """Channels `index` of `x` `[n, c, ...]`, in the memory format of `x` (a plain gather would return contiguous)."""
    if x.dim() not in (4, 5) or x.stride(1) != 1:
        return x.index_select(1, index)
    rows = x.movedim(1, -1)
    if x.device.type != "cpu":
        return rows.index_select(-1, index).movedim(-1, 1)
    # On a CPU `index_select` takes up to nine times as long in rows (benchmarks/bench_gather.py).
    return (_take_bf16(rows, index) if x.dtype == torch.bfloat16 else _take(rows, index)).movedim(-1, 1)


def scatter_channels(x: Tensor, index: Tensor, width: int) -> Tensor:
    """`[n, width, ...]`: zeros, with the channels of `x` `[n, c, ...]` at `index`, in the memory format of `x`."""
    if x.dim() not in (4, 5) or x.stride(1) != 1:
        return x.new_zeros(x.shape[0], width, *x.shape[2:]).index_copy(1, index, x)
    rows = x.movedim(1, -1)
    if x.device.type != "cpu":
        return rows.new_zeros(*rows.shape[:-1], width).index_copy(-1, index, rows).movedim(-1, 1)
    put = _put_bf16 if x.dtype == torch.bfloat16 else _put
    return put(rows, index, width).movedim(-1, 1)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """`[..., k]` of `[..., c]`."""
    return rows.gather(-1, index.expand(*rows.shape[:-1], -1))


def _put(rows: Tensor, index: Tensor, width: int) -> Tensor:
    """`[..., width]` of `[..., k]`, the inverse: zeros where nothing was taken."""
    return rows.new_zeros(*rows.shape[:-1], width).scatter(-1, index.expand_as(rows), rows)


def _take_bf16(rows: Tensor, index: Tensor) -> Tensor:
    width = rows.shape[-1]
    narrow = width <= _NARROW
    taken: Tensor = torch.matmul(rows, _ones(index, width).t()) if narrow else _TakeBits.apply(rows, index)
    return taken


def _put_bf16(rows: Tensor, index: Tensor, width: int) -> Tensor:
    put: Tensor = torch.matmul(rows, _ones(index, width)) if width <= _NARROW else _PutBits.apply(rows, index, width)
    return put


def _ones(index: Tensor, width: int) -> Tensor:
    """`[k, width]`: one at each row's channel."""
    return functional.one_hot(index, width).bfloat16()


class _TakeBits(torch.autograd.Function):
    """`_take` of bf16 as 16-bit integers, which a CPU moves in half the time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.width = index, rows.shape[-1]
        return _take(rows.view(torch.int16), index).view(rows.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _PutBits.apply(grad, ctx.index, ctx.width), None


class _PutBits(torch.autograd.Function):
    """`_put` of bf16 as 16-bit integers."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, width: int) -> Tensor:
        ctx.index = index
        return _put(rows.view(torch.int16), index, width).view(rows.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _TakeBits.apply(grad, ctx.index), None, None


class GatheringNorm(Norm):
    """Shared part of gathering norms, mixed into each of torch's classes below.

    Attributes:
        index: int64 buffer `[num_features]`, the input channel that each feature reads. It is saved with the weights.
    """

    index: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c, ...]` -> the same with `num_features` channels."""
        return super().forward(gather_channels(x, self.index))


class ScatteringNorm(Norm):
    """Shared part of scattering norms, mixed into each of torch's classes below.

    Attributes:
        index: int64 buffer `[num_features]`, the output channel that each feature writes. It is saved with the weights.
        width: number of output channels.
    """

    index: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, width: int = 0) -> None:
        super().__init__(num_features, eps, momentum)
        self.width = width or num_features
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, num_features, ...]` -> the same with `width` channels."""
        return scatter_channels(super().forward(x), self.index, self.width)


class SelectBatchNorm1d(GatheringNorm, nn.BatchNorm1d):
    """`BatchNorm1d` over `x[:, index]`."""


class SelectBatchNorm2d(GatheringNorm, nn.BatchNorm2d):
    """`BatchNorm2d` over `x[:, index]`.

    Example:
        >>> norm = SelectBatchNorm2d(2)
        >>> _ = norm.index.copy_(torch.tensor([0, 3]))
        >>> norm(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 2, 5, 5])
    """


class SelectBatchNorm3d(GatheringNorm, nn.BatchNorm3d):
    """`BatchNorm3d` over `x[:, index]`."""


class SelectSyncBatchNorm(GatheringNorm, nn.SyncBatchNorm):
    """`SyncBatchNorm` over `x[:, index]`."""


class ScatterBatchNorm1d(ScatteringNorm, nn.BatchNorm1d):
    """`BatchNorm1d` that writes its channels to the places `index` of `width` channels, the others zero."""


class ScatterBatchNorm2d(ScatteringNorm, nn.BatchNorm2d):
    """`BatchNorm2d` that writes its channels to the places `index` of `width` channels, the others zero.

    Example:
        >>> norm = ScatterBatchNorm2d(2, width=4)
        >>> norm(torch.zeros(1, 2, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """


class ScatterBatchNorm3d(ScatteringNorm, nn.BatchNorm3d):
    """`BatchNorm3d` that writes its channels to the places `index` of `width` channels, the others zero."""


class ScatterSyncBatchNorm(ScatteringNorm, nn.SyncBatchNorm):
    """`SyncBatchNorm` that writes its channels to the places `index` of `width` channels, the others zero."""


GATHERING_NORMS = (SelectBatchNorm1d, SelectBatchNorm2d, SelectBatchNorm3d, SelectSyncBatchNorm)
SCATTERING_NORMS = (ScatterBatchNorm1d, ScatterBatchNorm2d, ScatterBatchNorm3d, ScatterSyncBatchNorm)
SELECTING_NORMS = (*GATHERING_NORMS, *SCATTERING_NORMS)

_NORMS: tuple[type[Norm], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
GATHERING = dict(zip(_NORMS, GATHERING_NORMS, strict=True))
SCATTERING = dict(zip(_NORMS, SCATTERING_NORMS, strict=True))


def let_gather_(norm: Norm, index: Tensor) -> Norm:
    """Turn a norm (already narrowed) into one that reads `index`; it stays the object that it is, whoever holds it."""
    norm.__class__ = GATHERING[type(norm)]
    norm.register_buffer("index", index.to(norm.weight.device))
    return norm


def let_scatter_(norm: Norm, index: Tensor, width: int) -> Norm:
    """Turn a norm (already narrowed) into one that writes to the places `index` of `width` channels."""
    norm.__class__ = SCATTERING[type(norm)]
    norm.width = width  # type: ignore[assignment]
    norm.register_buffer("index", index.to(norm.weight.device))
    return norm
