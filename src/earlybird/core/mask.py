"""`ChannelMask`: the channels of each layer that stay, a value that is born checked and never changes.

At full width, so that masks of different epochs can be compared (You et al. 2020, Section 3.3); it knows no network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from earlybird.errors import MaskError, require_type


class BoolTensors(Mapping[str, Tensor]):
    """Immutable map from a name to a bool tensor, True = keep: the base of the masks of channels and of weights."""

    __slots__ = ("_keep",)

    _keep: dict[str, Tensor]
    # For messages: the mask and its key, and the shape of a value; for the check: its dimensions, None for any.
    _what: ClassVar[str]
    _shape: ClassVar[str]
    _dimensions: ClassVar[int | None]

    def __init__(self, keep: Mapping[str, Tensor]) -> None:
        require_type(self._what, keep, Mapping, MaskError, f"give name -> torch.bool tensor of {self._shape}")
        for name, flags in keep.items():
            is_tensor = isinstance(flags, Tensor)
            has_shape = is_tensor and flags.numel() > 0 and flags.dim() == (self._dimensions or flags.dim())
            if not has_shape or flags.dtype != torch.bool:
                what = f"{flags.dtype} {list(flags.shape)}" if is_tensor else type(flags).__name__
                raise MaskError(f"{self._what} {name!r} is {what}; give a torch.bool tensor of {self._shape}")
        self._keep = {name: flags.detach().to("cpu", copy=True) for name, flags in keep.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._keep[name].clone()  # A view would let a caller change the value.

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def kept_counts(self) -> dict[str, int]:
        """Channels, or weights, of each entry that stay."""
        return {name: int(flags.sum()) for name, flags in self._keep.items()}


class ChannelMask(BoolTensors):
    """Immutable map from a layer name to a bool tensor `[channels]`, True = keep.

    The key is the norm layer, or the producing conv or linear where no norm follows. Protected channels are always
    True. Order does not count: masks with the same layers and bits are equal.

    Raises:
        MaskError: a value is no one-dimensional bool tensor, or has no channel.

    Example:
        >>> mask = ChannelMask({"bn": torch.tensor([True, False])})
        >>> mask.kept_counts()
        {'bn': 1}
    """

    __slots__ = ()

    _what, _shape, _dimensions = "mask of layer", "shape [channels]", 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelMask):
            return NotImplemented
        return self._keep.keys() == other._keep.keys() and all(
            torch.equal(keep, other._keep[name]) for name, keep in self._keep.items()
        )

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        kept, width = sum(self.kept_counts().values()), sum(self.widths().values())
        return f"ChannelMask({len(self)} layers, {kept} of {width} channels kept)"

    def widths(self) -> dict[str, int]:
        """Channels of each layer before pruning."""
        return {name: keep.numel() for name, keep in self._keep.items()}

    def digest(self) -> str:
        """Hex sha256 of names and bits; independent of the order of the layers."""
        sha = hashlib.sha256()
        for name in sorted(self._keep):
            sha.update(f"{name}\0{self._keep[name].numel()}\0".encode())
            sha.update(self._keep[name].numpy().tobytes())
        return sha.hexdigest()

    def flat(self, order: Iterable[str] | None = None) -> Tensor:
        """The layers end to end, `[all channels]` bool, in the mask's own order or in the `order` of names given."""
        layers = [self._keep[name] for name in (self._keep if order is None else order)]
        return torch.cat(layers) if layers else torch.zeros(0, dtype=torch.bool)


def check_same_layers(a: ChannelMask, b: ChannelMask) -> None:
    """Raise `MaskError` unless both masks name the same layers with the same widths."""
    widths_a, widths_b = a.widths(), b.widths()
    for name in [*widths_a, *widths_b]:
        counts = widths_a.get(name), widths_b.get(name)
        left, right = ("absent" if count is None else f"{count} channels" for count in counts)
        if left != right:
            raise MaskError(f"masks differ at layer {name!r}: {left} against {right}; compare masks of one network")
