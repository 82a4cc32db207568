"""Channel selection: a BatchNorm that first gathers the channels it keeps.

A BatchNorm that reads a residual stream cannot narrow the stream, which other layers read at full width. It gathers its
own channels instead and hands fewer to the next layer (Liu et al. 2017, pre-activation networks). `slim` puts these
classes in place of such a BatchNorm, and only where channels are really dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Norm = nn.modules.batchnorm._BatchNorm


def gather_channels(x: Tensor, index: Tensor) -> Tensor:
    """Channels `index` of `x` `[n, c, ...]`, in the memory format of `x` (a plain gather would return contiguous)."""
    if x.dim() in (4, 5) and x.stride(1) == 1:
        return x.movedim(1, -1).index_select(-1, index).movedim(-1, 1)
    return x.index_select(1, index)


class SelectBatchNorm1d(nn.BatchNorm1d):
    """`BatchNorm1d` over `x[:, index]`; see `SelectBatchNorm2d`."""

    index: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c]` or `[n, c, l]` -> the same with `num_features` channels."""
        return super().forward(gather_channels(x, self.index))


class SelectBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` over `x[:, index]`.

    Attributes:
        index: int64 buffer `[num_features]`, the input channel that each feature reads. It is saved with the weights.

    Example:
        >>> norm = SelectBatchNorm2d(2)
        >>> _ = norm.index.copy_(torch.tensor([0, 3]))
        >>> norm(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 2, 5, 5])
    """

    index: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c, h, w]` -> `[n, num_features, h, w]`."""
        return super().forward(gather_channels(x, self.index))


class SelectBatchNorm3d(nn.BatchNorm3d):
    """`BatchNorm3d` over `x[:, index]`; see `SelectBatchNorm2d`."""

    index: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c, d, h, w]` -> `[n, num_features, d, h, w]`."""
        return super().forward(gather_channels(x, self.index))


class SelectSyncBatchNorm(nn.SyncBatchNorm):
    """`SyncBatchNorm` over `x[:, index]`; see `SelectBatchNorm2d`."""

    index: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c, ...]` -> the same with `num_features` channels."""
        return super().forward(gather_channels(x, self.index))


SELECTING = {
    nn.BatchNorm1d: SelectBatchNorm1d,
    nn.BatchNorm2d: SelectBatchNorm2d,
    nn.BatchNorm3d: SelectBatchNorm3d,
    nn.SyncBatchNorm: SelectSyncBatchNorm,
}

SELECT_NORMS = (SelectBatchNorm1d, SelectBatchNorm2d, SelectBatchNorm3d, SelectSyncBatchNorm)


def selecting_norm(norm: Norm, index: Tensor) -> Norm:
    """A selecting norm with the very parameters and buffers of `norm` (already narrowed) that reads `index`."""
    kind = SELECTING[type(norm)]
    select = kind(norm.num_features, norm.eps, norm.momentum)
    select.affine, select.track_running_stats = norm.affine, norm.track_running_stats
    if isinstance(norm, nn.SyncBatchNorm) and isinstance(select, nn.SyncBatchNorm):
        select.process_group = norm.process_group
    for name, parameter in norm._parameters.items():
        select._parameters[name] = parameter
    for name, buffer in norm._buffers.items():
        select._buffers[name] = buffer
    select.index = index.to(norm.weight.device)
    return select.train(norm.training)
