"""The captured step, proven by a recorder that stands for CUDA graphs; the compiled step's way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlybird.core import WeightMask, bn_l1_subgradient_
from earlybird.cost import ModelCost
from earlybird.data import DataBundle, MemoryImages, train_batches
from earlybird.errors import ConfigError, NonFiniteError
from earlybird.methods.hooks import HoldHooks
from earlybird.runs import run as run_module
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig, StepKind, TrainingSettings
from earlybird.training import loop, step
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute
from earlybird.training.loop import fit
from earlybird.training.session import Journal, Progress, Session
from earlybird.training.state import Hooks, Span
from earlybird.training.step import EpochSums, StepParts, make_optimizer

CPU = torch.device("cpu")


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


class KillAt(Hooks):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: Any) -> bool:
        if state.step == self.step:
            raise Killed
        return False


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def network(layer: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(3)
    body = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), layer or nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(6, 4))


def session(folder: Path, kind: StepKind, **settings: Any) -> Session:
    """50 images in batches of 20: each epoch has two full batches and a short one."""
    images = torch.randint(0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    part = MemoryImages(images, torch.arange(50) % 4)
    data = DataBundle("d", 4, 3, 8, (0.5,) * 3, (0.25,) * 3, part, None, part, ("a", "b", "c", "d"))
    values = TrainingSettings(**(dict(epochs=4, batch_size=20, lr=0.1, seed=7) | settings))
    return Session(
        train_batches(data, batch_size=20, seed=7, augment="flip", device="cpu"), None, values,
        Compute(CPU, step=kind), Checkpoints(folder / "checkpoints"), Journal(), Progress(3, 4, quiet=True),
    )  # fmt: skip


def train(s: Session, model: nn.Module, *, end: int = 12, start: int = 0, **more: Any) -> int:
    return fit(s, model, Span("train", start, end), ModelCost(0, 0, 0, 0.0), **more)


class Penalty(Hooks):
    """Another strength at each step, and a mean gradient that it keeps."""

    def __init__(self) -> None:
        self.seen = torch.zeros(6)

    def strengths(self, step: int) -> tuple[float, ...]:
        return (1e-2 * (step % 3),)

    def change_gradients(self, model: nn.Module, strengths: Any) -> None:
        self.seen.mul_(0.9).add_(model[1].weight.grad, alpha=0.1)
        bn_l1_subgradient_(model, strengths[0])

    def tensors(self) -> list[Tensor]:
        return [self.seen]


def losses(s: Session) -> list[Any]:
    return [(row["train_loss"], row["train_accuracy"], row["lr"]) for row in s.journal.rows]


@pytest.mark.parametrize(
    "settings",
    [{}, {"micro_batches": 3, "label_smoothing": 0.1}, {"clip_norm": 0.05, "schedule": "linear", "nesterov": True}],
)
def test_a_captured_phase_ends_with_the_bits_of_an_eager_one(tmp_path: Path, fake, settings: dict[str, Any]):
    """50 images in batches of 20: each epoch ends with a short batch, and the random state goes on through all."""
    ends = []
    for kind in ("eager", "captured"):
        s, model, hooks = session(tmp_path / kind, kind, **settings), network(), Penalty()
        train(s, model, hooks=hooks)
        ends.append((s, model, hooks.seen, torch.get_rng_state()))
    (eager, a, seen_a, random_a), (captured, b, seen_b, random_b) = ends
    assert same_tensors(a, b)
    assert losses(eager) == losses(captured)
    assert torch.equal(seen_a, seen_b) and torch.equal(random_a, random_b)
    # Two full batches in each of four epochs, and one replay that was compared with the operations one by one.
    assert (fake.captures, fake.replays) == (1, 4 * 2 + 1)
    assert type(eager.checkpoints.latest()["optimizer"]["param_groups"][0]["lr"]) is float
    assert type(captured.checkpoints.latest()["optimizer"]["param_groups"][0]["lr"]) is float


@pytest.mark.parametrize("killed_at", [1, 5])
def test_a_captured_run_killed_at_any_step_ends_with_the_same_bits(tmp_path: Path, fake, killed_at: int):
    class KilledPenalty(Penalty, KillAt):
        def __init__(self) -> None:
            Penalty.__init__(self)
            KillAt.__init__(self, killed_at)

    whole, model = session(tmp_path / "whole", "captured"), network()
    train(whole, model, hooks=Penalty())
    broken = session(tmp_path / "broken", "captured", checkpoint_every=2)
    with pytest.raises(Killed):
        train(broken, network(), hooks=KilledPenalty())
    again, resumed = session(tmp_path / "broken", "captured", checkpoint_every=2), network()
    train(again, resumed, hooks=Penalty(), resume=again.checkpoints.latest())
    assert same_tensors(model, resumed)
    assert losses(whole) == losses(again)


def test_each_phase_has_a_graph_of_its_own(tmp_path: Path, fake):
    """As after a cut: another network, the old graph gone."""
    ends = []
    for kind in ("eager", "captured"):
        s, wide, narrow = session(tmp_path / kind, kind), network(), network()
        narrow[0], narrow[1], narrow[6] = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 4)
        train(s, wide, end=4)
        train(s, narrow, start=4, end=8)
        ends.append((wide, narrow))
    assert all(same_tensors(a, b) for a, b in zip(*ends, strict=True))
    assert fake.captures == 2


@pytest.mark.parametrize("form", ["subgradient", pytest.param("proximal", marks=pytest.mark.slow)])
def test_a_whole_run_is_captured_in_each_phase_and_resumes_to_the_same_bits(
    tiny_settings, tmp_path: Path, fake, monkeypatch, form: str
):
    """Search with its penalty and draws, cut, retrain; killed in the search and again in the retrain."""

    def go(name: str) -> Any:
        settings = tiny_settings(penalty_form=form, training={"checkpoint_every": 2, "epochs": 5})
        record = run(RunConfig.from_dict(settings), tmp_path / name, quiet=True)
        return record["files"]["model.safetensors"], record["ticket"]["step"], record["resolved"]["step"]

    eager = go("eager")
    monkeypatch.setattr(run_module, "choose_step", lambda *values: replace(values[3], step="captured"))
    assert go("captured") == (*eager[:2], "captured")
    assert fake.captures == 2
    for step_of_kill in (3, 22):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_train_step", killed_at(step_of_kill))
            with pytest.raises(Killed):
                go("killed")
    assert go("killed") == (*eager[:2], "captured")


def killed_at(step: int) -> Any:
    original = loop._train_step

    def train_step(state: Any, x: Tensor, y: Tensor) -> None:
        if state.step == step:
            raise Killed
        original(state, x, y)

    return train_step


def parts_of(model: nn.Module, hooks: Hooks | None = None, **settings: Any) -> StepParts:
    values, compute = TrainingSettings(**settings), Compute(CPU, step="captured")
    return StepParts(
        model, make_optimizer(model, values, "captured"), hooks or Hooks(), EpochSums(CPU), values, compute, "train", 20
    )


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4


def test_recording_leaves_no_trace(fake):
    hooks = Penalty()
    parts = parts_of(network().train(), hooks)
    captured, (x, y) = step.CapturedStep(parts), batch()
    step._give_momentum(parts.optimizer)
    before = [value.clone() for value in captured._tensors()]
    random_state = torch.get_rng_state()
    captured._prepare(x, y, 0, 0.1)
    captured._try_to_capture()
    assert fake.captures == 1 and captured.kind == "captured"
    assert int(parts.model[1].num_batches_tracked) == 0 and int(parts.sums.bad_step) == -1
    momentum = [value["momentum_buffer"] for value in parts.optimizer.state.values()]
    assert len(momentum) == 6 and not any(buffer.any() for buffer in momentum)
    assert all(torch.equal(a, b) for a, b in zip(before, captured._tensors(), strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_graph_reads_batch_rate_step_and_strength_from_tensors(fake):
    parts = parts_of(network(nn.Identity()).train(), Penalty(), momentum=0.0, weight_decay=0.0)
    captured, (x, y) = step.CapturedStep(parts), batch()
    captured(x, y, 0, 0.1)
    weight = parts.model[1].weight
    for rate, number in ((0.1, 0), (0.2, 3), (0.2, 4)):  # strengths 0, 0, 0.01
        before = weight.detach().clone()
        captured(x + number, y, number, rate)
        wanted = before - rate * weight.grad
        assert torch.allclose(weight, wanted, atol=1e-7)
        assert float(captured._strengths[0].tensor) == pytest.approx(1e-2 * (number % 3))
        assert torch.equal(captured._x, x + number)
    parts.model[6].weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="at step 77"):
        captured(x, y, 77, 0.1)


def test_weights_that_a_hook_has_moved_are_recorded_anew(tmp_path: Path, fake):
    class Move(Hooks):
        def after_step(self, state: Any) -> bool:
            if state.step in (2, 4):
                state.model[0].weight.data = state.model[0].weight.data.clone()
            return False

    models = []
    for kind in ("eager", "captured"):
        models.append(network())
        train(session(tmp_path / kind, kind), models[-1], hooks=Move())
    assert same_tensors(*models)
    assert fake.captures == 3


def test_batches_of_another_size_are_recorded_anew(fake):
    parts = parts_of(network().train())
    captured, (x, y) = step.CapturedStep(parts), batch()
    captured(x, y, 0, 0.1)
    captured(x[:, :, 1:, 1:], y, 1, 0.1)
    captured(x[:, :, 2:, 1:], y, 2, 0.1)
    assert fake.captures == 3
    assert int(parts.model[1].num_batches_tracked) == 3


def test_held_weights_stay_zero_in_a_captured_step(tmp_path: Path, fake):
    mask = WeightMask({"0.weight": torch.arange(6 * 3 * 9).view(6, 3, 3, 3) % 2 == 0})
    models = []
    for kind in ("eager", "captured"):
        models.append(network())
        hooks = HoldHooks(models[-1], penalty=1e-3, mask=mask)
        train(session(tmp_path / kind, kind), models[-1], hooks=hooks)
    assert same_tensors(*models)
    assert fake.replays > 1 and not models[1][0].weight[~mask["0.weight"]].any()


class Waits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.detach().sum()) > 0 else x


class Replaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return x - self.mean.view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("layer", "why"),
    [(Waits, "called a synchronizing CUDA operation"), (Replaces, "a new tensor in the place of '3.mean'")],
)
def test_a_network_that_cannot_be_captured_is_said_once_and_runs_eager(tmp_path: Path, fake, layer: Any, why: str):
    model, reference = network(layer()), network(layer())
    with pytest.warns(UserWarning, match="runs eager") as told:
        train(session(tmp_path / "captured", "captured"), model)
    assert [why in str(warning.message) for warning in told] == [True]
    train(session(tmp_path / "eager", "eager"), reference)
    assert same_tensors(model, reference)
    with pytest.raises(ConfigError, match=rf"step cannot be \(.*{why}.*\); give auto or eager"):
        train(session(tmp_path / "asked", "captured", step="captured"), network(layer()))


def test_a_replay_that_does_something_else_is_not_used(tmp_path: Path, fake, monkeypatch):
    monkeypatch.setattr(fake, "capture", lambda work: lambda: None)
    with pytest.warns(UserWarning, match="its replay does not do what the same operations do one by one"):
        train(session(tmp_path, "captured"), model := network())
    train(session(tmp_path / "eager", "eager"), reference := network())
    assert same_tensors(model, reference)


def test_rounding_in_a_small_step_is_no_other_update(fake):
    """At a rate of 1e-7 most of an update is lost in the weights' last places; the momentum tells what was done."""
    weights, other = [torch.ones(1000)], [torch.ones(1000) + 1e-7]
    gradients, halves = [torch.ones(1000)], [torch.full((1000,), 0.5)]
    before = ([torch.ones(1000)], [torch.zeros(1000)])
    assert step._same_update(before, (weights, gradients), (other, gradients))
    assert not step._same_update(before, (weights, gradients), (weights, halves))
    assert not step._same_update(before, ([torch.ones(1000) * 1.1], gradients), (weights, gradients))
    nothing = [torch.full((1000,), float("nan"))]
    assert step._same_update(before, (nothing, gradients), (weights, gradients))
    parts = parts_of(network().train())
    captured, (x, y) = step.CapturedStep(parts), batch()
    captured(x, y, 0, 1e-12)
    assert captured.kind == "captured" and fake.captures == 1


def test_hooks_that_only_have_after_backward_run_eager_or_are_refused(tmp_path: Path, fake):
    class Reads(Hooks):
        def after_backward(self, model: nn.Module, step: int) -> None:
            model[0].weight.grad.mul_(float(model[0].weight.grad.norm() < 1))

    with pytest.warns(UserWarning, match=r"Reads.after_backward may read values on the host"):
        train(session(tmp_path / "a", "captured"), model := network(), hooks=Reads())
    train(session(tmp_path / "b", "eager"), reference := network(), hooks=Reads())
    assert same_tensors(model, reference) and fake.captures == 0
    with pytest.raises(ConfigError, match="let it be Reads.change_gradients"):
        train(session(tmp_path / "c", "captured", step="captured"), network(), hooks=Reads())
    assert not (tmp_path / "c" / "checkpoints").exists()  # before anything was trained


def test_an_optimizer_without_a_form_for_graphs_is_refused(fake):
    parts = parts_of(network(), step="captured")
    parts = replace(parts, optimizer=torch.optim.Adagrad(parts.model.parameters(), foreach=True))
    with pytest.raises(ConfigError, match="Adagrad is neither fused nor capturable"):
        step.CapturedStep(parts)


def test_the_graph_and_its_memory_go_when_the_phase_ends(tmp_path: Path, fake, monkeypatch):
    kept: list[Any] = []
    original = step.CapturedStep.close
    monkeypatch.setattr(step.CapturedStep, "close", lambda self: (kept.append(self), original(self))[1])
    train(session(tmp_path, "captured"), network(), end=4)
    assert len(kept) == 1 and kept[0]._replay is None and kept[0]._x.numel() == 0 and kept[0]._gradients == []


def test_a_step_that_does_not_compile_is_said_and_runs_eager(tmp_path: Path, monkeypatch):
    def no_compiler(function: Any, **options: Any) -> Any:
        def fails(*batch: Tensor) -> Any:
            function(*batch)  # the statistics of the norms have moved by then
            raise RuntimeError("no C++ compiler\nfound")

        return fails

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match=r"cannot be compiled \(no C\+\+ compiler\) and runs eager"):
        train(session(tmp_path / "a", "compiled"), model := network())
    train(session(tmp_path / "b", "eager"), reference := network())
    assert same_tensors(model, reference)


def test_full_batches_are_compiled_and_short_ones_are_not(tmp_path: Path, monkeypatch):
    compiled: list[int] = []

    def compile(function: Any, **options: Any) -> Any:
        assert options == {"dynamic": False}
        return lambda x, y: (compiled.append(len(x)), function(x, y))[1]

    monkeypatch.setattr(torch, "compile", compile)
    train(session(tmp_path / "a", "compiled", micro_batches=2), model := network())
    assert compiled == [10] * 2 * (1 + 4 * 2)  # a first time to compile, then two full batches in each of four epochs
    train(session(tmp_path / "b", "eager", micro_batches=2), reference := network())
    assert same_tensors(model, reference)


@pytest.mark.slow
def test_a_compiled_step_trains_alike_and_resumes_to_the_same_bits(tmp_path: Path):
    """With the real compiler; without one the step would run eager, and say so."""
    whole, model = session(tmp_path / "a", "compiled"), network(nn.Identity())
    train(whole, model)
    train(session(tmp_path / "b", "eager"), reference := network(nn.Identity()))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    with pytest.raises(Killed):
        train(session(tmp_path / "c", "compiled"), network(nn.Identity()), hooks=KillAt(5))
    again = session(tmp_path / "c", "compiled")
    train(again, resumed := network(nn.Identity()), resume=again.checkpoints.latest())
    assert same_tensors(model, resumed)


def test_sums_keep_their_tensors_over_epochs():
    sums = EpochSums(CPU)
    held = [sums.loss, sums.correct, sums.bad_step]
    logits, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    sums.add(torch.tensor(0.5), logits, y, 3)
    sums.add(torch.tensor(float("inf")), logits, y, torch.tensor(4))
    sums.add(torch.tensor(float("nan")), logits, y, 5)
    assert (int(sums.correct), int(sums.bad_step)) == (3, 4)
    sums.reset()
    assert [float(x) for x in held] == [0, 0, -1]
    assert all(a is b for a, b in zip(held, (sums.loss, sums.correct, sums.bad_step), strict=True))
