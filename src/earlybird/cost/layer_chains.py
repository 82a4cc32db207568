"""Chains of layers that run together (a convolution, its norm, its activation), found by a forward pass.

A chain begins with a conv or linear, or with a norm that reads something else than the layer before it (a residual
stream). It can be built anew at any width, with numbers that mean nothing: that is what is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.core import ChannelGroups
from earlybird.errors import ModelError, first_line
from earlybird.slimming.layers import LayerKind, kind_of
from earlybird.slimming.selection import GATHERING_NORMS, SCATTERING_NORMS

Autocast = Callable[[], AbstractContextManager[object]]

# Quarters of a side at which it is measured.
_SHARES = (0.25, 0.5, 0.75)
_HEADS = ("conv", "transposed_conv", "linear")
# Modules without parameters that pass channels on; others (a pixel shuffle) may not take any width.
_PASSING = tuple(f"torch.nn.modules.{name}" for name in ("activation", "dropout", "pooling"))


@dataclass(frozen=True)
class Side:
    """Channels that a layer reads or makes.

    Attributes:
        total: channels of the dense network.
        per_unit: block of `ChannelGroups.blocks` -> channels for each of its units.
        moving: channels of `total` that belong to some unit.
    """

    total: int
    per_unit: Mapping[int, float] = field(default_factory=dict)
    moving: int = 0

    @property
    def always(self) -> int:
        """Channels that no unit touches."""
        return self.total - self.moving

    def width(self, kept: Sequence[int] | np.ndarray) -> int:
        """Channels left, units kept of each block given."""
        return round(self.always + sum(per * float(kept[block]) for block, per in self.per_unit.items()))

    def step(self, round_to: int) -> int:
        """Channels of a multiple; of a flattened map each unit has several."""
        return round_to * max(1, round(min(self.per_unit.values(), default=1)))

    def measured_widths(self, round_to: int, *, also_next_to_all: bool = False) -> list[int]:
        """Up to five widths, ascending: one multiple, even multiples near each quarter, and all of what moves.

        also_next_to_all: and one multiple less than all, for what costs more as soon as a channel goes.
        """
        step = self.step(round_to)
        parts = {step, *(2 * step * max(1, round(self.moving * share / (2 * step))) for share in _SHARES)}
        if also_next_to_all:
            parts.add(self.moving - step if self.moving > step else self.moving - 1)
        return [*sorted(self.always + part for part in parts if 0 < part < self.moving), self.total]

    def odd_widths(self, round_to: int) -> list[int]:
        """Up to three more: odd multiples above each quarter, which may cost more than the even ones beside them."""
        step, known = self.step(round_to), self.measured_widths(round_to)
        parts = (2 * step * max(1, round(self.moving * share / (2 * step))) + step for share in _SHARES)
        return sorted({self.always + p for p in parts if p < self.moving and self.always + p not in known})

    def all_widths(self, round_to: int) -> list[int]:
        """Every multiple, and all of what moves."""
        return [
            *(self.always + part for part in range(self.step(round_to), self.moving, self.step(round_to))),
            self.total,
        ]


@dataclass(frozen=True, eq=False)
class LayerChain:
    """Layers that run one after another, and what comes in.

    Attributes:
        name: of the first layer.
        modules: the layers, as they are in a network that was cut.
        dense: the same of the dense network: a norm gathers only where something was cut.
        reads: channels that come in.
        makes: channels that go out of the first layer.
        made_per_read: channels made for each that is read, where no other number goes (depthwise, a norm); else None.
        shape: of the input, batch first.
        dim: of its channels.
        dtype: of the input.
        is_channels_last: layout of the input.
        needs_gradient: False of what reads the images.
        key: equal for chains that cost the same.
    """

    name: str
    modules: tuple[nn.Module, ...]
    dense: tuple[nn.Module, ...]
    reads: Side
    makes: Side
    made_per_read: int | None
    shape: torch.Size
    dim: int
    dtype: torch.dtype
    is_channels_last: bool
    needs_gradient: bool
    key: str

    @property
    def selects(self) -> bool:
        """True if a norm gathers or scatters once something was cut."""
        return any(type(cut) is not type(whole) for cut, whole in zip(self.modules, self.dense, strict=True))

    def widths(self, kept: Sequence[int] | np.ndarray) -> tuple[int, int]:
        """Channels read and made, units kept of each block given."""
        made = self.makes.width(kept)
        return (made // self.made_per_read if self.made_per_read else self.reads.width(kept)), made

    def input_shape(self, read: int) -> tuple[int, ...]:
        """Shape of the input with so many channels."""
        sizes = list(self.shape)
        sizes[self.dim] = read
        return tuple(sizes)

    def built(self, read: int, made: int) -> nn.Sequential:
        """The layers at these widths, in train mode."""
        is_whole = (read, made) == (self.reads.total, self.makes.total)
        first, *rest = self.dense if is_whole else self.modules
        layers = [_narrowed(first, read, made), *(_narrowed(module, made, made) for module in rest)]
        return nn.Sequential(*layers).train()


def find_chains(
    model: nn.Module, small: nn.Module, groups: ChannelGroups, images: Tensor, autocast: Autocast = nullcontext
) -> list[LayerChain]:
    """Chains of `model`, in the order in which they run on these images.

    Args:
        model: the dense network, in train mode and on the device of the images.
        small: the same cut by `groups`, which tells the norms that gather or scatter.
        groups: what may be cut.
        images: `[n, c, h, w]`.

    Raises:
        ModelError: the network does not run on these images.
    """
    recorder = _Recorder(dict(small.named_modules()), groups)
    with recorder.watching(model), torch.random.fork_rng(devices=[]), autocast():
        try:
            model(images)
        except RuntimeError as error:
            told = f"{type(model).__name__} does not run on images {list(images.shape)}: {first_line(error)}"
            raise ModelError(told) from error
    return [started.chain() for started in recorder.started]


@dataclass
class _Started:
    """A chain that may still grow."""

    name: str
    modules: list[nn.Module]
    dense: list[nn.Module]
    units: Tensor | None
    reads: Side
    makes: Side
    made_per_read: int | None
    x: Tensor
    dim: int
    output_dtype: torch.dtype

    def chain(self) -> LayerChain:
        x, dim = self.x, self.dim % self.x.dim()
        is_channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layers = [f"{type(cut).__name__} {whole!r}" for cut, whole in zip(self.modules, self.dense, strict=True)]
        sides = [(side.always, side.moving, sorted(side.per_unit.values())) for side in (self.reads, self.makes)]
        facts = [*layers, tuple(x.shape), x.dtype, self.output_dtype, is_channels_last, x.requires_grad, *sides]
        layers_of, key = (tuple(self.modules), tuple(self.dense)), "; ".join(map(str, facts))
        return LayerChain(
            self.name, *layers_of, self.reads, self.makes, self.made_per_read, x.shape, dim, x.dtype, is_channels_last,
            x.requires_grad, key,
        )  # fmt: skip


class _Recorder:
    """Follows outputs from layer to layer by identity."""

    def __init__(self, small: Mapping[str, nn.Module], groups: ChannelGroups) -> None:
        self.started: list[_Started] = []
        self._small, self._groups = small, groups
        self._ends: dict[int, _Started] = {}
        self._held: list[Tensor] = []  # An identity must not come back while we compare by it.
        self._block_of_unit = np.zeros(groups.num_units, dtype=np.int64)
        for number, block in enumerate(groups.blocks):
            self._block_of_unit[block] = number

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """See the calls of every module without children."""
        leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
        handles = [module.register_forward_hook(self._hook(name)) for name, module in leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                self._see(name, module, args[0], output)

        return see

    def _see(self, name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        kind, before = kind_of(module), self._ends.pop(id(x), None)
        if kind is None or kind.name == "prelu":
            if before is None or not (kind or _passes_channels_on(module)):
                return
        elif kind.name in _HEADS or before is None or not self._has_units(before, name, x):
            before = None
        if before is None:
            assert kind is not None
            before = self._start(name, module, kind, x, output)
            self.started.append(before)
        else:
            before.modules.append(self._small[name])
            before.dense.append(module)
        self._ends[id(output)] = before
        self._held += [x, output]

    def _has_units(self, before: _Started, name: str, x: Tensor) -> bool:
        """True of a norm over the very channels that the chain so far makes."""
        units = self._groups.units_of_layer.get(name)
        if units is None or before.units is None:
            return units is before.units and x.shape[1] == before.makes.total
        return torch.equal(units, before.units)

    def _start(self, name: str, module: nn.Module, kind: LayerKind, x: Tensor, output: Tensor) -> _Started:
        dim = kind.channel_dim
        units = self._groups.units_of_layer.get(name)
        made = self._side(units, int(getattr(module, kind.outputs)))
        read = self._side(self._groups.reader_unit_of.get(name), x.shape[dim])
        made_per_read = None
        if kind.name in _HEADS:
            if 1 < getattr(module, "groups", 1) == x.shape[dim]:  # depthwise
                made_per_read = made.total // x.shape[dim]
        elif isinstance(self._small[name], GATHERING_NORMS):
            read = Side(x.shape[dim])
        else:
            made_per_read = 1
        return _Started(
            name, [self._small[name]], [module], units, read, made, made_per_read, x.detach().requires_grad_(
                x.requires_grad), dim, output.dtype,
        )  # fmt: skip

    def _side(self, units: Tensor | None, total: int) -> Side:
        if units is None or units.numel() != total:
            return Side(total)
        blocks = self._block_of_unit[units[units >= 0].numpy()]
        channels = np.bincount(blocks, minlength=len(self._groups.blocks))
        per_unit = {int(b): float(channels[b] / self._groups.blocks[b].size) for b in np.flatnonzero(channels)}
        return Side(total, per_unit, int(channels.sum()))


def _passes_channels_on(module: nn.Module) -> bool:
    return type(module).__module__ in _PASSING and not any(True for _ in module.parameters())


def _narrowed(module: nn.Module, read: int, made: int) -> nn.Module:
    """A copy that reads and makes so many channels, with new numbers where its size changes."""
    layer, kind = copied(module), kind_of(module)
    for other in (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks):
        other.clear()  # Of the user: they would count our calls as theirs.
    if kind is None or (kind.name == "prelu" and getattr(layer, "num_parameters", 1) == 1):
        return layer
    sizes = {kind.outputs: made} | ({kind.inputs: read} if kind.inputs else {})
    if 1 < getattr(layer, "groups", 1) == getattr(layer, "in_channels", 0):  # depthwise
        sizes["groups"] = read
    for name, size in sizes.items():
        setattr(layer, name, size)
    for name in kind.tensors:
        if isinstance(tensor := getattr(layer, name, None), Tensor):
            _replace_tensor_(layer, kind, name, tensor, (read, made))
    return layer


def _replace_tensor_(layer: nn.Module, kind: LayerKind, name: str, tensor: Tensor, widths: tuple[int, int]) -> None:
    read, made = widths
    if name == "index":
        wide = int(getattr(layer, "width", 0)) if isinstance(layer, SCATTERING_NORMS) else read
        layer._buffers[name] = torch.linspace(0, wide - 1, made).round().long().to(tensor.device)
        return
    sizes = kind.weight_shape(layer) if name == "weight" else (made,)
    shape = (*sizes, *tensor.shape[len(sizes) :])
    if shape == tensor.shape:
        return
    values = torch.full(shape, 1.0, dtype=tensor.dtype, device=tensor.device)
    if len(shape) > 1:
        values.normal_(std=0.05, generator=torch.Generator(tensor.device).manual_seed(0))
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            values = values.contiguous(memory_format=torch.channels_last)
    if name in layer._parameters:
        layer._parameters[name] = nn.Parameter(values, requires_grad=tensor.requires_grad)
    else:
        layer._buffers[name] = values
