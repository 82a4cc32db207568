"""Slim models as files: they come back to the bit, in another process, and a file's word runs no code."""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

import earlybird
from earlybird.atomic import sealed_json, unsealed_json
from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError, ConfigError, EarlyBirdError, ModelError, SlimError
from earlybird.models import build_model
from earlybird.models.catalog import Watched, build_named, unmade
from earlybird.slimming import channel_groups, slim

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Mixed(nn.Module):
    """One layer of each kind that is narrowed."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, groups=channels), nn.BatchNorm2d(channels), nn.InstanceNorm2d(channels),
            nn.Conv2d(channels, 12, 3, groups=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.ConvTranspose2d(12, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


class Residual(nn.Module):
    """A norm that gathers and one that scatters, under policy `select`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.bn_a, self.out = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.out(x + self.bn_a(self.a(self.bn(x).relu())))


def cut(model: nn.Module, policy: str = "auto") -> tuple[nn.Module, ChannelMask]:
    groups = channel_groups(model, IMAGES, policy)
    keep = torch.rand(groups.num_units, generator=torch.Generator().manual_seed(2)) > 0.3
    mask = groups.mask_of(keep)
    return slim(model, mask, IMAGES, groups).eval(), mask


@pytest.mark.parametrize(("build", "policy"), [(Mixed, "auto"), (Residual, "select")])
def test_a_slim_network_comes_back_into_a_skeleton(build, policy, tmp_path: Path):
    small, mask = cut(build(), policy)
    earlybird.save(small, tmp_path, mask=mask)
    loaded = earlybird.load(tmp_path, into=build())
    assert [type(m) for m in loaded.modules()] == [type(m) for m in small.modules()]
    for name, tensor in small.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(IMAGES), small(IMAGES))
    assert {str(m) for m in loaded.modules()} == {str(m) for m in small.modules()}
    kept = json.loads((tmp_path / "config.json").read_text())["kept_channels"]
    assert kept == {name: torch.nonzero(keep).flatten().tolist() for name, keep in mask.items()}


def test_a_loaded_network_can_be_cut_and_saved_again(tmp_path: Path):
    small, _ = cut(Residual(), "select")
    earlybird.save(small, tmp_path)
    again, _ = cut(earlybird.load(tmp_path, into=Residual()), "select")
    earlybird.save(again, tmp_path)
    assert torch.equal(earlybird.load(tmp_path, into=Residual())(IMAGES), again(IMAGES))


def test_another_process_needs_the_files_alone_and_loads_no_zeus(tmp_path: Path):
    small, _ = cut(build_model("preresnet20", num_classes=4, width=0.5, seed=3))
    earlybird.save(small, tmp_path, factory="preresnet20", kwargs={"num_classes": 4, "width": 0.5})
    torch.save({"x": IMAGES, "y": small(IMAGES).detach()}, tmp_path / "expected.pt")
    code = (
        "import sys, torch, earlybird\n"
        "net = earlybird.load(sys.argv[1]); case = torch.load(sys.argv[1] + '/expected.pt', weights_only=True)\n"
        "print(float((net(case['x']) - case['y']).abs().max()))\n"
        "import earlybird.core, earlybird.energy.counters; assert 'zeus' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 1e-6


def test_a_half_precision_network_keeps_its_precision(tmp_path: Path):
    small, _ = cut(Mixed())
    earlybird.save(small.bfloat16(), tmp_path)
    loaded = earlybird.load(tmp_path, into=Mixed())
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_layers_that_are_never_narrowed_keep_their_precision_too(tmp_path: Path):
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))

    model = network().double()
    earlybird.save(model, tmp_path)
    loaded = earlybird.load(tmp_path, into=network())
    assert torch.equal(loaded(IMAGES.double()), model(IMAGES.double()))


def test_a_network_without_a_mask_key_is_saved_with_its_empty_mask(tmp_path: Path):
    earlybird.save(nn.Linear(2, 2), tmp_path, mask=ChannelMask({}))
    assert json.loads((tmp_path / "config.json").read_text())["kept_channels"] == {}


def test_sizes_fit_the_slim_network_itself(tmp_path: Path):
    small, _ = cut(Residual(), "select")
    earlybird.save(small, tmp_path)
    loaded = earlybird.load(tmp_path, into=copy.deepcopy(small))
    assert torch.equal(loaded(IMAGES), small(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_two_layers_share_stay_shared(dtype, tmp_path: Path):
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    model = tied().to(dtype)
    earlybird.save(model, tmp_path)
    loaded = earlybird.load(tmp_path, into=tied())
    assert loaded[0].weight is loaded[2].weight
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_a_file_without_a_factory_asks_for_a_skeleton(tmp_path: Path):
    earlybird.save(Mixed(), tmp_path)
    with pytest.raises(CheckpointError, match=r"names no factory; give the dense network: load\("):
        earlybird.load(tmp_path)


def test_code_runs_only_when_the_caller_names_it(tmp_path: Path):
    source = tmp_path / "net.py"
    source.write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nfrom torch import nn\n"
        "def build(wide, num_classes=3):\n    return nn.Linear(wide, num_classes)\n"
    )
    name = f"{source}:build"
    earlybird.save(nn.Linear(7, 3), tmp_path / "out", factory=name, kwargs={"wide": 7})
    with pytest.raises(ConfigError, match="code that runs only when you name it; give factory="):
        earlybird.load(tmp_path / "out")
    with pytest.raises(ConfigError, match="code that runs only"):
        earlybird.load(tmp_path / "out", factory="vgg16")
    assert not (tmp_path / "ran").exists()
    assert earlybird.load(tmp_path / "out", factory=name).in_features == 7
    assert (tmp_path / "ran").exists()


def test_a_callable_is_saved_by_its_name(tmp_path: Path):
    earlybird.save(nn.Flatten(), tmp_path, factory=nn.Flatten)
    assert json.loads((tmp_path / "config.json").read_text())["factory"] == "torch.nn.modules.flatten:Flatten"
    assert isinstance(earlybird.load(tmp_path, factory=nn.Flatten), nn.Flatten)


def test_a_callable_without_a_name_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be found again by its name; give 'pkg.mod:callable'"):
        earlybird.save(nn.Flatten(), tmp_path, factory=lambda: nn.Flatten())


def test_arguments_that_are_no_json_are_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        earlybird.save(nn.Flatten(), tmp_path / "out", factory="vgg16", kwargs={"num_classes": object()})
    assert not (tmp_path / "out").exists()


def meddle(folder: Path, change) -> None:
    description = unsealed_json((folder / "config.json").read_bytes())
    change(description)
    (folder / "config.json").write_bytes(sealed_json(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["layers"]["bn_a"].update(num_features=99),
            r"'bn_a': its weight has shape .*, its sizes say \[99\]",
        ),
        (lambda d: d["layers"]["bn_a"].update(num_features=-1), "must be integers from 1 on"),
        (lambda d: d["layers"]["bn_a"].update(width=10**12), "channel index does not fit a norm of 6 channels"),
        (lambda d: d["layers"]["bn_a"].update(kind="norm"), "describe no network"),
        (lambda d: d["layers"]["bn_a"].update(kind="linear"), "'bn_a' is a BatchNorm2d here and 'linear' in the file"),
        (
            lambda d: d["layers"].update({"../x": {"kind": "conv"}}),
            r"layer '\.\./x' of the file is not in",
        ),
        (lambda d: d["layers"].pop("a"), "describe no network"),
        (lambda d: d.update(layers=[]), "describe no network"),
        (lambda d: d.update(sha256="0" * 64), "is corrupt"),
        (lambda d: d.update(format_version=4), "format version 4, this version reads 3"),
    ],
)
def test_a_meddled_file_is_refused_in_one_line(change, message, tmp_path: Path):
    model = Residual()
    keep = {"bn": torch.arange(6) > 0, "bn_a": torch.arange(6) > 1}
    mask, groups = ChannelMask(keep), channel_groups(model, IMAGES, "select")
    earlybird.save(slim(model, mask, IMAGES, groups), tmp_path)
    meddle(tmp_path, change)
    with pytest.raises((CheckpointError, SlimError), match=message) as refused:
        earlybird.load(tmp_path, into=Residual())
    assert "\n" not in str(refused.value)


def test_a_channel_index_out_of_range_is_refused(tmp_path: Path):
    small, _ = cut(Residual(), "select")
    earlybird.save(small, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    tensors["bn_a.index"][0] = 10**9
    data = safetensors.torch.save(tensors)
    path.write_bytes(data)
    meddle(tmp_path, lambda d: d.update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(SlimError, match="'bn_a': its channel index does not fit"):
        earlybird.load(tmp_path, into=Residual())


@pytest.mark.parametrize(
    ("factory", "kwargs", "error", "message"),
    [
        ("vgg16", {"num_classes": 10, "width": 90.0}, CheckpointError, "such a cut is not believed"),
        ("vgg16", {"num_classes": 10**13}, CheckpointError, "num_classes is 10+; a number up to 1000000 is believed"),
        ("vgg16", {"num_classes": 10, "depth": 3}, ModelError, "takes no argument 'depth'"),
        ("vgg16", {}, ModelError, "takes an argument 'num_classes'"),
        ("resnet9000", {"num_classes": 10}, ModelError, "unknown model"),
        (7, {}, CheckpointError, "describe no network"),
    ],
)
def test_a_factory_that_is_none_or_huge_is_refused(factory, kwargs, error, message, tmp_path: Path):
    earlybird.save(nn.Linear(2, 2), tmp_path, factory="vgg16", kwargs=kwargs)
    meddle(tmp_path, lambda d: d.update(factory=factory))
    with pytest.raises(error, match=message):
        earlybird.load(tmp_path)


def huge(num_classes: int = 10, reads: bool = False, size: int = 2000) -> nn.Module:
    """160 MB of weights, as a library builds them."""
    depths = [rate.item() for rate in torch.linspace(0, 0.1, 10)]
    layers = [nn.Linear(size, size) for _ in depths]
    if reads and layers[0].weight.detach().sum().item() > 1e9:
        raise ValueError
    return nn.Sequential(*layers, nn.Linear(size, num_classes))


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name with one network."""
    fake = SimpleNamespace(
        create_model=lambda name, pretrained, in_chans, num_classes: huge(num_classes),
        list_models=lambda: ["huge"],
        is_model=lambda name: name == "huge",
    )
    monkeypatch.setitem(sys.modules, "timm", fake)


@pytest.mark.parametrize(
    ("factory", "kwargs", "named"),
    [
        ("vgg16", {"width": 4.0}, None),
        ("torchvision:vgg16", {}, None),
        ("torchvision:vit_l_16", {}, None),
        ("timm:huge", {}, None),
        (f"{__file__}:huge", {}, f"{__file__}:huge"),
        (huge, {}, huge),
    ],
)
def test_what_a_small_file_promises_is_compared_before_it_is_made(
    factory, kwargs, named, fake_timm, allocated, tmp_path: Path
):
    kwargs = {"num_classes": 10, **kwargs}
    earlybird.save(nn.Linear(200, 200), tmp_path, factory=factory, kwargs=kwargs)
    dense = unmade(lambda: named(**kwargs) if callable(named) else build_named(factory, kwargs))
    promised = sum(4 * parameter.numel() for parameter in dense.parameters())
    with allocated, pytest.raises(EarlyBirdError, match=r"is a \w+ here and 'linear' in the file") as refused:
        earlybird.load(tmp_path, factory=named)
    assert "\n" not in str(refused.value)
    assert allocated.bytes < promised / 100


def test_a_network_that_reads_its_weights_while_it_is_built_is_made_up_to_what_is_believed(allocated, tmp_path: Path):
    earlybird.save(nn.Linear(2, 2), tmp_path, factory=huge, kwargs={"reads": True})
    with allocated, pytest.raises(EarlyBirdError, match="more than 60000 numbers; such a cut is not"):
        earlybird.load(tmp_path, factory=huge)
    assert allocated.bytes < 10_000


def test_libraries_and_own_code_come_back_as_they_were_saved(fake_timm, tmp_path: Path):
    for number, (factory, kwargs) in enumerate([("torchvision:squeezenet1_1", {}), (huge, {"reads": True, "size": 9})]):
        model = huge(7, size=9) if callable(factory) else build_named(factory, {"num_classes": 7})
        earlybird.save(model, tmp_path / str(number), factory=factory, kwargs={"num_classes": 7, **kwargs})
        loaded = earlybird.load(tmp_path / str(number), factory=factory if callable(factory) else None)
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
        assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


def test_no_tensor_is_made_beyond_the_numbers_that_are_believed():
    with pytest.raises(ModelError, match="more than 1000 numbers"), Watched(1000):
        nn.Sequential(nn.Linear(9, 9), nn.Conv2d(10**5, 10**5, 3))  # 360 GB


def test_a_small_cut_of_a_wide_network_takes_the_memory_of_the_cut(tmp_path: Path, child):
    small = build_model("vgg16", num_classes=10, width=0.06)
    earlybird.save(small, tmp_path, factory="vgg16", kwargs={"num_classes": 10, "width": 4.0})
    process = child(_megabytes_of_loading, tmp_path)
    process.join()
    assert 0 <= process.exitcode < 100  # The wide network's weights are 900 MB.
    loaded = earlybird.load(tmp_path)
    torch.testing.assert_close(loaded(IMAGES), small.eval()(IMAGES), rtol=0, atol=0)


def _megabytes_of_loading(folder: Path) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    earlybird.load(folder)
    return min(200, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def test_a_full_disk_leaves_the_older_files(tmp_path: Path, monkeypatch):
    earlybird.save(nn.Linear(2, 2), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        earlybird.save(nn.Linear(2, 2), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(EarlyBirdError, match=r"config\.json does not exist; give a folder that holds"):
        earlybird.load(tmp_path / "nowhere")
