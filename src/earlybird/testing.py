"""Conformance checks for criteria and methods, for anybody's own: no data, no GPU.

Each raises `AssertionError` with one sentence that says what does not hold.

Example:
    >>> from earlybird import bn_scale
    >>> check_criterion(bn_scale)
"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from earlybird.core import Criterion, Ticket, WeightMask, draw_mask
from earlybird.cost import PHASES
from earlybird.data import DataBundle, MemoryImages
from earlybird.methods.retrain import WEIGHT_MASK_FILE
from earlybird.models import build_model
from earlybird.runs.folder import load_network
from earlybird.runs.record import recorded_schedule
from earlybird.runs.run import run, run_search
from earlybird.settings.method import TICKET_FILE, EarlyBirdTraining, Method, Plans, StartsFromTicket, TicketRequest
from earlybird.settings.run import DataConfig, ModelConfig, RunConfig, TrainingSettings
from earlybird.slimming import channel_groups, slim
from earlybird.slimming.layers import kind_of
from earlybird.training import loop

__all__ = ["check_criterion", "check_method"]

CLASSES = 3
# Named by path, as a user's own are.
NETWORK, DATA = "earlybird.testing:TinyNetwork", "earlybird.testing:data"
TRAINING = TrainingSettings(epochs=6, batch_size=20, lr=0.05, precision="fp32", device="cpu", checkpoint_every=2)
SETTINGS_ARE_PLAIN = "a method's settings must be plain values that YAML can hold (numbers, text, booleans, lists)"


def check_criterion(criterion: Criterion) -> None:
    """Raise unless a criterion can be used wherever `bn_scale` can: for detection, drawing and cutting.

    It is tried on a plain chain and on a network with tied channels, both with weights that differ and with gradients.

    Raises:
        AssertionError: what does not hold, in one sentence.
    """
    for model, images in _networks():
        scores = _scores_that_leave_alone(criterion, model)
        _check_scores(scores, model)
        assert _same(criterion(model), scores), "the criterion gives other scores for the same network the second time"
        groups = channel_groups(model, images)
        told = "the criterion scores no layer that channels may be cut from; key scores by BatchNorm, conv or linear"
        assert scores.keys() & groups.units_of_layer.keys(), told
        mask = draw_mask(scores, 0.4, groups)
        assert sum(mask.kept_counts().values()) < sum(mask.widths().values()), "a mask of these scores cuts nothing"
        slim(model, mask, images, groups)  # which compares the small network with the masked one


def check_method(method: Method | type[Method]) -> None:
    """Raise unless a method can be trained, killed, resumed, compared and reported like the built-in ones.

    Of a class, an instance with the defaults is tried.

    Raises:
        AssertionError: what does not hold, in one sentence.
    """
    checked = method() if isinstance(method, type) else method
    _check_settings(checked)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of ratios and floors: tiny networks have few channels
        trial = _Trial(checked, Path(folder))
        record = trial.run("first")
        _check_record(record)
        _check_plan(checked, record)
        _check_network(trial.folder / "first", trial.weights("first"), record)
        steps = _check_it_repeats(trial)
        _check_it_survives_kills(trial, record, steps)
        _check_ratio_zero(trial)


def _networks() -> list[tuple[nn.Module, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for model, size in ((build_model("vgg11", num_classes=CLASSES, width=0.125), 32), (TinyNetwork(CLASSES), 8)):
        images = torch.randn(6, 3, size, size, generator=draw)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):  # As after some training: no two scales alike.
                    module.weight.uniform_(0.1, 1.0, generator=draw)
        functional.cross_entropy(model(images), torch.arange(6) % CLASSES).backward()
        found.append((model, images))
    return found


def _check_scores(scores: object, model: nn.Module) -> None:
    assert isinstance(scores, dict) and scores, f"a criterion returns a dict of scores, not {type(scores).__name__}"
    modules = dict(model.named_modules())
    for name, score in scores.items():
        assert name in modules, f"the criterion scores {name!r}, which is no module of the network"
        assert isinstance(score, Tensor) and score.dim() == 1, f"scores of {name!r} must be a tensor [out channels]"
        assert score.is_floating_point(), f"scores of {name!r} are {score.dtype}; give a floating dtype"
        assert bool(torch.isfinite(score).all()), f"scores of {name!r} hold NaN or infinity"
        assert not score.requires_grad, f"scores of {name!r} carry a gradient; detach them"
        assert score.device.type == "cpu", f"scores of {name!r} are on {score.device}; move them to the CPU"
        kind = kind_of(modules[name])
        width = kind and getattr(modules[name], kind.outputs)
        assert width == score.numel(), f"{name!r} has {width} channels, the criterion gives {score.numel()} scores"


def _scores_that_leave_alone(criterion: Criterion, model: nn.Module) -> dict[str, Tensor]:
    """Scores of a network, checked to be left as it was found."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    mode, random_state = model.training, torch.get_rng_state()
    scores = criterion(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"the criterion changes {name!r}; score without training"
    for name, parameter in model.named_parameters():
        now = parameter.grad
        same = (now is None) == (name not in gradients) and (now is None or torch.equal(now, gradients[name]))
        assert same, f"the criterion changes the gradient of {name!r}"
    assert model.training == mode, "the criterion leaves the network in another mode than it found it in"
    assert torch.equal(torch.get_rng_state(), random_state), "the criterion draws from the global random generator"
    return scores


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Runs of one method in one folder."""

    method: Method
    folder: Path

    def run(self, name: str, method: Method | None = None) -> dict[str, Any]:
        """Run, or go on with, the run in the subfolder `name`."""
        method = method or self.method
        return run(_config(method), self.folder / name, ticket=self._ticket(method), quiet=True)

    def weights(self, name: str) -> dict[str, Tensor]:
        """Tensors of a run's final network."""
        model, _ = load_network(self.folder / name, trusted=(NETWORK,))
        return model.state_dict()

    def _ticket(self, method: Method) -> Path | None:
        """Ticket for a method that searches none itself."""
        if not isinstance(method, StartsFromTicket) or method.shared_search() is not None:
            return None
        ratio = float(getattr(method, "prune_ratio", 0.5))
        search, request = EarlyBirdTraining(prune_ratio=ratio, round_to=1), TicketRequest(ratio, 3)
        place = self.folder / f"ticket-{ratio:g}"
        return run_search(_config(search), [request], place, quiet=True)[request]


def _config(method: Method) -> RunConfig:
    return RunConfig(ModelConfig(NETWORK), DataConfig(DATA, augment="flip"), method, TRAINING)


def _check_settings(method: Method) -> None:
    kind = type(method)
    assert dataclasses.is_dataclass(kind), f"{kind.__name__} must be a dataclass"
    parameters = kind.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen, f"{kind.__name__} must be frozen: @dataclass(frozen=True)"
    assert isinstance(getattr(kind, "name", None), str), f"{kind.__name__} needs `name: ClassVar[str]`"
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        assert has_default, f"setting {field.name!r} of {kind.__name__} needs a default"
    plain = _config(method).to_dict()["method"]
    try:
        again = yaml.safe_load(yaml.safe_dump(plain))
    except yaml.YAMLError as error:
        raise AssertionError(f"{SETTINGS_ARE_PLAIN}: {plain}") from error
    assert again == plain, f"{SETTINGS_ARE_PLAIN}: {plain}"
    del again["name"]
    assert kind(**again) == method, f"{kind.__name__} does not equal itself when made again from its settings"


def _check_record(record: dict[str, Any]) -> None:
    phases, total = record["cost"]["phases"], record["cost"]["total"]
    assert set(phases) <= set(PHASES), f"phases of the ledger are {sorted(phases)}; give some of {', '.join(PHASES)}"
    trained = sum(cost["images"] for name, cost in phases.items() if name != "evaluate")
    assert trained > 0 and total["macs"] > 0, "the ledger holds no training: charge what is trained (`fit` does)"
    assert phases.get("evaluate", {}).get("images"), "the run did not end with an evaluation"
    assert record["test"]["samples"] == 30, "the test set was not read as a whole"
    assert all(row["phase"] in PHASES for row in record["metrics"]), "a metrics row is of no known phase"


def _check_plan(method: Method, record: dict[str, Any]) -> None:
    """Raise unless the ledger is what the method's plan, if it has one, says of this run."""
    if not isinstance(method, Plans):
        return
    schedule = recorded_schedule(record, network=TinyNetwork(CLASSES))
    planned = {phase: work.macs for phase, work in method.plan(schedule).training(schedule).items() if work.macs}
    phases = record["cost"]["phases"]
    executed = {name: cost["macs"] for name, cost in phases.items() if name != "evaluate" and cost["macs"]}
    assert planned == executed, f"the plan says {planned} MACs by phase, the ledger {executed}"


def _check_network(folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Raise unless the network is as its ticket or weight mask says."""
    for layer in record["layers"]:
        kept = next((w.shape[0] for n, w in weights.items() if n == f"{layer['name']}.weight"), None)
        assert kept == layer["kept"], f"layer {layer['name']!r} has {kept} channels, the ticket keeps {layer['kept']}"
    if record["weight_mask"] is not None:
        mask, _ = WeightMask.load(folder / WEIGHT_MASK_FILE)
        for name in mask:
            moved = int((weights[name][~mask[name]] != 0).sum())
            assert not moved, f"{moved} removed weights of {name!r} are not zero after the training"
    if (folder / TICKET_FILE).is_file():
        Ticket.load(folder / TICKET_FILE)


def _check_it_repeats(trial: _Trial) -> int:
    """Raise unless two runs end with the same bits; returns the training steps of a run."""
    torch.manual_seed(12345)  # Whoever draws from the global generator shows here.
    with _counted_steps(None) as count:
        trial.run("again")
    told = "two runs of one seed end with other weights: draw numbers from the task's seed, not from a global generator"
    assert _same(trial.weights("first"), trial.weights("again")), told
    return count[0]


def _check_it_survives_kills(trial: _Trial, whole: dict[str, Any], of: int) -> None:
    for steps in sorted({1, of // 4, of // 2, of - 1}):
        name = f"killed-{steps}"
        with suppress(_Killed), _counted_steps(steps):
            trial.run(name)
        record = trial.run(name)
        when = f"killed after {steps} of {of} steps and resumed, the run"
        told = f"{when} ends with other weights: whatever a step depends on must be in the folder or in the checkpoint"
        assert _same(trial.weights("first"), trial.weights(name)), told
        images, expected = (each["cost"]["total"]["images"] for each in (record, whole))
        assert images == expected, f"{when} is charged {images} images instead of {expected}"


def _check_ratio_zero(trial: _Trial) -> None:
    """Raise if a ratio of 0 removes anything."""
    if "prune_ratio" not in trial.method.__dataclass_fields__:
        return
    nothing = dataclasses.replace(cast(Any, trial.method), prune_ratio=0.0)
    record = trial.run("nothing", nothing)
    final, dense = record["final"]["params"], record["dense"]["params"]
    assert final == dense, f"at ratio 0 the network ends with {final} of {dense} parameters"
    mask = record["weight_mask"]
    assert mask is None or mask["kept"] == mask["weights"], "at ratio 0 the weight mask removes something"


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class _Killed(Exception):
    """Stand-in for a SIGKILL: nothing is saved on the way out."""


@contextmanager
def _counted_steps(most: int | None) -> Iterator[list[int]]:
    """Count the training steps done inside, in a list of one number, and kill training before more than `most`."""
    count, original = [0], loop._train_step

    def step(*arguments: Any) -> None:
        if count[0] == most:
            raise _Killed
        count[0] += 1
        original(*arguments)

    with mock.patch.object(loop, "_train_step", step):
        yield count


def data() -> DataBundle:
    """Three classes of 8x8 pictures, told apart by their bright colour: 90 to train on, 30 to test on."""

    def split(count: int, seed: int) -> MemoryImages:
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 120, (count, 3, 8, 8), generator=draw)
        images[torch.arange(count), labels] += 60
        return MemoryImages(images.to(torch.uint8), labels)

    return DataBundle(
        name="tiny", num_classes=CLASSES, in_channels=3, image_size=8, mean=(0.25,) * 3, std=(0.15,) * 3,
        train=split(90, 0), val=None, test=split(30, 1), class_names=("red", "green", "blue"),
    )  # fmt: skip


class TinyNetwork(nn.Module):
    """A stem, two branches that are added, a convolution, a linear head: free channels (stem, tail) and tied ones."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 12, 3)
        self.left, self.right = _conv_norm(12, 16, 3), _conv_norm(12, 16, 1)
        self.tail = _conv_norm(16, 10, 3)
        self.head = nn.Linear(10, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, 3, 8, 8] to logits [n, classes]."""
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        x = torch.relu(self.tail(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
