"""The trained dense network of a finished `dense` run, and its recorded training cost."""

from __future__ import annotations

from pathlib import Path

from earlybird.errors import MethodError
from earlybird.methods.candidate import DenseRun
from earlybird.runs.config import RunConfig, differences, with_younger_settings
from earlybird.runs.record_file import record_of
from earlybird.runs.saved_model import load_network
from earlybird.settings.controls import Dense

# Settings that change no weight: a dense run that differs in them is the same training.
_WITHOUT_EFFECT = (
    "data.root", "data.cache", "data.download", "data.workers", "training.checkpoint_every", "training.eval_batch_size",
)  # fmt: skip


def load_trained(folder: Path, config: RunConfig, precision: str) -> DenseRun:
    """Final state of the dense run in `folder`, of the same network, data and training as `config`.

    Args:
        folder: a finished run of method `dense`.
        config: the run that is to start from it.
        precision: what that run computes in.

    Raises:
        RunFolderError: the folder holds no finished run.
        MethodError: it is no dense run, or of another network, data, training or precision.
        CheckpointError: its network cannot be read.
    """
    record = record_of(folder)
    if (method := record["config"]["method"]["name"]) != Dense.name:
        raise MethodError(f"run {folder} is one of method {method}; give a run of method dense")
    if record["config"]["training"].get("budget_macs"):
        raise MethodError(
            f"run {folder} was trained for as long as its training.budget_macs allowed; give one without a budget"
        )
    changes = [
        change
        for change in differences(with_younger_settings(record["config"], config), config.to_dict())
        if not change.startswith(("method.", "training.budget_macs", *_WITHOUT_EFFECT))
    ]
    if (theirs := record["resolved"]["precision"]) != precision:
        changes.append(f"precision: {theirs!r} -> {precision!r}")
    if changes:
        raise MethodError(f"run {folder} is of another training ({'; '.join(changes[:4])}); give one of the same")
    model, _ = load_network(folder, trusted=(config.model.name,))  # the user has named it
    rows = [{**row, "phase": "search"} for row in record["metrics"]]
    ledger = [{**record["cost"]["phases"]["train"], "phase": "search"}]
    return DenseRun(model.state_dict(), {"rows": rows, "ledger": ledger})
