from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybird.data import DataBundle, MemoryImages
from earlybird.data.decode import cache_root, cached, file_marks
from earlybird.data.images import channel_moments

SOURCE = {"files": [["train.parquet", 10, 1]], "image_size": None}


def decoded(value: int = 7) -> DataBundle:
    train = MemoryImages(torch.full((4, 3, 2, 2), value, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    test = MemoryImages(torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([1, 0]))
    return DataBundle("toy", 2, 3, 2, (0.5,) * 3, (0.25,) * 3, train, None, test, ("cat", "dog"))


def never() -> DataBundle:
    raise AssertionError("decoded although the cache has it")


def test_a_second_call_reads_the_cache(tmp_path: Path) -> None:
    first = cached(tmp_path, "toy", SOURCE, decoded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a read-only array would make torch warn
        second = cached(tmp_path, "toy", SOURCE, never)
    assert first is not None and second is not None
    assert torch.equal(second.train.images, decoded().train.images)
    assert torch.equal(second.test.images, decoded().test.images)
    assert second.test.labels.tolist() == [1, 0]
    assert (second.class_names, second.mean, second.std) == (("cat", "dog"), (0.5,) * 3, (0.25,) * 3)
    assert (second.name, second.num_classes, second.in_channels, second.image_size) == ("toy", 2, 3, 2)


def test_a_changed_source_is_decoded_again(tmp_path: Path) -> None:
    cached(tmp_path, "toy", SOURCE, decoded)
    changed = {"files": [["train.parquet", 10, 2]], "image_size": None}
    fresh = cached(tmp_path, "toy", changed, lambda: decoded(9))
    assert fresh is not None and int(fresh.train.images[0, 0, 0, 0]) == 9


def test_writing_to_a_mapped_image_never_reaches_the_file(tmp_path: Path) -> None:
    mapped = cached(tmp_path, "toy", SOURCE, decoded)
    assert mapped is not None
    mapped.train.images.zero_()
    again = cached(tmp_path, "toy", SOURCE, never)
    assert again is not None and int(again.train.images.min()) == 7


@pytest.mark.parametrize("harm", ["flip a bit", "truncate", "empty", "remove", "break meta"])
def test_a_damaged_cache_is_decoded_again_and_replaced(tmp_path: Path, harm: str) -> None:
    cached(tmp_path, "toy", SOURCE, decoded)
    (folder,) = tmp_path.iterdir()
    file = folder / ("meta.json" if harm == "break meta" else "train_images.npy")
    content = bytearray(file.read_bytes())
    if harm == "flip a bit":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm in ("truncate", "break meta"):
        file.write_bytes(content[: len(content) // 2])
    elif harm == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    repaired = cached(tmp_path, "toy", SOURCE, decoded)
    assert repaired is not None and int(repaired.train.images.max()) == 7
    assert cached(tmp_path, "toy", SOURCE, never) is not None
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]  # nothing is left lying about


@pytest.mark.parametrize("file", ["meta.json", "train_images.npy", "test_labels.npy"])
def test_no_changed_byte_of_a_cache_goes_unnoticed(tmp_path: Path, file: str) -> None:
    bundle = cached(tmp_path, "toy", SOURCE, decoded)
    assert bundle is not None
    (folder,) = tmp_path.iterdir()
    content = (folder / file).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), size=60, replace=False):
        changed = bytearray(content)
        changed[place] = int(rng.choice([byte for byte in range(32, 127) if byte != content[place]]))
        (folder / file).write_bytes(changed)
        again = cached(tmp_path, "toy", SOURCE, decoded)
        assert again is not None
        assert (again.mean, again.std, again.class_names) == (bundle.mean, bundle.std, bundle.class_names)
        for ours, theirs in ((again.train, bundle.train), (again.test, bundle.test)):
            assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)


def test_rivals_for_one_cache_both_end_well(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    results: list[DataBundle | None] = []

    def slow() -> DataBundle:
        barrier.wait()  # all four have missed the cache before any has written it
        return decoded()

    threads = [threading.Thread(target=lambda: results.append(cached(tmp_path, "toy", SOURCE, slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(results) == 4
    assert all(result is not None and int(result.train.images.max()) == 7 for result in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.warns(UserWarning, match="'toy' were not cached"):
        result = cached(file / "below", "toy", SOURCE, decoded)
    assert result is not None and len(result.train) == 4


def test_a_set_too_large_for_memory_leaves_nothing(tmp_path: Path) -> None:
    assert cached(tmp_path, "toy", SOURCE, lambda: None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_failed_decoding_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached(tmp_path, "toy", SOURCE, never)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    cached(tmp_path, "toy", SOURCE, decoded)
    (folder,) = tmp_path.iterdir()
    old, young = tmp_path / f".{folder.name}-old", tmp_path / f".{folder.name}-young"
    old.mkdir()
    young.mkdir()
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    (folder / "meta.json").unlink()
    cached(tmp_path, "toy", SOURCE, decoded)
    assert not old.exists()
    assert young.exists()


def test_cache_root_is_the_argument_then_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EARLYBIRD_CACHE", str(tmp_path / "env"))
    assert cache_root(str(tmp_path / "given")) == tmp_path / "given"
    assert cache_root(None) == tmp_path / "env"
    monkeypatch.delenv("EARLYBIRD_CACHE")
    assert cache_root(None) == Path.home() / ".cache" / "earlybird"


def test_file_marks_change_with_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.bin"
    file.parent.mkdir()
    file.write_bytes(b"123")
    os.utime(file, ns=(5, 5))
    assert file_marks(tmp_path, [file]) == [["a/b.bin", 3, 5]]


def test_mean_and_std_by_hand() -> None:
    half = torch.tensor([0, 255] * 8)  # half black, half white: mean 1/2, std 1/2
    constant = torch.full((16,), 51)  # 51 / 255 = 0.2; std 0 would divide by zero
    images = torch.stack([half, constant], 1).to(torch.uint8).view(16, 2, 1, 1)
    assert channel_moments(images) == ((0.5, 0.2), (0.5, 1.0))
