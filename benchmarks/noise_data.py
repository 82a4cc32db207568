"""Noise in the shape of CIFAR, as data that a run names: `--data benchmarks/noise_data.py:whole`."""

from earlybird.data import DataBundle
from earlybird.forecast.calibration import noise_bundle


def whole() -> DataBundle:
    """As many images as CIFAR-10 has."""
    return noise_bundle((3, 32, 32), 10, 50_000)


def few() -> DataBundle:
    """2,000 images."""
    return noise_bundle((3, 32, 32), 10, 2_000)
