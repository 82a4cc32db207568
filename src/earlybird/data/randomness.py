"""Order and augmentation draws as pure functions of (seed, epoch, sample index).

A counter-based hash (splitmix64: Steele, Lea, Flood 2014) replaces a generator with a state: the draw for a sample
never depends on which samples came before it. So batches are the same for any batch size, number of workers, starting
step, device and state of the global generators.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# One stream per purpose, so that the order says nothing about the crops.
_ORDER, _CROP_Y, _CROP_X, _FLIP, _SAMPLE, _PICK = range(1, 7)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble each 64-bit counter; uint64 in, uint64 out, all values equally likely.

    splitmix64(0) is 0xE220A8397B1DCDAF, the first output of the reference generator seeded with 0.
    """
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _draws(stream: int, seed: int, epoch: int, indices: range) -> NDArray[np.uint64]:
    """One uint64 per sample index for this purpose, seed and epoch."""
    key = np.zeros(1, dtype=np.uint64)
    # Chained, not added: neighbouring seeds, epochs and streams must not share draws.
    for part in (stream, seed, epoch):
        key = splitmix64(key ^ np.array([part % 2**64], dtype=np.uint64))
    return splitmix64(key ^ splitmix64(np.arange(indices.start, indices.stop, dtype=np.uint64)))


def _below(draws: NDArray[np.uint64], bound: int) -> Tensor:
    """Draws as int64 in 0..bound-1 (bound < 2**31); the bias is below bound / 2**32."""
    return torch.from_numpy((((draws >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64))


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Order of the samples in this epoch: a permutation, int64 [num_samples]."""
    draws = _draws(_ORDER, seed, epoch, range(num_samples))
    return torch.from_numpy(np.argsort(draws, kind="stable").astype(np.int64))


def crop_offsets(num_samples: int, seed: int, epoch: int, positions: int) -> tuple[Tensor, Tensor]:
    """Top and left corner of each sample's crop, int64 [num_samples] each, in 0..positions-1."""
    top, left = (_draws(stream, seed, epoch, range(num_samples)) for stream in (_CROP_Y, _CROP_X))
    return _below(top, positions), _below(left, positions)


def flips(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Mirroring of each sample in this epoch: bool [num_samples], true with probability 1/2."""
    return _below(_draws(_FLIP, seed, epoch, range(num_samples)), 2).bool()


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed, 0..2**63-1, for a transform that draws from a generator of its own."""
    return int(_draws(_SAMPLE, seed, epoch, range(index, index + 1))[0] >> np.uint64(1))


def stratified_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` samples, rising, each class by its share to within one image; int64 [count].

    labels: int64 [n]. The samples of each class are shuffled; the r-th of m gets the place (r + 1/2) / m, and the
    lowest places of all classes are taken. A pure function of (labels, count, seed).
    """
    classes = labels.numpy()
    draws = _draws(_PICK, seed, 0, range(len(classes)))
    by_class = np.lexsort((draws, classes))
    _, first, sizes = np.unique(classes[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(classes)) - np.repeat(first, sizes)
    place = (rank + 0.5) / np.repeat(sizes, sizes)
    # Equal places (classes of one size) go in the order of the draws, so that no class is favoured.
    taken = by_class[np.lexsort((draws[by_class], place))[:count]]
    return torch.from_numpy(np.sort(taken).astype(np.int64))
