from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from earlybird.data import DataBundle, MemoryImages, eval_batches, train_batches
from earlybird.data.batches import crop, flip
from earlybird.data.images import crop_offsets, epoch_order, flips
from earlybird.errors import DataError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def bundle(n: int = 37, size: int = 8) -> DataBundle:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)
    split = MemoryImages(images, torch.arange(n) % 5)
    return DataBundle("toy", 5, 3, size, MEAN, STD, split, None, split, tuple("abcde"))


def all_batches(batch_size: int, **settings: object) -> tuple[Tensor, Tensor]:
    values = {"seed": 7, "augment": "crop_flip", "device": "cpu", **settings}
    batches = train_batches(bundle(), batch_size=batch_size, **values)  # type: ignore[arg-type]
    parts = list(batches.epoch(2))
    assert len(parts) == batches.steps_per_epoch
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def reference(data: DataBundle, seed: int, epoch: int) -> Tensor:
    """Crop and flip image by image with plain loops, in the order of the epoch."""
    assert isinstance(data.train, MemoryImages)
    n, size = len(data.train), data.image_size
    top, left = crop_offsets(n, seed, epoch, 9)
    flipped = flips(n, seed, epoch)
    result = []
    for index in epoch_order(n, seed, epoch).tolist():
        padded = torch.zeros(3, size + 8, size + 8)
        padded[:, 4:-4, 4:-4] = data.train.images[index].float() / 255
        y, x = int(top[index]), int(left[index])
        image = padded[:, y : y + size, x : x + size]
        if flipped[index]:
            image = image.flip(2)
        result.append((image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    return torch.stack(result)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_batches_equal_a_plain_loop_over_the_images(memory_format: torch.memory_format) -> None:
    images, labels = all_batches(16, memory_format=memory_format)
    torch.testing.assert_close(images, reference(bundle(), 7, 2), rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, epoch_order(37, 7, 2) % 5)


def test_crop_by_hand() -> None:
    image = torch.arange(1, 5, dtype=torch.uint8).view(1, 2, 2, 1)  # 1 2 / 3 4
    assert crop(image, torch.tensor([4]), torch.tensor([4])).flatten().tolist() == [1, 2, 3, 4]
    assert crop(image, torch.tensor([5]), torch.tensor([4])).flatten().tolist() == [3, 4, 0, 0]
    assert crop(image, torch.tensor([3]), torch.tensor([5])).flatten().tolist() == [0, 0, 2, 0]
    assert crop(image, torch.tensor([0]), torch.tensor([8])).flatten().tolist() == [0, 0, 0, 0]


def test_flip_by_hand() -> None:
    images = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.uint8).view(2, 1, 2, 2)  # pixels (1,2) (3,4)
    assert flip(images, torch.tensor([True, False])).flatten().tolist() == [3, 4, 1, 2, 5, 6, 7, 8]


def test_normalisation_by_hand() -> None:
    images, _ = all_batches(37, augment="none")
    data = bundle()
    assert isinstance(data.train, MemoryImages)
    first = int(epoch_order(37, 7, 2)[0])
    expected = (int(data.train.images[first, 1, 0, 0]) / 255 - 0.5) / 0.25
    assert float(images[0, 1, 0, 0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch_size", [1, 5, 36, 100])
def test_batch_size_changes_no_bit_of_a_sample(batch_size: int, memory_format: torch.memory_format) -> None:
    whole = all_batches(37, memory_format=memory_format)
    parts = all_batches(batch_size, memory_format=memory_format)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_an_epoch_started_in_the_middle_gives_the_same_batches() -> None:
    batches = train_batches(bundle(), batch_size=8, seed=0, augment="crop_flip", device="cpu")
    whole = list(batches.epoch(4))
    for start in range(batches.steps_per_epoch + 1):
        rest = list(batches.epoch(4, start_step=start))
        assert len(rest) == len(whole) - start
        for (images, labels), (expected_images, expected_labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(images, expected_images)
            assert torch.equal(labels, expected_labels)


def test_batches_neither_read_nor_move_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = all_batches(8)[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, all_batches(8)[0])


def test_memory_format_changes_the_layout_only() -> None:
    plain = next(train_batches(bundle(), batch_size=8, seed=0, augment="flip", device="cpu").epoch(0))[0]
    last = next(
        train_batches(
            bundle(), batch_size=8, seed=0, augment="flip", device="cpu", memory_format=torch.channels_last
        ).epoch(0)
    )[0]
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert last.dtype == torch.float32
    torch.testing.assert_close(plain, last, rtol=0, atol=1e-6)


def test_the_last_partial_batch_is_kept() -> None:
    batches = eval_batches(bundle(10), "test", batch_size=4, device="cpu")
    assert batches.steps_per_epoch == 3
    assert batches.num_samples == 10
    assert [len(labels) for _, labels in batches.epoch(0)] == [4, 4, 2]


def test_evaluation_keeps_the_stored_order_in_every_epoch() -> None:
    batches = eval_batches(bundle(10), "train", batch_size=4, device="cpu")
    first, second = list(batches.epoch(0)), list(batches.epoch(1))
    assert torch.cat([labels for _, labels in first]).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_contiguous_and_channels_last_storage_give_the_same_batches(channels: int) -> None:
    images = torch.randint(0, 256, (6, channels, 8, 8), dtype=torch.uint8)
    seen = []
    for stored in (images, images.to(memory_format=torch.channels_last)):
        split = MemoryImages(stored, torch.arange(6) % 2)
        data = DataBundle("toy", 2, channels, 8, MEAN[:channels], STD[:channels], split, None, split, ("a", "b"))
        seen.append(next(train_batches(data, batch_size=6, seed=0, augment="crop_flip", device="cpu").epoch(0))[0])
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(
    ("epoch", "step", "message"),
    [(-1, 0, "no batch at epoch -1"), (0, 6, "step 6; .* has 5 steps"), (0, -1, "step -1")],
)
def test_a_place_that_no_epoch_has_is_refused(epoch: int, step: int, message: str) -> None:
    batches = train_batches(bundle(), batch_size=8, seed=0, augment="none", device="cpu")
    with pytest.raises(DataError, match=message):
        batches.epoch(epoch, step)


def test_wrong_settings_are_named_with_the_legal_ones() -> None:
    with pytest.raises(DataError, match="unknown augmentation 'mixup'; choose one of crop_flip, flip, none, imagenet"):
        train_batches(bundle(), batch_size=8, seed=0, augment="mixup", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="batch_size is 0"):
        train_batches(bundle(), batch_size=0, seed=0, augment="none", device="cpu")
    with pytest.raises(DataError, match="workers is -1"):
        eval_batches(bundle(), "test", batch_size=8, device="cpu", workers=-1)
    with pytest.raises(DataError, match="no validation split; set --data.val_fraction"):
        eval_batches(bundle(), "val", batch_size=8, device="cpu")
    with pytest.raises(DataError, match="unknown split 'dev'; choose one of train, val, test"):
        eval_batches(bundle(), "dev", batch_size=8, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="memory_format"):
        eval_batches(bundle(), "test", batch_size=8, device="cpu", memory_format=torch.channels_last_3d)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_the_crops_and_flips_of_the_cpu() -> None:
    torch.testing.assert_close(all_batches(16, device="cuda")[0].cpu(), all_batches(16)[0], rtol=0, atol=1e-6)


class Transfers(TorchDispatchMode):
    """Counts copies from the host to a device that cannot be read: whatever the host asked of it would raise."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        taken = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        self.count += any(x.device.type == "cpu" for x in taken) and any(x.device.type == "meta" for x in made)
        return out


@pytest.mark.parametrize("augment", ["crop_flip", "flip", "none"])
def test_an_epoch_takes_one_transfer_and_never_reads_the_device(augment: Any) -> None:
    batches = train_batches(bundle(), batch_size=5, seed=7, augment=augment, device="meta")
    with Transfers() as transfers:
        shapes = [tuple(images.shape) for images, _ in batches.epoch(0)]
    assert shapes == [(5, 3, 8, 8)] * 7 + [(2, 3, 8, 8)]
    assert transfers.count == 1
