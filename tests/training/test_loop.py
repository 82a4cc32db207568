from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from earlybird.cost import count_cost
from earlybird.data import DataBundle, MemoryImages, eval_batches, train_batches
from earlybird.errors import NonFiniteError, OutOfMemoryError
from earlybird.settings.run import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute, choose_device, choose_precision, evaluate
from earlybird.training.loop import fit, learning_rate
from earlybird.training.session import Journal, Progress, Session
from earlybird.training.state import Hooks, Span

STEPS_PER_EPOCH = 3  # 50 images in batches of 20


def bundle(**changes) -> DataBundle:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 8, 8), generator=g).to(torch.uint8)
    part = MemoryImages(images, torch.arange(50) % 4)
    values = dict(train=part, val=None, test=part) | changes
    return DataBundle("d", 4, 3, 8, (0.5,) * 3, (0.25,) * 3, class_names=("a", "b", "c", "d"), **values)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


def session(folder: Path, data: DataBundle | None = None, **settings) -> Session:
    data = data or bundle()
    values = TrainingSettings(**(dict(epochs=4, batch_size=20, lr=0.1, seed=7) | settings))
    return Session(
        train_batches(data, batch_size=20, seed=7, augment="flip", device="cpu"),
        eval_batches(data, "val", batch_size=8, device="cpu") if data.val else None,
        values,
        Compute(torch.device("cpu"), "fp32"),
        Checkpoints(folder / "checkpoints"),
        Journal(),
        Progress(STEPS_PER_EPOCH, values.epochs, quiet=True),
    )


def run(s: Session, model: nn.Module, *, end: int = 12, start: int = 0, **more) -> int:
    return fit(s, model, Span("train", start, end), count_cost(model, (3, 8, 8)), **more)


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_fit_equals_a_hand_written_loop_bit_for_bit(tmp_path: Path):
    s, model, reference = session(tmp_path), network(), network()
    assert run(s, model) == 12
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    step = 0
    for epoch in range(4):
        for x, y in s.train.epoch(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(step, 12, s.settings)
            optimizer.zero_grad()
            functional.cross_entropy(reference(x), y).backward()
            optimizer.step()
            step += 1
    assert same_tensors(model, reference)


def test_a_row_per_epoch_and_every_image_in_the_ledger(tmp_path: Path):
    s, model = session(tmp_path), network()
    run(s, model)
    assert [(row["epoch"], row["step"], row["lr"]) for row in s.journal.rows] == [
        (1.0, 3, 0.1), (2.0, 6, 0.1), (3.0, 9, 0.01), (4.0, 12, 0.001)
    ]  # fmt: skip
    cost = s.journal.ledger.total()
    assert cost.images == 200
    assert cost.macs == 200 * count_cost(model, (3, 8, 8)).train_macs
    assert s.journal.rows[0]["val_accuracy"] is None


def test_validation_accuracy_appears_where_a_split_is_given(tmp_path: Path):
    part = bundle().train
    s = session(tmp_path, bundle(val=part))
    run(s, network(), end=3)
    assert 0.0 <= s.journal.rows[0]["val_accuracy"] <= 1.0


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


class KillAt(Hooks):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state) -> bool:
        if state.step == self.step:
            raise Killed
        return False


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 7, 11, 12])
@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_a_run_killed_at_any_step_ends_with_the_same_bits(tmp_path: Path, killed_at: int, checkpoint_every: int):
    whole, model = session(tmp_path / "whole"), network()
    run(whole, model)
    broken = session(tmp_path / "broken", checkpoint_every=checkpoint_every)
    with pytest.raises(Killed):
        run(broken, network(), hooks=KillAt(killed_at))
    again, resumed = session(tmp_path / "broken", checkpoint_every=checkpoint_every), network()
    with torch.no_grad():
        resumed[0].weight.zero_()  # everything must come from the checkpoint
    run(again, resumed, resume=again.checkpoints.latest())
    assert same_tensors(model, resumed)
    without_time = [
        [{k: v for k, v in r.items() if k != "wall_seconds"} for r in s.journal.rows] for s in (whole, again)
    ]
    assert without_time[0] == without_time[1]
    assert again.journal.ledger.total().images == 200


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path):
    def norm_free() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    whole, parts = norm_free(), norm_free()
    run(session(tmp_path / "a"), whole)
    run(session(tmp_path / "b", micro_batches=3), parts)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_clipping_bounds_the_first_step(tmp_path: Path):
    model, before = network(), network()
    s = session(tmp_path, clip_norm=1e-3, weight_decay=0.0)
    run(s, model, end=1)
    moved = sum((a - b).square().sum() for a, b in zip(model.parameters(), before.parameters(), strict=True)).sqrt()
    assert float(moved) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_a_non_finite_loss_stops_with_its_step_and_leaves_the_last_good_checkpoint(tmp_path: Path):
    class Poison(Hooks):
        def after_step(self, state) -> bool:
            if state.step == 5:
                with torch.no_grad():
                    state.model[5].weight.fill_(float("nan"))
            return False

    s = session(tmp_path)
    with pytest.raises(NonFiniteError, match="at step 5 of phase 'train'"):
        run(s, network(), hooks=Poison())
    state = s.checkpoints.latest()
    assert state["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["model"].values() if v.is_floating_point())


def test_a_hook_ends_the_phase_and_the_next_goes_on_at_that_step(tmp_path: Path):
    class EndAt4(Hooks):
        def after_step(self, state) -> bool:
            return state.step == 4

    s, model = session(tmp_path), network()
    assert run(s, model, hooks=EndAt4()) == 4
    seen: list[torch.Tensor] = []
    original = s.train.epoch
    s.train.epoch = lambda e, first=0: [seen.append(y) or (x, y) for x, y in original(e, first)]
    run(s, model, start=4, end=6)
    rest = [y for _, y in original(1, 1)]
    assert [y.tolist() for y in seen] == [y.tolist() for y in rest]


def test_accuracy_is_total_correct_over_total_samples():
    class FirstPixelIsTheClass(nn.Module):
        def forward(self, x):
            return functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 4).float()

    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    images = torch.zeros(7, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = labels
    images[6] = 0  # the one mistake sits in the last, partial batch: a mean of batch means would give 0.5 + 0.5 * 2/3
    data = DataBundle(
        "d", 4, 1, 8, (0.0,), (1.0,), *(MemoryImages(images, labels), None, MemoryImages(images, labels)), tuple("abcd")
    )
    batches = eval_batches(data, "test", batch_size=4, device="cpu")
    model = FirstPixelIsTheClass().train()
    result = evaluate(model, batches, Compute(torch.device("cpu"), "fp32"))
    assert (result.correct, result.samples, result.accuracy) == (6, 7, 6 / 7)
    assert result.top5_accuracy is None
    assert model.training


def test_auto_precision_is_one_of_the_two_and_leaves_the_network_alone():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    chosen = choose_precision("auto", model, (4, 3, 8, 8), torch.device("cpu"))
    assert chosen in ("fp32", "bf16")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert choose_precision("bf16", model, (4, 3, 8, 8), torch.device("cpu")) == "bf16"


@pytest.mark.parametrize(
    ("ratio", "chosen", "warns"), [(15.0, "fp32", True), (2.0, "fp32", False), (0.5, "bf16", False)]
)
def test_bf16_on_a_cpu_that_is_slow_at_it_is_warned_of_and_never_chosen(ratio, chosen, warns, monkeypatch):
    images = []

    def seconds(model, batch, compute):
        images.append(len(batch))
        return ratio if compute.precision == "bf16" else 1.0

    monkeypatch.setattr("earlybird.training.compute._step_seconds", seconds)
    cpu = torch.device("cpu")
    assert choose_precision("auto", network(), (64, 3, 8, 8), cpu) == chosen
    assert (64 in images) == (not warns)  # A whole batch is not tried where a few images tell.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert choose_precision("bf16", network(), (64, 3, 8, 8), cpu) == "bf16"
        assert choose_precision("fp32", network(), (64, 3, 8, 8), cpu) == "fp32"
    expected = ["bf16 takes 15 times the seconds of fp32 on this CPU; leave --precision out or give fp32"]
    assert [str(warning.message) for warning in said] == (expected if warns else [])


def test_an_absent_device_is_refused():
    from earlybird.errors import ConfigError

    with pytest.raises(ConfigError, match="give auto, cpu, cuda or cuda:N"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="0 CUDA devices are visible"):
            choose_device("cuda:1")


def test_memory_that_runs_out_in_an_evaluation_names_the_evaluation(tmp_path: Path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    batches = eval_batches(bundle(), "test", batch_size=8, device="cpu")
    monkeypatch.setattr("earlybird.training.compute.functional.cross_entropy", full)
    with pytest.raises(OutOfMemoryError, match=r"in an evaluation; lower --training\.eval_batch_size"):
        evaluate(network(), batches, Compute(torch.device("cpu"), "fp32"))


class EndAt(Hooks):
    def __init__(self, step: int) -> None:
        self.step, self.settled = step, list[tuple[int, int]]()

    def after_step(self, state) -> bool:
        return state.step == self.step

    def settle(self, state) -> None:
        self.settled.append((state.step, len(state.session.journal.rows)))


def test_hooks_settle_after_the_row_of_an_epoch(tmp_path: Path):
    hooks = EndAt(99)
    run(session(tmp_path), network(), end=6, hooks=hooks)
    assert hooks.settled == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2)]


def test_an_epoch_that_a_hook_breaks_off_is_validated_where_it_ends(tmp_path: Path):
    s = session(tmp_path, bundle(val=bundle().train))
    model = network()
    at = run(s, model, hooks=EndAt(4))
    assert at == 4 and s.journal.rows[-1]["val_accuracy"] is None
    run(s, model, start=at)
    assert [(row["step"], row["val_accuracy"] is not None) for row in s.journal.rows] == [
        (3, True), (4, False), (6, True), (9, True), (12, True),
    ]  # fmt: skip
