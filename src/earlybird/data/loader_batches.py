"""Batches from images that are decoded as they are read: a DataLoader with torchvision transforms.

For sets too large for memory, and for the ImageNet augmentation, whose crops differ in size. Every sample is
transformed under a generator seeded from (seed, epoch, index), so 0, 1 or 2 workers give the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from earlybird.data.images import ImageSet
from earlybird.data.memory_batches import PADDING, Normalise, check_position
from earlybird.data.randomness import epoch_order, sample_seed
from earlybird.errors import DataError

Transform: TypeAlias = Callable[[Tensor], Any]
_Batch: TypeAlias = "tuple[Tensor, Tensor] | DataError"


def eval_transform(image_size: int) -> Transform:
    """ImageNet validation protocol: shorter side to image_size * 256 / 224, centre crop of image_size."""
    from torchvision.transforms import v2  # here, because importing it takes a second

    return _composed([v2.Resize(round(image_size * 256 / 224), antialias=True), v2.CenterCrop(image_size)])


def train_transform(augment: Literal["crop_flip", "flip", "none", "imagenet"], image_size: int) -> Transform:
    """Augmentation of uint8 [c, h, w] to [c, image_size, image_size], drawn from the global generator."""
    from torchvision.transforms import v2

    if augment == "imagenet":
        return _composed([v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()])
    steps: list[Transform] = [v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)]
    if augment == "crop_flip":
        steps.append(v2.RandomCrop(image_size, padding=PADDING))
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    return _composed(steps)


def _composed(steps: list[Transform]) -> Transform:
    from torchvision.transforms import v2

    transform: Transform = v2.Compose(steps)
    return transform


class _Samples(Dataset[_Batch]):
    """Decodes and transforms a list of samples into one uint8 batch; runs in the data workers."""

    def __init__(self, images: ImageSet, transform: Transform | None, seed: int, epoch: int) -> None:
        self._images = images
        self._transform = transform
        self._seed = seed
        self._epoch = epoch

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
        image, label = self._images[index]
        if self._transform is None:
            return image, label
        # torch.manual_seed would also reseed the accelerators, which the network's dropout draws from.
        torch.default_generator.manual_seed(sample_seed(self._seed, self._epoch, index))
        transformed: Tensor = self._transform(image)
        return transformed, label


class _Chunks:
    """Batches of sample indices from a given order; sized, so that DataLoader can report its length."""

    def __init__(self, order: Tensor, batch_size: int) -> None:
        self._order = order
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self._order), self._batch_size):
            yield self._order[start : start + self._batch_size].tolist()


def _as_is(batch: Any) -> Any:
    return batch


class LoaderBatches:
    """Batches through a DataLoader; the same for every batch size, starting step and worker count (see `Batches`)."""

    def __init__(
        self,
        images: ImageSet,
        transform: Transform | None,
        normalise: Normalise,
        *,
        batch_size: int,
        device: torch.device,
        workers: int,
        seed: int | None = None,
    ) -> None:
        """Seed None keeps the stored order (evaluation); transform None takes images as they are stored."""
        self.num_samples = len(images)
        self.batch_size = batch_size
        self._images = images
        self._transform = transform
        self._normalise = normalise
        self._device = device
        self._workers = workers
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return -(-self.num_samples // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches number start_step.. of this epoch: float32 [b, c, h, w] normalised, int64 [b].

        Raises:
            DataError: epoch below 0, start_step outside 0..steps_per_epoch, or (while iterating) a corrupt picture.
        """
        check_position(epoch, start_step, self.steps_per_epoch)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        n = self.num_samples
        order = torch.arange(n) if self._seed is None else epoch_order(n, self._seed, epoch)
        loader = DataLoader(
            _Samples(self._images, self._transform, self._seed or 0, epoch),
            batch_sampler=_Chunks(order[start_step * self.batch_size :], self.batch_size),
            num_workers=self._workers,
            collate_fn=_as_is,
            pin_memory=self._device.type == "cuda" and self._workers > 0,
            generator=torch.Generator(),  # DataLoader would otherwise draw from the global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = (part.to(self._device, non_blocking=True) for part in batch)
            yield self._normalise(images.permute(0, 2, 3, 1)), labels
