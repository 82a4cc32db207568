"""Contributions of channels to what the next layer computes: sampling, greedy choice, least squares (ThiNet)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.copying import copied


@torch.no_grad()
def contributions(
    model: nn.Module,
    reader: str,
    place_of_input: Tensor,
    batches: Iterable[tuple[Tensor, Tensor]],
    locations: int,
    rng: torch.Generator,
) -> Tensor:
    """Contribution of each unit to sampled outputs of the reader: float64 `[samples, units]`, on the CPU.

    A row is one (image, output channel, position); its sum is that output without the bias (Luo et al. 2017, eq. 2-4).
    The network runs in eval mode and is left as found.

    Args:
        reader: path of a `Conv2d` without groups, or of a `Linear`.
        place_of_input: int64 `[in channels]`, the unit (0-based) of each input of the reader, or -1 for inputs that
            stay, which are left out of the rows.
        batches: images float32 `[b, c, h, w]` and labels.
        locations: pairs of output channel and position to sample in each image.
    """
    model = copied(model).eval()
    module = model.get_submodule(reader)
    sample = _sampled_conv if isinstance(module, nn.Conv2d) else _sampled_linear
    rows, reads_unit = list[Tensor](), place_of_input >= 0

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        parts = sample(module, inputs[0].float(), locations, rng)
        total = parts.new_zeros(len(parts), int(place_of_input.max()) + 1)
        rows.append(total.index_add_(1, place_of_input[reads_unit], parts[:, reads_unit]))

    module.register_forward_pre_hook(look)
    for x, _ in batches:
        model(x)
    return torch.cat(rows)


def _sampled_conv(module: nn.Module, x: Tensor, locations: int, rng: torch.Generator) -> Tensor:
    """Float64 `[b * locations, in channels]`: each input channel's part of the sampled outputs."""
    assert isinstance(module, nn.Conv2d)
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode)
    height, width = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    count = len(x) * locations
    image = torch.arange(len(x)).repeat_interleave(locations)
    limits = (module.out_channels, height, width)
    channel, row, column = (torch.randint(0, limit, (count,), generator=rng) for limit in limits)
    rows = (row * sh)[:, None] + dh * torch.arange(kh)
    columns = (column * sw)[:, None] + dw * torch.arange(kw)
    # Advanced indices on both sides of a slice: the channels come last, [count, kh, kw, c].
    patches = x.cpu()[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    weight = module.weight.detach().cpu()[channel]
    return torch.einsum("nhwc,nchw->nc", patches.double(), weight.double())


def _sampled_linear(module: nn.Module, x: Tensor, locations: int, rng: torch.Generator) -> Tensor:
    """The same for a linear layer, whose positions are whatever lies between the batch and the features."""
    assert isinstance(module, nn.Linear)
    features = x.cpu().reshape(len(x), -1, x.shape[-1])
    image = torch.arange(len(x)).repeat_interleave(locations)
    position = torch.randint(0, features.shape[1], (len(image),), generator=rng)
    output = torch.randint(0, module.out_features, (len(image),), generator=rng)
    return features[image, position].double() * module.weight.detach().cpu()[output].double()


def removed_greedily(
    parts: Tensor, count: int, layers_of: Sequence[tuple[int, ...]] = (), spare: Sequence[int] | np.ndarray = ()
) -> Tensor:
    """The units to remove, bool `[units]`: one after another the one that keeps the sum of squares smallest.

    Minimises sum over samples of (sum over removed units of their parts)^2, greedily (Luo et al. 2017, Algorithm 1). Of
    equal sums the first unit goes. Fewer go where the floors of their layers leave fewer.

    Args:
        parts: float64 `[samples, units]`.
        count: how many go, at most `units`.
        layers_of: for each unit the layers that lose a channel with it; empty for no floors.
        spare: how many channels each layer can lose.
    """
    left = list(spare)
    layers = layers_of or [()] * parts.shape[1]
    gram = parts.T @ parts
    own, with_removed = gram.diagonal(), torch.zeros(len(gram), dtype=gram.dtype)
    removed = torch.zeros(len(gram), dtype=torch.bool)
    for _ in range(count):
        held = torch.tensor([any(left[layer] < its.count(layer) for layer in its) for its in layers])
        if bool((removed | held).all()):
            break
        # |r + x|^2 = |r|^2 + 2 r.x + |x|^2, and |r|^2 is the same for all.
        growth = (2 * with_removed + own).masked_fill(removed | held, torch.inf)
        chosen = int(growth.argmin())
        removed[chosen] = True
        for layer in layers[chosen]:
            left[layer] -= 1
        with_removed = with_removed + gram[chosen]
    return removed


def least_squares_weights(parts: Tensor, keep: Tensor) -> Tensor:
    """Factors of the kept units, float64 `[kept]`, by which they come nearest to the sum of all units.

    The solution of least norm where several are equally near (fewer samples than units, a unit that is always zero).

    Args:
        parts: float64 `[samples, units]`.
        keep: bool `[units]`.
    """
    target = parts.sum(dim=1, keepdim=True)
    solution: Tensor = torch.linalg.lstsq(parts[:, keep], target, driver="gelsd").solution
    return solution[:, 0]
