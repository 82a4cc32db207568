"""Images of 3/4 of their side, for the first part of a schedule (`training.low_resolution`)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

_SHARE_OF_SIDE = 0.75


def smaller_side(side: int) -> int:
    """The even side, in pixels, that is nearest to 3/4 of an image's; at least 2.

    Example:
        >>> smaller_side(32), smaller_side(224)
        (24, 168)
    """
    return max(2, 2 * round(_SHARE_OF_SIDE * side / 2))


def smaller(images: Tensor) -> Tensor:
    """Images `[n, c, h, w]` at the smaller sides, bilinear with antialiasing, on their device and in their layout."""
    size = [smaller_side(side) for side in images.shape[2:]]
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)
