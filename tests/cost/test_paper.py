"""The paper's totals from its own inputs: Table 3 to the digit, in P (10^15) FLOPs."""

from __future__ import annotations

import pytest

from earlybird.cost import (
    CIFAR_TRAIN_IMAGES,
    IMAGENET_TRAIN_IMAGES,
    dense_training_flops,
    early_bird_training_flops,
    training_flops,
)
from earlybird.errors import ConfigError


@pytest.mark.parametrize(("gflops", "published"), [(3.64, 1259.13), (8.21, 2839.96)])
def test_unpruned_imagenet_training_costs_what_table_3_prints(gflops: float, published: float) -> None:
    total = dense_training_flops(gflops, images=IMAGENET_TRAIN_IMAGES, epochs=90)
    assert round(total / 1e15, 2) == published


@pytest.mark.parametrize(
    ("dense", "slim", "search", "retrain", "published"),
    [(3.64, 3.37, 11, 79, 1177.15), (3.64, 2.63, 11, 79, 952.46), (8.21, 4.71, 8, 81, 1718.78)],
)
def test_early_bird_rows_of_table_3_follow_from_draw_epoch_and_slim_size(
    dense: float, slim: float, search: int, retrain: int, published: float
) -> None:
    total = early_bird_training_flops(
        dense, slim, images=IMAGENET_TRAIN_IMAGES, search_epochs=search, retrain_epochs=retrain
    )
    assert round(total / 1e15, 2) == published


def test_vgg16_on_cifar_costs_fifteen_petaflops() -> None:
    # 3 * 0.63e9 * 50,000 * 160 = 1.89e9 * 8e6
    assert training_flops(0.63, CIFAR_TRAIN_IMAGES, 160) == pytest.approx(15.12e15)


def test_a_search_that_never_ends_costs_the_dense_training() -> None:
    early = early_bird_training_flops(2.0, 1.0, images=10, search_epochs=5, retrain_epochs=0)
    assert early == dense_training_flops(2.0, images=10, epochs=5) == 3 * 2e9 * 10 * 5


@pytest.mark.parametrize(
    ("gflops", "images", "epochs", "name"),
    [(-1.0, 1, 1, "gflops_per_image"), (1.0, -1, 1, "images"), (1.0, 1, -0.5, "epochs")],
)
def test_negative_amounts_are_refused_by_name(gflops: float, images: int, epochs: float, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is -"):
        training_flops(gflops, images, epochs)
