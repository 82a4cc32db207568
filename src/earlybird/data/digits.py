"""Demo data set: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn (extra `[demo]`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from earlybird.data.cache import DecodedSet
from earlybird.data.images import MemoryImages
from earlybird.errors import DataError

TEST_EVERY = 5
"""Every fifth picture of each class, in stored order, is a test picture: 1,442 train, 355 test, no seed."""


def digits(image_size: int) -> DecodedSet:
    """Digits at image_size x image_size pixels (bilinear), 1 channel, values 0..16 scaled to 0..255.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("data 'digits' needs scikit-learn; install earlybird[demo]") from error
    raw = load_digits()
    small = torch.from_numpy(np.asarray(raw.images)).float().unsqueeze(1) * (255 / 16)
    large = functional.interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8)
    labels = torch.from_numpy(np.asarray(raw.target)).long()
    in_test = every_nth_of_class(labels, TEST_EVERY)
    train, test = (MemoryImages(images[chosen], labels[chosen]) for chosen in (~in_test, in_test))
    return DecodedSet.of(train, test, tuple("0123456789"))


def every_nth_of_class(labels: Tensor, n: int) -> Tensor:
    """Bool [len(labels)]: true for the n-th, 2n-th, ... sample of each class in stored order."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        places = (labels == label).nonzero().squeeze(1)
        chosen[places[n - 1 :: n]] = True
    return chosen
