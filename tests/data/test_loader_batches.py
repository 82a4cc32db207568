from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from earlybird.data import DataBundle, MemoryImages, eval_batches, train_batches
from earlybird.data.decode import open_picture
from earlybird.errors import DataError


@dataclass(frozen=True)
class Pictures:
    """Noise images of different sizes; index `corrupt` cannot be decoded."""

    n: int = 11
    corrupt: int = -1
    labels: Tensor = field(default_factory=lambda: torch.arange(11) % 3)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.corrupt:
            open_picture(b"no picture", f"/pictures/{index}.png", 3)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 20 + index, 30), dtype=torch.uint8, generator=generator)
        return image, int(self.labels[index])


def bundle(corrupt: int = -1) -> DataBundle:
    images = Pictures(corrupt=corrupt)
    return DataBundle("toy", 3, 3, 16, (0.5,) * 3, (0.25,) * 3, images, None, images, ("a", "b", "c"))


def train(batch_size: int = 4, *, workers: int = 0, start_step: int = 0, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    batches = train_batches(bundle(), batch_size=batch_size, seed=5, augment="imagenet", device="cpu", workers=workers)
    return list(batches.epoch(epoch, start_step))


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def test_batches_are_the_same_for_0_1_and_2_workers_and_from_any_step() -> None:
    whole = train()
    assert [tuple(images.shape) for images, _ in whole] == [(4, 3, 16, 16), (4, 3, 16, 16), (3, 3, 16, 16)]
    assert same(train(workers=1), whole)
    assert same(train(workers=2), whole)
    assert same(train(workers=2, start_step=1), whole[1:])
    assert train(start_step=3) == []


def test_batch_size_changes_no_bit_of_a_sample() -> None:
    together = torch.cat([images for images, _ in train(11)])
    assert torch.equal(torch.cat([images for images, _ in train(3)]), together)


def test_epochs_differ() -> None:
    assert not torch.equal(train(11, epoch=0)[0][0], train(11, epoch=1)[0][0])


def test_batches_neither_read_nor_move_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, train())


def test_a_corrupt_picture_stops_the_epoch_with_its_path_in_one_line() -> None:
    for workers in (0, 1):
        batches = train_batches(
            bundle(corrupt=3), batch_size=4, seed=0, augment="imagenet", device="cpu", workers=workers
        )
        with pytest.raises(DataError, match=r"cannot decode picture /pictures/3\.png .*repair or remove it") as caught:
            list(batches.epoch(0))
        assert "\n" not in str(caught.value)


def test_evaluation_takes_the_centre_and_keeps_the_order() -> None:
    batches = eval_batches(bundle(), "test", batch_size=4, device="cpu", memory_format=torch.channels_last)
    parts = list(batches.epoch(0))
    assert torch.cat([labels for _, labels in parts]).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert parts[0][0].is_contiguous(memory_format=torch.channels_last)
    assert parts[0][0].shape == (4, 3, 16, 16)
    assert same(list(batches.epoch(9)), parts)


def test_a_grey_picture_stays_grey_through_every_augmentation() -> None:
    split = MemoryImages(torch.full((2, 1, 16, 16), 255, dtype=torch.uint8), torch.arange(2))
    data = DataBundle("white", 2, 1, 16, (0.5,), (0.25,), split, None, split, ("a", "b"))
    images, _ = next(train_batches(data, batch_size=2, seed=0, augment="imagenet", device="cpu").epoch(0))
    torch.testing.assert_close(images, torch.full((2, 1, 16, 16), 2.0))


def test_small_image_augmentations_work_on_indexed_images() -> None:
    for augment in ("crop_flip", "flip", "none"):
        batches = train_batches(bundle(), batch_size=11, seed=0, augment=augment, device="cpu")
        assert next(batches.epoch(0))[0].shape == (11, 3, 16, 16)


def test_a_truncated_picture_file_is_named(tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cut\.png"):
        open_picture(file, str(file), 3)
