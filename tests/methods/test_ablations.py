"""What must come out bit for bit: at ratio 0 without penalty a method is dense training, and the last training of every
other method is `fit` called by hand from the same start. What is cut equals what is masked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from earlybird.methods import pipeline
from earlybird.methods.hooks import HoldHooks
from earlybird.methods.task import Candidate
from earlybird.runs.run import run, run_search
from earlybird.settings.method import TicketRequest, requests_of
from earlybird.settings.run import RunConfig
from earlybird.slimming import masked
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.loop import fit
from earlybird.training.session import Journal, Progress, Session
from earlybird.training.state import Span

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a ratio of 0 always fires


# A conv more on the right, so that there is a layer whose channels one conv alone reads.
FOR_THINET = (
    "self.right = nn.Sequential(nn.Conv2d(12, 16, 1, bias=False)",
    "self.right = nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), "
    "nn.Conv2d(8, 16, 1, bias=False)",
)


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("snip", {}),
        ("snip", {"form": "channels"}),
        ("soft_filter_pruning", {}),
        ("lottery_ticket", {}),
        ("lottery_ticket", {"rounds": 2}),
        ("uniform", {}),
        ("dense_shorter", {}),
        ("early_bird", {"carry_momentum": True, "penalty": 0.0}),
        ("early_bird", {"draw_at": 0, "penalty": 0.0}),
    ],
)
def test_at_ratio_0_without_penalty_it_ends_bit_for_bit_as_dense_training(
    method, values, tiny_settings, tiny: Path, tmp_path: Path, run_once
):
    # Each phase seeds dropout anew, so the bits of two phases are those of one only without it.
    tiny.write_text(tiny.read_text().replace("nn.Dropout(0.1)", "nn.Identity()"))
    short = {"epochs": 6}
    run_once(tiny_settings("dense", training=short), tmp_path / "dense")
    ticket = None
    if method in ("uniform", "dense_shorter"):
        search = RunConfig.from_dict(tiny_settings(prune_ratio=0.0, penalty=0.0, training=short))
        (ticket,) = run_search(search, requests_of([0.0]), tmp_path / "search", quiet=True).values()
        assert ticket is not None
    else:
        values = {"prune_ratio": 0.0, **values}
    record = go(tiny_settings(method, training=short, **values), tmp_path / "run", ticket=ticket)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "dense"))
    assert record["final"]["params"] == record["dense"]["params"]


LAST = [
    ("early_bird", {}),
    ("early_bird", {"schedule": "restart"}),
    ("early_bird", {"weights": "reinit"}),
    ("early_bird", {"channels": "random"}),
    ("early_bird", {"channels": "shuffled"}),
    ("early_bird", {"draw_at": 3}),
    ("early_bird", {"carry_momentum": True}),
    ("network_slimming", {"round_to": 1}),
    ("thinet", {"round_to": 1, "finetune_steps": 2}),
    ("snip", {"form": "channels", "round_to": 1}),
    ("snip", {}),
    ("lottery_ticket", {}),
    ("lottery_ticket", {"weights": "reinit"}),
    ("uniform", {}),
    ("scratch_longer", {}),
    ("dense_shorter", {}),
]


@pytest.mark.parametrize(("method", "values"), LAST)
def test_the_last_training_is_fit_called_by_hand_from_the_same_start(
    method, values, tiny_settings, tiny: Path, tmp_path: Path, monkeypatch
):
    tiny.write_text(tiny.read_text().replace(*FOR_THINET))
    if method in ("uniform", "scratch_longer", "dense_shorter"):
        request = TicketRequest(0.5, 4)
        search = RunConfig.from_dict(tiny_settings(training={"epochs": 6}))
        ticket = run_search(search, [request], tmp_path / "search", quiet=True)[request]
    else:
        ticket = None
    starts: list[tuple[Candidate, Any, torch.nn.Module]] = []
    original = pipeline.train_candidate

    def spy(task: Any, candidate: Candidate, resume: Any) -> None:
        starts.append((candidate, task, copy.deepcopy(candidate.model)))
        original(task, candidate, resume)

    monkeypatch.setattr(pipeline, "train_candidate", spy)
    go(tiny_settings(method, training={"epochs": 6}, **values), tmp_path / "run", ticket=ticket)
    ((candidate, task, model),) = starts
    theirs = task.session
    session = Session(
        theirs.train, None, theirs.settings, theirs.compute, Checkpoints(tmp_path / "checkpoints"), Journal(),
        Progress(theirs.steps_per_epoch, 1, quiet=True),
    )  # fmt: skip
    hooks = HoldHooks(model, mask=candidate.weight_mask) if candidate.weight_mask is not None else None
    span = Span("train", candidate.start_step, candidate.end_step, candidate.schedule_steps)
    done = fit(session, model, span, task.cost(model), hooks=hooks, momentum=candidate.momentum)
    assert done > candidate.start_step
    assert same(dict(model.state_dict()), weights(tmp_path / "run"))


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("early_bird", {}),
        ("early_bird", {"channels": "random"}),
        ("early_bird", {"channels": "shuffled"}),
        ("early_bird", {"draw_at": 0}),
        ("early_bird", {"draw_at": "last"}),
        ("network_slimming", {"round_to": 1}),
        ("snip", {"form": "channels", "round_to": 1}),
        ("thinet", {"round_to": 1, "finetune_steps": 2}),
        ("soft_filter_pruning", {"round_to": 1}),
    ],
)
def test_the_slim_network_starts_as_the_masked_one(
    method, values, tiny_settings, tiny: Path, tmp_path: Path, monkeypatch
):
    tiny.write_text(tiny.read_text().replace("nn.Dropout(0.1)", "nn.Identity()").replace(*FOR_THINET))

    class Seen(Exception):
        pass

    found: list[tuple[Candidate, Any]] = []

    def catch(task: Any, candidate: Candidate, resume: Any) -> None:
        found.append((candidate, task))
        raise Seen

    monkeypatch.setattr(pipeline, "train_candidate", catch)
    with pytest.raises(Seen):
        go(tiny_settings(method, **values), tmp_path / "run")
    ((candidate, task),) = found
    assert candidate.ticket is not None
    dense = task.build()
    dense.load_state_dict(dict(candidate.ticket.weights))
    reference = masked(dense, candidate.ticket.mask)
    x, _ = next(iter(task.session.train.epoch(0)))
    for training in (False, True):
        outputs = [net.train(training)(x).detach() for net in (candidate.model, reference)]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert not candidate.ticket.mask.flat().all()
