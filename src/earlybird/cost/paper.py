"""Total training cost of a method in the paper's convention (You et al. 2020; `docs/method.md` section 6).

Training is charged three forward passes per image (one forward, two backward), on every image of the set in every
epoch; evaluation and the search's own bookkeeping are free. `CostLedger` holds our convention, which charges them.
"""

from __future__ import annotations

from earlybird.errors import ConfigError

CIFAR_TRAIN_IMAGES = 50_000
IMAGENET_TRAIN_IMAGES = 1_281_167
FORWARDS_PER_TRAINING_STEP = 3


def training_flops(gflops_per_image: float, images: int, epochs: float) -> float:
    """FLOPs of training for `epochs` on `images`, where one forward pass takes `gflops_per_image` GFLOP: 3 * F * n * T.

    The paper enters F rounded to 0.01 (`ModelCost.paper_gflops`); that is what reproduces its tables.

    Example:
        training_flops(0.63, 50_000, 160)   # 1.512e16: VGG16 on CIFAR, 15.1 P

    Raises:
        ConfigError: a negative argument.
    """
    for name, value in (("gflops_per_image", gflops_per_image), ("images", images), ("epochs", epochs)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; a training cannot cost less than nothing")
    return FORWARDS_PER_TRAINING_STEP * gflops_per_image * 1e9 * images * epochs


def dense_training_flops(dense_gflops: float, *, images: int, epochs: float) -> float:
    """FLOPs of the unpruned network trained for the whole schedule of `epochs`."""
    return training_flops(dense_gflops, images, epochs)


def early_bird_training_flops(
    dense_gflops: float, slim_gflops: float, *, images: int, search_epochs: float, retrain_epochs: float
) -> float:
    """FLOPs of `search_epochs` on the dense network and `retrain_epochs` on the slim one.

    With a ticket drawn after e of T epochs, EB Train retrains T - e epochs and the re-initialised variant T.

    Raises:
        ConfigError: a negative argument.
    """
    search = training_flops(dense_gflops, images, search_epochs)
    return search + training_flops(slim_gflops, images, retrain_epochs)
