"""Seconds of chains of layers: forward, backward and optimizer of each by itself, at the widths that are asked for.

CPU seconds on a CPU, which another process does not lengthen by waiting; wall seconds of a device that is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.core import ChannelGroups, ChannelMask
from earlybird.core.allocation import kept_of_blocks
from earlybird.cost.layer_chains import Autocast, LayerChain, find_chains
from earlybird.cost.meter import read_clocks
from earlybird.slimming import slim

Timer = Callable[[Callable[[], object]], float]
Widths = tuple[int, int]

# Of one reading: shorter ones say more of the clock than of the layer.
_LEAST_SECONDS = 3e-3
_MOST_REPEATS = 100
_ROUNDS = 5
_ROUNDS_TO_SHOW = 3
# A width is slow where the next multiple costs less than this share of it.
_SLOW = 0.95


def work_seconds(device: torch.device) -> Timer:
    """Clock of a piece of work: CPU seconds of all threads on a CPU, wall seconds until a GPU is done."""
    clock = 0 if device.type == "cuda" else 1

    def seconds(work: Callable[[], object]) -> float:
        start = read_clocks(device)
        work()
        return read_clocks(device)[clock] - start[clock]

    return seconds


def interleaved_seconds(works: Mapping[Any, Callable[[], object]], timer: Timer, rounds: int = _ROUNDS) -> list[float]:
    """Least seconds of each, in turns, so that what else the machine does falls on all; the first call warms up."""
    repeats = []
    for work in works.values():
        work()
        repeats.append(min(_MOST_REPEATS, max(1, math.ceil(_LEAST_SECONDS / max(1e-9, timer(work))))))
    readings: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for place, work in enumerate(works.values()):
            count = repeats[place]
            readings[place].append(timer(lambda work=work, count=count: [work() for _ in range(count)]) / count)  # type: ignore[misc]
    return [min(values) for values in readings]  # What disturbs only adds.


def chain_seconds(
    chain: LayerChain,
    widths: Sequence[Widths],
    device: torch.device,
    timer: Timer,
    autocast: Autocast = nullcontext,
    rounds: int = _ROUNDS,
) -> list[float]:
    """Seconds of a chain's part of a training step at each pair of widths (read, made)."""
    works = {pair: _Work(chain, *pair, device, autocast) for pair in widths}
    seconds = dict(zip(works, interleaved_seconds(works, timer, rounds), strict=True))
    return [seconds[pair] for pair in widths]


class _Work:
    """Forward, backward and SGD step of a chain at one pair of widths, on numbers that mean nothing."""

    def __init__(self, chain: LayerChain, read: int, made: int, device: torch.device, autocast: Autocast) -> None:
        self.net = chain.built(read, made).to(device)
        self.autocast = autocast
        x = _numbers(chain.input_shape(read), chain.dtype, device)
        if chain.is_channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        self.x = x.requires_grad_(chain.needs_gradient)
        self.gradient: Tensor | None = None
        parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        # As the run's: momentum and decay.
        self.optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4) if parameters else None

    def __call__(self) -> None:
        with self.autocast():
            y = self.net(self.x)
        if self.gradient is None:
            self.gradient = torch.empty_like(y).copy_(_numbers(tuple(y.shape), y.dtype, y.device))
        if not y.requires_grad:
            return
        y.backward(self.gradient)
        self.x.grad = None
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def _numbers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values of both signs in the range of normed activations, cheap to make."""
    count = math.prod(shape)
    tile = torch.linspace(-1.0, 1.0, 1009, dtype=torch.float32, device=device)
    return tile.repeat(count // 1009 + 1)[:count].view(shape).to(dtype)


@dataclass(frozen=True)
class LayerSeconds:
    """Seconds of a layer with its norm and activation, dense and cut.

    Attributes:
        name: of the layer.
        dense_widths: channels read and made.
        slim_widths: the same after the cut.
        dense: seconds of its part of a training step.
        slim: the same after the cut.
        rounded: the same at the next multiples of `round_to`; None where the cut has these already.
    """

    name: str
    dense_widths: Widths
    slim_widths: Widths
    dense: float
    slim: float
    rounded: float | None

    @property
    def is_slow(self) -> bool:
        """True if more channels, at the next multiples, would cost less."""
        return self.rounded is not None and self.rounded < _SLOW * self.slim

    def facts(self) -> dict[str, Any]:
        """Its attributes and `is_slow`, as plain values."""
        return asdict(self) | {"is_slow": self.is_slow}


def layer_seconds(
    model: nn.Module,
    mask: ChannelMask,
    groups: ChannelGroups,
    images: Tensor,
    *,
    round_to: int = 8,
    autocast: Autocast = nullcontext,
) -> list[LayerSeconds]:
    """Measured seconds of each layer of a network, dense and cut by a mask; equal layers are measured once.

    Args:
        model: the dense network; it is left as it is.
        mask: the cut.
        groups: what the mask was drawn with.
        images: a batch as in training, `[n, c, h, w]`, on the device and in the layout of the run.
        round_to: multiples in which widths are fast.
        autocast: the run's precision.

    Raises:
        SlimError, MaskError, ModelError: the network cannot be cut, or does not run on these images.
    """
    timer = work_seconds(images.device)
    device, kept, whole = images.device, kept_of_blocks(mask, groups), [block.size for block in groups.blocks]
    dense = placed(model, images)
    chains = find_chains(dense, slim(dense, mask, images[:2], groups, check=False), groups, images, autocast)
    asked: dict[str, dict[Widths, float]] = {}
    found = []
    for chain in chains:
        widths = [chain.widths(whole), chain.widths(kept), _rounded(chain, kept, whole, round_to)]
        if chain.key not in asked:
            same = [c for c in chains if c.key == chain.key]
            pairs = [
                pair for c in same for pair in (c.widths(whole), c.widths(kept), _rounded(c, kept, whole, round_to))
            ]
            distinct = list(dict.fromkeys(pairs))
            seconds = chain_seconds(chain, distinct, device, timer, autocast, _ROUNDS_TO_SHOW)
            asked[chain.key] = dict(zip(distinct, seconds, strict=True))
        took = [asked[chain.key][pair] for pair in widths]
        rounded = took[2] if widths[2] != widths[1] else None
        found.append(LayerSeconds(chain.name, widths[0], widths[1], took[0], took[1], rounded))
    return found


def _rounded(chain: LayerChain, kept: Sequence[int], whole: Sequence[int], round_to: int) -> Widths:
    """Widths with the units kept of each block at the next multiple, or whole."""
    up = [min(size, -(-count // round_to) * round_to) for count, size in zip(kept, whole, strict=True)]
    return chain.widths(up)


def placed(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy in train mode, on the device and in the layout of the images."""
    is_channels_last = images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_channels_last else torch.preserve_format
    return copied(model).to(images.device, memory_format=layout).train()  # type: ignore[call-overload, no-any-return]
