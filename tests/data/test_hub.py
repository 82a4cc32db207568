from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from earlybird.data import MemoryImages, decode, hub, load_data, train_batches
from earlybird.errors import DataError

pa = pytest.importorskip("pyarrow")
pytest.importorskip("datasets")

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def encoded(value: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    if mode == "L":
        Image.new("L", (8, 8), value).save(buffer, "PNG")
    else:
        Image.new("RGB", (8, 8), (value, 0, 255)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write(folder: Path, split: str, columns: dict[str, Any], features: dict[str, Any] | None = None) -> None:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


IMAGE = {"_type": "Image"}
CLASSES = {"names": ["cat", "dog"], "_type": "ClassLabel"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for split, start in (("train", 0), ("test", 100)):
        pictures = [{"bytes": encoded(start + i), "path": None} for i in range(4)]
        write(root, split, {"img": pictures, "label": [0, 1, 0, 1]}, {"img": IMAGE, "label": CLASSES})
    return root


def test_a_local_parquet_folder_is_decoded_to_the_pixel(folder: Path) -> None:
    bundle = load_data(f"hf:{folder}", cache_dir=str(folder.parent / "cache"))
    assert bundle.class_names == ("cat", "dog")
    assert (bundle.in_channels, bundle.image_size) == (3, 8)
    assert isinstance(bundle.train, MemoryImages) and isinstance(bundle.test, MemoryImages)
    assert bundle.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert bundle.test.images[:, 0, 7, 7].tolist() == [100, 101, 102, 103]
    assert int(bundle.test.images[:, 2].min()) == 255
    assert bundle.test.labels.tolist() == [0, 1, 0, 1]


def test_the_second_load_needs_no_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(folder.parent / "cache")
    first = load_data(f"hf:{folder}", cache_dir=cache)
    monkeypatch.setattr(hub, "_load", None)
    second = load_data(f"hf:{folder}", cache_dir=cache)
    assert isinstance(first.train, MemoryImages) and isinstance(second.train, MemoryImages)
    assert torch.equal(first.train.images, second.train.images)


def test_a_set_above_the_memory_limit_is_decoded_by_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MEMORY_LIMIT_BYTES", 100)
    bundle = load_data(f"hf:{folder}", cache_dir=str(folder.parent / "cache"), image_size=8)
    assert not isinstance(bundle.train, MemoryImages)
    parts = []
    for workers in (0, 1):
        batches = train_batches(bundle, batch_size=4, seed=0, augment="flip", device="cpu", workers=workers)
        parts.append(next(batches.epoch(0))[0])
    assert torch.equal(parts[0], parts[1])


def test_a_file_without_the_library_s_schema_works_too(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        pictures = [{"bytes": encoded(i, "L"), "path": None} for i in (5, 6)]
        write(tmp_path / "plain", split, {"image": pictures, "fine_label": [0, 1], "coarse_label": [0, 0]})
    bundle = load_data(f"hf:{tmp_path / 'plain'}", cache_dir=str(tmp_path / "cache"))
    assert bundle.in_channels == 1
    assert bundle.class_names == ("0", "1")
    assert isinstance(bundle.test, MemoryImages)
    assert bundle.test.images[:, 0, 0, 0].tolist() == [5, 6]


def test_a_test_split_without_labels_is_passed_over(tmp_path: Path) -> None:
    for split, labels in (("train", [0, 1]), ("test", [-1, -1]), ("validation", [1, 0])):
        pictures = [{"bytes": encoded(i), "path": None} for i in range(2)]
        write(tmp_path / "withheld", split, {"img": pictures, "label": labels}, {"img": IMAGE, "label": CLASSES})
    bundle = load_data(f"hf:{tmp_path / 'withheld'}", cache_dir=str(tmp_path / "cache"))
    assert bundle.test.labels.tolist() == [1, 0]


def test_a_corrupt_row_is_named(folder: Path) -> None:
    pictures = [{"bytes": encoded(1), "path": None}, {"bytes": encoded(1)[:30], "path": None}]
    write(folder, "test", {"img": pictures, "label": [0, 1]}, {"img": IMAGE, "label": CLASSES})
    with pytest.raises(DataError, match=r"cannot decode picture hf:.*pictures test row 1"):
        load_data(f"hf:{folder}", cache_dir=str(folder.parent / "cache"))


def test_missing_folders_and_splits_are_named(folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    with pytest.raises(DataError, match=r"no data folder .*nowhere; give a folder of parquet files"):
        load_data(f"hf:{tmp_path}/nowhere", cache_dir=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no \.parquet file"):
        load_data(f"hf:{tmp_path}/empty", cache_dir=cache)
    next(folder.glob("test-*")).unlink()
    with pytest.raises(DataError, match="has splits train but no labelled test set"):
        load_data(f"hf:{folder}", cache_dir=cache)


def test_a_hub_name_that_cannot_be_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(name: str, cache_dir: str | None) -> None:
        asked.append(name)
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError, match="cannot load data 'hf:mnist': no route to the hub; check the name") as caught:
        load_data("hf:mnist", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no route"):
        load_data("hf://datasets/owner/mnist", cache_dir=str(tmp_path))
    assert asked == ["mnist", "owner/mnist"]


def test_a_path_is_never_taken_for_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub.local_folder("data/cifar10") == Path("data/cifar10")
    assert hub.local_folder("/data") == Path("/data")
    assert hub.local_folder("./x") == Path("./x")
    assert hub.local_folder("~/x") == Path.home() / "x"
    assert hub.local_folder("here") == Path("here")
    assert hub.local_folder("mnist") is None
    assert hub.local_folder("//datasets/owner/mnist") is None


class Kind:
    """Stands for a feature of the library: its type name and its dtype are what counts."""

    dtype = "int64"


class ClassLabel(Kind):
    pass


def test_columns_are_found_by_the_documented_order() -> None:
    features = {"coarse_label": ClassLabel(), "fine_label": ClassLabel(), "img": {"bytes": 0}, "depth": {"bytes": 0}}
    assert hub.find_columns(features, "x") == ("img", "fine_label")
    assert hub.find_columns({"photo": {"bytes": 0}, "species": ClassLabel()}, "x") == ("photo", "species")


def test_columns_that_cannot_be_told_apart_are_listed() -> None:
    with pytest.raises(DataError, match=r"no class column among img, size; rename the class column to 'label'"):
        hub.find_columns({"img": {"bytes": 0}, "size": Kind()}, "x")
    with pytest.raises(DataError, match=r"2 possible picture columns \(left, right\)"):
        hub.find_columns({"left": {"bytes": 0}, "right": {"bytes": 0}, "label": ClassLabel()}, "x")


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="the shared data folder is not here")
def test_shared_cifar_columns_and_names(tmp_path: Path) -> None:
    splits, _ = hub.hub_splits(str(SHARED / "cifar10"), str(tmp_path))
    assert (len(splits.train), len(splits.test)) == (50_000, 10_000)
    assert splits.class_names[0] == "airplane"
    assert splits.train[0][0].shape == (3, 32, 32)
    assert splits.train.labels.bincount().tolist() == [5000] * 10
