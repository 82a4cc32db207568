"""Comparisons under budgets: what was spent, who leads by how much, the Pareto picture; by hand and from real records.

`digits-budgets.tar.xz` holds the records of `earlybird compare --model vgg11 --width 0.25 --data digits --epochs 12
--training.batch_size 64 --precision fp32` with the methods dense, narrow, wide_start, early_bird, the budgets time=0.5,
time=0.7 and macs=0.5, and dense without a budget; seeds 1 and 2.
"""

from __future__ import annotations

import csv
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from earlybird.cli.main import main
from earlybird.report.comparison import comparison_tables
from earlybird.report.grid import GridEntry, RatioResults, budget_facts, results_by_ratio
from earlybird.report.grid_tables import brief_tables, full_tables, means_table, runs_table
from earlybird.report.pareto import MACS, SPENT_TIME, STEP_TIME, ParetoPoint, curves_of, non_dominated
from earlybird.report.pareto_plot import plot_pareto
from earlybird.report.table import to_csv, to_markdown
from earlybird.report.verdict import leads, verdicts
from earlybird.runs.record_file import load_records

RECORDS = Path(__file__).with_name("digits-budgets.tar.xz")
# 10 epochs of 100 steps; a budget of half of them.
WHOLE, HALF = 1000, 500


def record(
    method: str, seed: int, correct: int, budget: str = "", told: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A run that had `correct` of 1,000 test images right."""
    return {
        "run_id": f"{method}-{budget}-s{seed}",
        "config": {"model": {"name": "vgg16"}, "data": {"name": "cifar10"}, "method": {"name": method.split(":")[0]},
                   "training": {"epochs": 10, "batch_size": 128, "lr": 0.1, "budget": budget}},
        "resolved": {"precision": "bf16", "steps_per_epoch": 100},
        "device": {"type": "cpu", "name": "x86_64", "threads": 1},
        "seeds": {"run": seed},
        "dense": {"params": 100, "macs": 50},
        "final": {"params": 40, "macs": 20},
        "metrics": [{"epoch": 10.0}],
        "test": {"accuracy": correct / 1000, "samples": 1000},
        "cost": {"phases": {"train": {"macs": 700, "cpu_seconds": 5.0}},
                 "total": {"macs": 700, "wall_seconds": 9.0, "cpu_seconds": 5.0}},
        "notes": {"budget": {"asked": budget, **(told or {})}} if budget else {},
    }  # fmt: skip


def told(ratio: float = 1.0, steps: float = HALF, spent: float = 0.0, dense_steps: int = HALF) -> dict[str, Any]:
    return {"dense_steps": dense_steps, "spent": spent, "step_ratio": ratio, "steps": steps}


def entry(label: str, seed: int, correct: int, budget: str = "time=0.5", **notes: Any) -> GridEntry:
    made = record(label, seed, correct, budget, told(**notes))
    return GridEntry(label, None, seed, False, f"{label}-{budget}-s{seed}", made, "", budget)


def entries(budget: str = "time=0.5", **correct: list[int]) -> list[GridEntry]:
    """Runs of methods with the seeds 0, 1, ..."""
    return [entry(name, seed, number, budget) for name, all_ in correct.items() for seed, number in enumerate(all_)]


def results(found: list[GridEntry], reference: str = "narrow") -> list[RatioResults]:
    return results_by_ratio(found, reference)


def said(found: list[GridEntry], reference: str = "narrow") -> list[str]:
    return verdicts(results(found, reference), reference, found[0].record)


def test_what_a_run_took_is_its_search_and_its_last_steps_at_their_step_time():
    # A fifth of 500 dense steps, then 800 steps that take half as long: 100 + 400 of 1,000.
    facts = budget_facts(record("wide_start", 0, 900, "time=0.5", told(ratio=0.5, steps=800, spent=0.2)))
    assert facts == {"step_ratio": 0.5, "budget_asked": 0.5, "budget_share": 0.5, "time_share": 0.5}
    assert budget_facts(record("narrow", 0, 900, "seconds=60", told(ratio=0.5)))["time_share"] == 0.25


def test_a_budget_in_macs_says_nothing_of_seconds_and_a_run_without_a_last_training_took_its_search():
    facts = budget_facts(record("narrow", 0, 900, "macs=0.5", told(ratio=0.5, steps=1000)))
    assert (facts["budget_share"], facts["time_share"]) == (0.5, None)
    only_search = {"dense_steps": HALF, "spent": 1.0}
    assert budget_facts(record("early_bird", 0, 900, "time=0.5", only_search))["budget_share"] == 0.5


def test_without_a_budget_only_the_dense_training_is_known_to_take_all_of_it():
    assert budget_facts(record("dense", 0, 900))["time_share"] == 1.0
    assert budget_facts(record("narrow", 0, 900))["time_share"] is None
    shortened = record("dense", 0, 900)
    shortened["config"]["training"]["budget_macs"] = 5.0
    assert budget_facts(shortened)["time_share"] is None


def test_seconds_of_training_leave_out_the_cut_and_the_evaluation():
    made = entry("narrow", 0, 900)
    made.record["cost"]["phases"] = {  # type: ignore[index]
        "search": {"cpu_seconds": 1.0}, "slim": {"cpu_seconds": 20.0}, "retrain": {"cpu_seconds": 4.0, "macs": 700},
        "evaluate": {"cpu_seconds": 0.5},
    }  # fmt: skip
    (table,) = brief_tables(results([made]), "narrow", "vgg16")
    assert dict(zip(table.headings(), table.rows[0], strict=True))["CPU\nseconds,\ntraining"] == "5.0"
    assert curves_of(results([made]), SPENT_TIME)[0].points[0].cost == 5.0


def test_budgets_stand_in_the_order_of_their_amounts():
    found = [e for budget in ("seconds=1000", "time=0.7", "seconds=600") for e in entries(budget, narrow=[900])]
    assert [result.budget for result in results(found)] == ["seconds=600", "seconds=1000", "time=0.7"]


def test_the_table_shows_what_was_spent_and_names_who_is_off_the_budget():
    near, off = entry("narrow", 0, 900, ratio=0.5, steps=1020), entry("wide_start", 0, 910, ratio=0.6, steps=900)
    (table,) = full_tables(results([near, off]), "narrow", "vgg16")
    head, _, narrow, wide_start = to_markdown(table).splitlines()[2:6]
    cells = [dict(zip(head.split(" | "), row.split(" | "), strict=True)) for row in (narrow, wide_start)]
    assert [cell["cost / dense"] for cell in cells] == ["0.510", "0.540"]
    assert [cell["step / dense"] for cell in cells] == ["0.50", "0.60"]
    (note,) = [note for note in table.notes if note.startswith("Not at equal cost")]
    assert note == "Not at equal cost, more than 3 % off the budget (0.500): wide_start (0.540)."
    (table,) = full_tables(results([near]), "narrow", "vgg16")
    assert not any(note.startswith("Not at equal cost") for note in table.notes)


def test_seconds_that_buy_runs_another_number_of_dense_steps_are_not_equal():
    found = [
        entry("dense", 0, 900, "seconds=9", dense_steps=540, steps=540),
        entry("narrow", 0, 890, "seconds=9", steps=460, dense_steps=460),
    ]
    (table,) = full_tables(results(found), "narrow", "vgg16")
    assert "Not at equal cost, more than 3 % off the budget (0.500): dense (0.540), narrow (0.460)." in table.notes
    assert said(found)[0].startswith("At 9 s of training (seconds=9), dense with a shorter schedule has")


def test_the_full_schedule_stands_above_the_methods_of_each_budget_and_has_no_table_of_its_own():
    whole = GridEntry("dense", None, 0, False, "dense-s0", record("dense", 0, 930))
    found = [whole, *entries("time=0.5", narrow=[900]), *entries("time=0.7", narrow=[910])]
    tables = brief_tables(results(found), "narrow", "vgg16")
    assert [table.title for table in tables] == ["vgg16: budget time=0.5", "vgg16: budget time=0.7"]
    assert [row[0] for row in tables[0].rows] == ["dense, full schedule", "narrow"]
    assert tables[0].rows[0][1:5] == ["93.00", "+3.00", "–", "1.000"]
    # What is below the first table is not said again below the second.
    assert not set(tables[0].notes) & set(tables[1].notes)


def test_dense_as_the_reference_of_a_comparison_without_budgets_has_the_columns_of_one():
    found = [GridEntry(name, None, 0, False, f"{name}-s0", record(name, 0, 930)) for name in ("dense", "snip")]
    table, _ = brief_tables(results(found, "dense"), "dense", "vgg16")
    assert table.title == "vgg16: at equal ratio" and "cost ratio" in table.headings()
    (table,) = full_tables(results(entries(dense=[900], narrow=[890]), "dense"), "dense", "vgg16")
    assert "cost / dense" in table.headings() and "step / dense" in table.headings()


def test_plain_numbers_tell_budgets_apart():
    found = [*entries("time=0.5", narrow=[900]), *entries("time=0.7", narrow=[910])]
    for table in (means_table(results(found)), runs_table(found)):
        rows = list(csv.DictReader(to_csv(table).splitlines()))
        assert [(row["budget"], row["budget_share"]) for row in rows] == [("time=0.5", "0.5"), ("time=0.7", "0.5")]
    assert means_table(results(found)).rows[0][0] == "equal budget"


def test_the_leads_are_paired_by_seed_and_corrected_for_all_differences_of_the_budget():
    found = leads(
        results(entries(dense=[880, 881, 883], narrow=[890, 900, 895], wide_start=[900, 911, 905]))[0], "narrow"
    )
    lead = found["wide_start", "narrow"]
    # 1.0, 1.1 and 1.0 points: t = 31, p = 0.00104, thrice. dense: 1.0, 1.9 and 1.2, t = 5.0, the largest p: once.
    assert (lead.points.mean, lead.points.n, lead.family) == (pytest.approx(31 / 30), 3, 3)
    assert lead.p == pytest.approx(3 * 0.00104, rel=0.01)
    assert found["dense", "narrow"].p == found["narrow", "dense"].p == pytest.approx(0.0376, abs=5e-4)


def test_who_is_ahead_of_both_rivals_is_said_with_the_interval():
    # t = 152 and 175: p = 1 / t^2 with 2 degrees of freedom, times 3 for the smaller, which the next is not below.
    first, conditions = said(entries(dense=[800, 801, 803], narrow=[850, 852, 853], wide_start=[900, 903, 904]))
    assert first == (
        "At 50 % of the dense training time (time=0.5), wide_start has the highest test accuracy, 90.23 % (n = 3): "
        "ahead of narrow (+5.07 ± 0.14 points, p-value 9.8e-05); "
        "ahead of dense with a shorter schedule (+10.10 ± 0.25 points, p-value 9.8e-05)."
    )
    assert "vgg16 on cifar10, 10 epochs in the full schedule, recipe paper, batch size 128, bf16, cpu" in conditions
    assert "bf16, cpu x86_64 (1 thread), 1,000 test images, seeds 0, 1, 2." in conditions
    assert "Holm's correction for the 3 differences of a budget and prune ratio" in conditions


def test_level_and_undecided_are_not_ahead():
    (level, _) = said(entries(narrow=[900, 904, 902], wide_start=[901, 904, 902]))
    assert "wide_start has the highest" in level and "level with narrow (+0.03 ± 0.14 points" in level
    (open_, _) = said(entries(narrow=[900, 904, 902], wide_start=[930, 900, 910]))
    assert "not significantly different from narrow (+1.13 ± " in open_


def test_a_lead_that_the_correction_does_not_leave_is_told_as_such():
    # t = 5.2 by three seeds: p = 0.035, times the three differences of the budget.
    (first, _) = said(entries(dense=[880, 892, 885], narrow=[890, 890, 890], wide_start=[900, 910, 902]))
    assert "ahead of narrow by more than the interval, but not after Holm's correction (+1.40 ± " in first


def test_one_seed_is_no_finding_and_equal_differences_are_no_test():
    (one, conditions) = said(entries(dense=[910], narrow=[900]))
    assert one.endswith("91.00 % (n = 1): +1.00 points from narrow (one seed: no finding).")
    assert "Holm" not in conditions
    (two, _) = said(entries(narrow=[900, 901], wide_start=[902, 903]))
    assert two.endswith("+0.20 points from narrow in each of 2 seeds (no spread to test).")


def test_if_a_rival_is_best_the_next_is_named_beside_the_other_rival():
    (first, _) = said(entries(dense=[800, 801, 803], narrow=[900, 903, 904], wide_start=[890, 880, 904]))
    assert re.search(
        r"narrow has .*: not significantly different from wide_start .*; ahead of dense with a shorter", first
    )


def test_a_method_with_fewer_seeds_is_not_judged():
    (first, _) = said(entries(narrow=[900, 910], wide_start=[950]))
    assert first.startswith("At 50 % of the dense training time (time=0.5), narrow has") and first.endswith(
        "Not ranked (other finished seeds): wide_start."
    )
    whole = [GridEntry("dense", None, 0, False, "dense-s0", record("dense", 0, 930))]
    assert said(whole, "dense") == []  # no budget


def test_a_rival_that_lacks_a_seed_and_is_better_in_the_others_is_told_as_such():
    found = entries(narrow=[900, 901, 903, 902], early_bird=[950, 952, 951])
    first, conditions = said(found, "early_bird")
    assert (
        "narrow has the highest test accuracy of the methods with all seeds, 90.15 % (n = 4): behind early_b" in first
    )
    assert re.search(r"behind early_bird \(-4\.97 ± 0\.\d\d points, n = 3, p-value \d", first)
    assert "the 1 differences" not in conditions and "for the 1 difference of" in conditions


def test_without_a_finished_rival_a_sentence_says_so():
    (first, _) = said(entries(wide_start=[900, 901], early_bird=[890, 891]))
    assert first.endswith("no finished run of narrow or dense with a shorter schedule to compare it with.")


def point(cost: float, accuracy: float) -> ParetoPoint:
    return ParetoPoint(cost, accuracy, 0.0, 1)


def test_a_point_is_dominated_by_what_is_better_for_the_same_or_less():
    worse, best, cheap, dear = point(0.5, 70), point(0.51, 72), point(0.3, 60), point(1.0, 72)
    # 0.51 is 0.5 within 3 %; equal accuracy for twice the cost is dominated.
    assert non_dominated([worse, best, cheap, dear]) == [best, cheap]
    assert non_dominated([point(0.5, 70), point(0.6, 72)]) == [point(0.5, 70), point(0.6, 72)]


def test_a_curve_joins_the_budgets_of_a_method_and_ends_at_the_full_schedule():
    whole = GridEntry("dense", None, 0, False, "dense-s0", record("dense", 0, 930))
    later = [
        entry(name, 0, correct, "time=0.7", dense_steps=700, steps=700)
        for name, correct in (("dense", 910), ("narrow", 905))
    ]
    found = results([whole, *entries("time=0.5", dense=[900], narrow=[890]), *later])
    curves = {
        curve.name: [(p.cost, round(p.accuracy, 6)) for p in curve.points] for curve in curves_of(found, STEP_TIME)
    }
    assert curves == {"dense": [(0.5, 90.0), (0.7, 91.0), (1.0, 93.0)], "narrow": [(0.5, 89.0), (0.7, 90.5)]}


def test_cuts_that_follow_the_budget_are_one_curve_and_two_in_one_budget_are_two():
    cuts = [entry("wide_start:cuts=0.1/0.5", 0, 900), entry("wide_start:cuts=0.1/0.7", 0, 910, "time=0.7")]
    assert [curve.name for curve in curves_of(results(cuts), STEP_TIME)] == ["wide_start:cuts=…"]
    more = [*cuts, entry("wide_start:cuts=0.2/0.5", 0, 905)]
    assert len(curves_of(results(more), STEP_TIME)) == 3


def test_runs_at_several_ratios_are_curves_and_sentences_of_their_own():
    made = [entry(f"early_bird-{p}", 0, 900 + round(10 * p)) for p in (0.3, 0.5)]
    birds = [replace(e, label="early_bird", prune_ratio=p) for e, p in zip(made, (0.3, 0.5), strict=True)]
    found = [*entries(narrow=[890]), *birds]
    assert [curve.name for curve in curves_of(results(found), STEP_TIME)] == [
        "narrow", "early_bird, p = 0.3", "early_bird, p = 0.5",
    ]  # fmt: skip
    first, second, _ = said(found)
    assert "(time=0.5), prune ratio 0.3, early_bird has the highest test accuracy, 90.30 %" in first
    assert "prune ratio 0.5, early_bird has the highest test accuracy, 90.50 %" in second


def test_what_lies_far_below_is_named_in_the_legend_and_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    labels: list[str] = []
    monkeypatch.setattr(Figure, "legend", lambda _, handles, texts, **style: labels.extend(texts))
    assert plot_pareto(results(entries(dense=[900], narrow=[890], snip=[301])), "x", tmp_path / "a.svg") is not None
    assert labels[:3] == ["dense", "narrow", "snip\n   not drawn: 30.10 % at 0.5"]


def test_seconds_of_another_machine_are_no_point():
    other = entry("narrow", 0, 900)
    other.record["device"]["threads"] = 2  # type: ignore[index]
    found = results([*entries(dense=[890]), other])
    assert [curve.name for curve in curves_of(found, SPENT_TIME)] == ["dense"]
    assert [curve.name for curve in curves_of(found, MACS)] == ["dense", "narrow"]


def test_without_budgets_there_is_no_pareto_picture(tmp_path: Path):
    found = [GridEntry(name, None, 0, False, f"{name}-s0", record(name, 0, 930)) for name in ("dense", "narrow")]
    assert plot_pareto(results(found), "x", tmp_path / "a.svg") is None and not (tmp_path / "a.svg").exists()


def unpacked(into: Path) -> Path:
    with tarfile.open(RECORDS) as tar:
        tar.extractall(into, filter="data")
    return into


def test_a_report_tells_the_budgets_of_real_runs_apart(tmp_path: Path):
    (table,) = comparison_tables(load_records([unpacked(tmp_path)]))
    rows = {str(row[0]): dict(zip(table.headings(), row, strict=True)) for row in table.rows}
    budgets = ("macs=0.5", "time=0.5", "time=0.7")
    names = [name if not budget else f"{name} ({budget})" for name in ("dense",) for budget in ("", *budgets)]
    names += [f"{name} ({budget})" for name in ("early_bird", "narrow", "wide_start") for budget in budgets]
    assert list(rows) == names
    # The full schedule is the partner of all; nobody asked for the fraction that a step time came to.
    assert [str(rows[name]["training MACs"])[-6:] for name in names[:4]] == ["(1.00)", "(0.50)", "(0.50)", "(0.70)"]
    assert rows["narrow (time=0.5)"]["p asked / realised"] == "– / 0.453"


def test_the_output_of_real_runs_says_who_won_and_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    unpacked(tmp_path / "runs")
    assert main(["compare", "--out", str(tmp_path / "runs"), "--reference", "narrow"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-1])) <= 80 and re.search(r"┃ +training ┃ n ┃", out)  # no word is broken
    printed = " ".join(out.split())
    first = (
        "At 50 % of the dense training MACs (macs=0.5), narrow has the highest test accuracy, 99.44 % (n = 2): "
        "not significantly different from wide_start (+0.00 ± 3.58 points, p-value 1); "
        "not significantly different from dense with a shorter schedule"
    )
    assert printed.startswith(first)
    assert printed.endswith("table.md, table.tex, table.csv, runs.csv, pareto.svg, pareto.png")
    page = (tmp_path / "runs" / "table.md").read_text()
    assert page.startswith(first) and page.count("| dense, full schedule | 99.44 ± 0.40 |") == 3
    assert (
        "Conditions: vgg11 (width 0.25) on digits, 12 epochs in the full schedule, recipe paper, batch size 64" in page
    )
    assert "prune ratio 0.5, fp32, cpu x86_64 (1 thread), 355 test images, seeds 1, 2." in page
    rows = list(csv.DictReader((tmp_path / "runs" / "runs.csv").read_text().splitlines()))
    shares = {float(row["budget_share"]) / float(row["budget"][-3:]) for row in rows if row["budget"]}
    assert len(rows) == 26 and min(shares) > 0.99 and max(shares) < 1.01  # equal is equal
    assert (tmp_path / "runs" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "runs" / "pareto.svg").read_bytes()
    assert main(["compare", "--out", str(tmp_path / "runs"), "--reference", "narrow"]) == 0
    assert (tmp_path / "runs" / "pareto.svg").read_bytes() == svg and svg.startswith(b"<?xml")
