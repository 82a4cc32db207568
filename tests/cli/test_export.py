"""`earlybird export` on a run's own files, and the export functions on a network with every special norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from earlybird.cli.main import main
from earlybird.core import ChannelMask, draw_mask
from earlybird.errors import ModelError
from earlybird.integrations.export import export_onnx, export_pt2
from earlybird.runs.folder import NetworkSpec, save_network
from earlybird.slimming import channel_groups, slim
from earlybird.slimming.selection import let_gather_

SPEC = NetworkSpec("preresnet20", num_classes=4, in_channels=3, image_size=32, width=0.25)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What `export` needs of a finished run: its network, with channel selection."""
    dense, example = SPEC.build(seed=5), SPEC.example_input()
    groups = channel_groups(dense, example)
    torch.manual_seed(0)
    mask = draw_mask({name: torch.rand(units.numel()) for name, units in groups.unit_of.items()}, 0.5, groups)
    save_network(tmp_path, slim(dense, mask, example, groups), SPEC, mask)
    return tmp_path


def test_both_formats_agree_with_the_run(run: Path, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["export", str(run), "--onnx", "--pt2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in said] == [str(run / "model.onnx"), str(run / "model.pt2")]
    assert all(float(line.rsplit(" ", 1)[1]) <= 1e-4 for line in said)
    loaded = torch.export.load(str(run / "model.pt2")).module()
    assert loaded(torch.zeros(5, 3, 32, 32)).shape == (5, 4)


def test_a_scattering_norm_is_exported(tmp_path: Path):
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.bn = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

        def forward(self, x):
            x = self.stem(x)
            return (x + self.bn(self.a(x))).mean((2, 3))

    model, x = Residual(), torch.randn(2, 3, 8, 8)
    small = slim(model, ChannelMask({"bn": torch.arange(6) > 2}), x, channel_groups(model, x, "select"))
    assert export_pt2(small, x, tmp_path / "net.pt2") <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gather_in_channels_last_is_exported(dtype):
    norm = let_gather_(nn.BatchNorm2d(2), torch.tensor([0, 3])).eval()
    x = torch.randn(2, 4, 3, 3).to(dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(torch.export.export(norm, (x,)).module()(x), norm(x))


def test_a_file_that_gives_other_numbers_is_not_kept(tmp_path: Path):
    class Drifting(nn.Module):
        """Gives something else each time it is asked."""

        def forward(self, x):
            return x + torch.rand_like(x)

    with pytest.raises(ModelError, match=r"net\.pt2 differs from its source by .*not kept"):
        export_pt2(Drifting(), torch.randn(2, 3), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported_is_said_in_one_line(tmp_path: Path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"net\.pt2 could not be written: ") as refused:
        export_pt2(Branching(), torch.randn(2, 3), tmp_path / "net.pt2")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_names_the_extra(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"install them with pip install 'earlybird\[export\]'"):
        export_onnx(nn.Flatten(), torch.randn(2, 3), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "absent", "--pt2"], "config.json does not exist"),
        (["export", "absent"], "no format given; add --onnx, --pt2 or both"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
