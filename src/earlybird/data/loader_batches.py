"""Batches from images that are decoded as they are read: a DataLoader with torchvision transforms.

For sets too large for memory, and for the ImageNet augmentation, whose crops differ in size. Every sample is
transformed under a generator seeded from (seed, epoch, index), so 0, 1 or 2 workers give the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, default_convert

from earlybird.data.images import ImageSet
from earlybird.data.memory_batches import PADDING, Batches, Normalise
from earlybird.data.randomness import sample_seed
from earlybird.errors import DataError

Transform: TypeAlias = Callable[[Tensor], Any]
_Batch: TypeAlias = "tuple[Tensor, Tensor] | DataError"


def eval_transforms(image_size: int) -> list[Transform]:
    """ImageNet validation protocol: shorter side to image_size * 256 / 224, centre crop of image_size."""
    from torchvision.transforms import v2  # here, because importing it takes a second

    return [v2.Resize(round(image_size * 256 / 224), antialias=True), v2.CenterCrop(image_size)]


def train_transforms(augment: Literal["crop_flip", "flip", "none", "imagenet"], image_size: int) -> list[Transform]:
    """Augmentation of uint8 [c, h, w] to [c, image_size, image_size], drawn from the global generator."""
    from torchvision.transforms import v2

    if augment == "imagenet":
        return [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
    steps: list[Transform] = [v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)]
    if augment == "crop_flip":
        steps.append(v2.RandomCrop(image_size, padding=PADDING))
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    return steps


@dataclass(frozen=True, eq=False)
class _Samples(Dataset[_Batch]):
    """Decodes and transforms a list of samples into one uint8 batch; runs in the data workers."""

    images: ImageSet
    transforms: Sequence[Transform]
    seed: int
    epoch: int

    def __getitems__(self, indices: list[int]) -> _Batch:
        """Batch of uint8 [b, c, h, w] and int64 [b]; a picture that cannot be decoded is returned as its error.

        An error that a worker *raises* reaches the user with the worker's traceback pasted into its one line.
        """
        state = torch.get_rng_state()
        try:
            samples = [self._sample(index) for index in indices]
        except DataError as error:
            return error
        finally:
            torch.set_rng_state(state)
        return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])

    def _sample(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        # torch.manual_seed would also reseed the accelerators, which the network's dropout draws from.
        torch.default_generator.manual_seed(sample_seed(self.seed, self.epoch, index))
        for transform in self.transforms:
            image = transform(image)
        return image, label


class LoaderBatches(Batches):
    """Batches through a DataLoader; the same for every batch size, starting step and worker count."""

    def __init__(
        self,
        images: ImageSet,
        normalise: Normalise,
        batch_size: int,
        *,
        transforms: Sequence[Transform],
        workers: int,
        seed: int | None = None,
    ) -> None:
        super().__init__(len(images), batch_size, seed)
        self._images = images
        self._normalise = normalise
        self._transforms = transforms
        self._workers = workers

    def _batches(self, order: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = self._normalise.device
        loader = DataLoader(
            _Samples(self._images, self._transforms, self._seed or 0, epoch),
            batch_sampler=BatchSampler(order.tolist(), self.batch_size, drop_last=False),
            num_workers=self._workers,
            collate_fn=default_convert,  # a batch stays as it is
            pin_memory=device.type == "cuda" and self._workers > 0,
            generator=torch.Generator(),  # DataLoader would otherwise draw from the global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            yield self._normalise(images.permute(0, 2, 3, 1)), labels
