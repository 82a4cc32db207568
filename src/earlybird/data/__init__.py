"""Data sets, and batches that do not depend on batch size, workers, device or point of resumption.

`load_data` finds a set by name, `train_batches` and `eval_batches` iterate over it.
"""

from earlybird.data.batches import Augment, Batches, eval_batches, train_batches
from earlybird.data.catalog import data_names, load_data
from earlybird.data.images import DataBundle, ImageSet, IndexedImages, MemoryImages

__all__ = [
    "Augment", "Batches", "DataBundle", "ImageSet", "IndexedImages", "MemoryImages", "data_names", "eval_batches",
    "load_data", "train_batches",
]  # fmt: skip
