from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from earlybird.atomic import sealed_json, unsealed_json
from earlybird.core import ChannelMask, draw_mask
from earlybird.core.criteria import bn_scale
from earlybird.errors import CheckpointError, ConfigError, EarlyBirdError
from earlybird.runs.folder import NetworkSpec, load_network, save_network
from earlybird.slimming import channel_groups, slim

SPEC = NetworkSpec("preresnet20", num_classes=4, in_channels=3, image_size=32, width=0.25)


@pytest.fixture(scope="module")
def cut() -> tuple[torch.nn.Module, ChannelMask]:
    """A small PreResNet with channel selection, and its mask."""
    dense = SPEC.build(seed=5)
    with torch.no_grad():
        for name, value in dense.named_parameters():
            if value.dim() == 1:
                value.uniform_(0.1, 1.0, generator=torch.Generator().manual_seed(len(name)))
    groups = channel_groups(dense, SPEC.example_input())
    mask = draw_mask(bn_scale(dense), 0.5, groups)
    return slim(dense, mask, SPEC.example_input(), groups).eval(), mask


@pytest.fixture
def folder(cut, tmp_path: Path) -> Path:
    save_network(tmp_path, cut[0], SPEC, cut[1])
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    description = unsealed_json((folder / "config.json").read_bytes())
    change(description)
    (folder / "config.json").write_bytes(sealed_json(description))


def test_a_cut_network_with_channel_selection_comes_back_to_the_bit(cut, folder: Path):
    model, spec = load_network(folder)
    assert spec == SPEC
    assert model.state_dict().keys() == cut[0].state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), cut[0].state_dict().values(), strict=True)
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), cut[0](x))


def test_a_dense_network_comes_back_too(tmp_path: Path):
    dense = SPEC.build(seed=1)
    save_network(tmp_path, dense, SPEC, None)
    model, _ = load_network(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), dense.state_dict().values(), strict=True))


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"", lambda data: data[:-1] + b"\x01"])
def test_damaged_tensors_fail_their_hash(folder: Path, damage: Callable[[bytes], bytes]):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is corrupt \(sha256 differs"):
        load_network(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=1), "format version 1, this version reads 3; save again"),
        (lambda d: d.pop("factory"), "describes no network .*factory"),
        (lambda d: d.pop("kwargs"), "describes no network .*kwargs"),
        (lambda d: d.pop("layers"), "describe no network .*layers"),
        (lambda d: d["kwargs"].pop("width"), "describes no network .*width"),
        (lambda d: d["kwargs"].update(extra=1), "describes no network .*extra"),
        (lambda d: d["kwargs"].update(width="wide"), r"network\.width is 'wide'; give a number"),
        (lambda d: d["kwargs"].update(num_classes=10**12), r"network\.num_classes is 10+; give an integer in"),
        (lambda d: d["kwargs"].update(image_size=10**9), r"network\.image_size is 10+; give an integer in"),
        (lambda d: d.update(factory="vgg16", kwargs=d["kwargs"] | {"width": 99.0}), "such a cut is not believed"),
        (lambda d: d.update(factory="vgg16"), r"layer 'conv1' of the file is not in this network"),
        (lambda d: d.update(factory="vgg99"), "unknown model 'vgg99'"),
    ],
)
def test_a_meddled_description_is_refused_in_one_line(folder: Path, change, message: str):
    rewrite(folder, change)
    with pytest.raises(EarlyBirdError, match=message) as refused:
        load_network(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00\x01"])
def test_a_description_that_is_none_is_refused(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="corrupt"):
        load_network(folder)


def test_tensors_that_are_no_safetensors_are_refused_even_with_the_right_hash(folder: Path):
    data = b"\xff" * 100
    (folder / "model.safetensors").write_bytes(data)
    rewrite(folder, lambda d: d.update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(CheckpointError, match="describe no network"):
        load_network(folder)


def test_tensors_of_another_network_are_refused(folder: Path):
    data = safetensors.torch.save({"weight": torch.zeros(3)})
    (folder / "model.safetensors").write_bytes(data)
    rewrite(folder, lambda d: d.update(sha256=hashlib.sha256(data).hexdigest(), layers={}))
    with pytest.raises(CheckpointError):
        load_network(folder)


def test_a_file_names_code_in_vain_until_the_user_names_it(folder: Path, tmp_path: Path):
    evil = tmp_path / "evil.py"
    trace = tmp_path / "executed"
    evil.write_text(f"open({str(trace)!r}, 'w').close()\nfrom earlybird.models import PreResNet\n")
    name = f"{evil}:PreResNet"
    rewrite(folder, lambda d: d.update(factory=name))
    with pytest.raises(ConfigError, match=r"code that runs only when you name it; add --model .*evil\.py:PreResNet"):
        load_network(folder)
    with pytest.raises(ConfigError, match="code that runs only"):
        load_network(folder, trusted=["other.py:PreResNet"])
    assert not trace.exists()
    with pytest.raises(EarlyBirdError):  # It runs now; that it builds no such network is another matter.
        load_network(folder, trusted=[name])
    assert trace.exists()
