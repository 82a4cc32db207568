"""Names become seeded networks, or one line that says what is wrong and what would be right."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from earlybird.errors import ModelError
from earlybird.models import build_model, model_names

FACTORY_FILE = """
import torch
from torch import nn

NOT_CALLABLE = 3

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)

def takes_everything(**settings):
    net = nn.Identity()
    net.settings = settings
    return net

def takes_nothing():
    return nn.Linear(2, 2)

def takes_width(width):
    return nn.Linear(2, round(8 * width))

def positional(num_classes, /):
    return nn.Linear(2, num_classes)

def fails(num_classes):
    raise ValueError("no\\nluck")

def returns_text():
    return "resnet"
"""


@pytest.fixture
def factory_file(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(FACTORY_FILE)
    return str(path)


def refusal(name: str, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        build_model(name, **{"num_classes": 10, **settings})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_listed_name_builds_with_the_given_channels_and_classes() -> None:
    assert model_names()[:4] == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert model_names()[4:10] == [f"preresnet{depth}" for depth in (20, 29, 56, 101, 110, 164)]
    assert model_names()[10:] == ["resnet18", "resnet34"]
    for name in model_names():
        parameters = list(build_model(name, num_classes=5, in_channels=1, width=0.125).parameters())
        assert parameters[0].shape[1] == 1 and parameters[-1].shape == (5,)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (build_model("preresnet20", num_classes=10, seed=seed) for seed in (3, 3, 4))
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_building_leaves_the_global_generator_as_it_was_found() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model("vgg11", num_classes=10, width=0.1, seed=99)
    refusal("vgg11", image_size=64)
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_name_is_answered_with_close_matches_and_all_choices() -> None:
    message = refusal("vgg17")
    assert "unknown model 'vgg17'" in message and "did you mean" in message and "vgg16" in message
    assert "preresnet164" in message and "torchvision:NAME" in message and "file.py:callable" in message
    assert "did you mean" not in refusal("zzz")


def test_other_image_sizes_than_32_are_refused_for_the_cifar_nets() -> None:
    message = refusal("vgg16", image_size=224)
    assert "vgg16 takes 32x32 images, image_size is 224" in message and "resize" in message


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_classes", 0), ("in_channels", 0), ("image_size", -1), ("width", 0.0), ("width", float("nan"))],
)
def test_senseless_sizes_are_refused_by_name(setting: str, value: float) -> None:
    assert refusal("vgg16", **{setting: value}).startswith(f"{setting} is {value}")


def test_torchvision_nets_get_num_classes_and_a_seed() -> None:
    first = build_model("torchvision:resnet18", num_classes=7, image_size=224, seed=1)
    again = build_model("torchvision:resnet18", num_classes=7, image_size=224, seed=1)
    assert first.fc.out_features == 7
    assert torch.equal(first.conv1.weight, again.conv1.weight)


def test_torchvision_nets_are_never_adapted_silently() -> None:
    assert "takes 3 input channels, in_channels is 1" in refusal("torchvision:resnet18", in_channels=1)
    assert "no width multiplier, width is 0.5" in refusal("torchvision:resnet18", width=0.5)
    assert "did you mean 'resnet18'" in refusal("torchvision:resnet81")
    assert "unknown model 'torchvision:fcn_resnet50'" in refusal("torchvision:fcn_resnet50")


def test_a_missing_timm_is_said_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "earlybird[timm]" in refusal("timm:resnet18")


def test_timm_nets_get_classes_and_channels_and_no_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **settings: Any) -> nn.Module:
        calls.append({"name": name, **settings})
        if name == "broken":
            raise RuntimeError("out of luck")
        return nn.Identity()

    known = ["tiny_net", "broken"]
    timm = SimpleNamespace(create_model=create_model, is_model=known.__contains__, list_models=lambda: known)
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert isinstance(build_model("timm:tiny_net", num_classes=4, in_channels=1), nn.Identity)
    assert calls == [{"name": "tiny_net", "pretrained": False, "num_classes": 4, "in_chans": 1}]
    assert "did you mean 'tiny_net'" in refusal("timm:tinynet")
    assert "timm:broken could not be built: RuntimeError: out of luck" in refusal("timm:broken")
    assert "width is 2.0" in refusal("timm:tiny_net", width=2.0)


def test_a_callable_in_a_file_gets_only_the_settings_it_names(factory_file: str) -> None:
    net = build_model(f"{factory_file}:Net", num_classes=6, in_channels=2)
    assert (net.fc.in_features, net.fc.out_features) == (2, 6)
    assert isinstance(build_model(f"{factory_file}:takes_nothing", num_classes=6), nn.Linear)
    everything = build_model(f"{factory_file}:takes_everything", num_classes=6, image_size=8)
    assert everything.settings == {"num_classes": 6, "in_channels": 3, "image_size": 8, "width": 1.0}


def test_a_callable_is_seeded_as_well(factory_file: str) -> None:
    name = f"{factory_file}:Net"
    first, again = (build_model(name, num_classes=6, seed=2) for _ in range(2))
    assert torch.equal(first.fc.weight, again.fc.weight)


def test_a_width_that_the_callable_cannot_take_is_refused(factory_file: str) -> None:
    assert build_model(f"{factory_file}:takes_width", num_classes=2, width=0.5).out_features == 4
    assert "has no parameter 'width', width is 0.5" in refusal(f"{factory_file}:Net", width=0.5)


def test_a_callable_in_a_module_is_imported() -> None:
    assert isinstance(build_model("torch.nn:Identity", num_classes=2), nn.Identity)


def test_what_is_wrong_with_a_callable_is_said_plainly(factory_file: str, tmp_path: Path) -> None:
    gone, broken = tmp_path / "gone.py", tmp_path / "broken.py"
    broken.write_text("import no_such_package_here")
    assert f"no file '{gone}'" in refusal(f"{gone}:Net")
    assert "no_such_package_here" in refusal(f"{broken}:Net") and "while it was loaded" in refusal(f"{broken}:Net")
    missing = refusal(f"{factory_file}:Nett")
    assert "there is no 'Nett'" in missing and "Net, takes_everything" in missing
    assert "is a int, which cannot be called" in refusal(f"{factory_file}:NOT_CALLABLE")
    assert "raised ValueError: no luck when called with num_classes=10" in refusal(f"{factory_file}:fails")
    assert "returned str; it must return a torch.nn.Module" in refusal(f"{factory_file}:returns_text")
    assert "raised TypeError" in refusal(f"{factory_file}:positional")
    assert "names no callable" in refusal(f"{factory_file}:") and "names no callable" in refusal(":Net")
    assert "importing 'no_such_package_here' raised ModuleNotFoundError" in refusal("no_such_package_here:Net")
