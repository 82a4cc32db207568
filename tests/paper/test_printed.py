"""Our copy of the printed numbers against the transcript of the paper, where that is at hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from earlybird.paper.printed import (
    FIGURE5_REDUCTIONS,
    FIRST_STEP_PERCENT,
    METHODS,
    MOST_ACCURACY_GAINED,
    MOST_ENERGY_SAVED,
    MOST_OVERHEAD_PERCENT,
    TABLE2,
    TABLE3,
)

TRANSCRIPT = Path(__file__).parents[2].parent / "shared" / "paper"
needs_transcript = pytest.mark.skipif(not TRANSCRIPT.is_dir(), reason="the transcript of the paper is not here")


def transcript(name: str) -> list[dict[str, str]]:
    with (TRANSCRIPT / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    return float(text) if text else None


def test_the_tables_have_their_cells():
    assert len(TABLE2) * len(METHODS) == 96
    assert len(TABLE3) == 13
    assert all(len(s.accuracies) == len(s.kilojoules) == len(s.petaflops) == 8 for s in TABLE2)


@needs_transcript
def test_every_number_of_table_2_is_the_printed_one():
    ours = [
        (s.model, s.dataset, m, s.prune_ratio, s.accuracy_percent(m), s.energy_kilojoules(m), s.total_petaflops(m))
        for s in TABLE2
        for m in METHODS
    ]
    columns = ("prune_ratio", "retrain_accuracy_percent", "energy_kilojoules", "total_training_petaflops")
    rows = transcript("table2.csv")
    assert ours == [(r["model"], r["dataset"], r["method"], *(float(r[c]) for c in columns)) for r in rows]


@needs_transcript
def test_every_number_of_table_3_is_the_printed_one():
    ours = [(r.model, r.method, r.prune_ratio, r.total_petaflops, r.top1_percent, r.top1_improvement) for r in TABLE3]
    columns = ("prune_ratio", "total_training_petaflops", "top1_percent", "top1_improvement")
    rows = transcript("table3.csv")
    assert ours == [(r["model"], r["method"], *(number(r[c]) for c in columns)) for r in rows]


@needs_transcript
def test_claims_are_those_of_the_text():
    claims = {row["id"]: row["value"] for row in transcript("text_claims.csv")}
    assert claims["energy_vs_baselines_high"] == f"{MOST_ENERGY_SAVED}x"
    assert claims["fig5_accuracy"].endswith(f"+{MOST_ACCURACY_GAINED}")
    assert claims["first_step_share"] == f"{FIRST_STEP_PERCENT:g}"
    assert claims["fig5_flops"] == "{}-{}x".format(*FIGURE5_REDUCTIONS)
    assert claims["overhead_flops"] == f"<={MOST_OVERHEAD_PERCENT}"
