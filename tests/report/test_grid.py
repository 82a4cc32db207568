"""Tables of a grid from records made by hand: pairing by seed, costs, what is missing, and the text forms."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from earlybird.report.grid import GridEntry, grid_rows, results_by_ratio
from earlybird.report.grid_plot import in_view, plot_grid, points_of
from earlybird.report.grid_tables import brief_tables, full_tables, means_table, runs_table
from earlybird.report.table import to_csv, to_latex, to_markdown, to_terminal


def record(method: str, seed: int, correct: int, macs: int, **more: Any) -> dict[str, Any]:
    """A finished run that cost `macs`, and 10 for its evaluation."""
    return {
        "run_id": f"{method}-s{seed}",
        "config": {"model": {"name": "vgg16"}, "data": {"name": "cifar10"}, "method": {"name": method},
                   "training": {"epochs": 8}},
        "seeds": {"run": seed},
        "dense": {"params": 100, "macs": 50},
        "final": {"params": 40, "macs": 20},
        "metrics": [{"epoch": 8.0}],
        "test": {"accuracy": correct / 1000, "samples": 1000},
        "cost": {
            "phases": {"train": {"macs": macs}, "evaluate": {"macs": 10}},
            "total": {"macs": macs + 10, "paper_flops": 2.0 * macs, "wall_seconds": macs / 100, "cpu_seconds": 1.0},
        },
        **more,
    }  # fmt: skip


def entry(label: str, seed: int, correct: int, macs: int, ratio: float | None = 0.5, equal: bool = False, **more: Any):
    return GridEntry(
        label, ratio, seed, equal, f"{label}-{ratio}-s{seed}{equal}", record(label, seed, correct, macs, **more)
    )


ENTRIES = [
    entry("early_bird", 0, 900, 700),
    entry("early_bird", 1, 880, 720),
    entry("dense", 0, 910, 1000, None),
    entry("dense", 1, 900, 1000, None),
    entry("uniform", 0, 890, 705),
    entry("uniform", 1, 890, 715),
    entry("snip", 0, 850, 1000),
    entry("snip", 0, 830, 690, equal=True),
    entry("reinit", 0, 800, 760),
    GridEntry("thinet", 0.5, 0, False, "thinet-p0.5-s0", None, "RuntimeError: no memory"),
]


def lines(which: str) -> dict[str, Any]:
    (table,) = results_by_ratio(ENTRIES, "early_bird")
    return {line.name: line for line in getattr(table, which)}


def in_markdown(entries: list[GridEntry]) -> str:
    return to_markdown(*full_tables(results_by_ratio(entries, "early_bird"), "early_bird", "x"))


def in_terminal(entries: list[GridEntry], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for table in brief_tables(results_by_ratio(entries, "early_bird"), "early_bird", "vgg16 on cifar10"):
        to_terminal(table, console)
    return console.file.getvalue().splitlines()


def test_differences_are_formed_within_a_seed():
    found = lines("equal_ratio")
    # uniform - early_bird: 89 - 90 and 89 - 88 points.
    assert found["uniform"].difference.mean == pytest.approx(0.0)
    assert found["uniform"].difference.half_width == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-3)
    assert found["dense"].difference.mean == pytest.approx(1.5)
    assert found["early_bird"].difference is None
    assert (found["snip"].difference.mean, found["snip"].difference.n) == (pytest.approx(-5.0), 1)
    assert found["snip"].difference.half_width is None


def test_dense_stands_first_and_failures_are_counted():
    found = lines("equal_ratio")
    assert list(found) == ["dense", "early_bird", "uniform", "snip", "reinit", "thinet"]
    assert found["thinet"].failed == 1 and not found["thinet"].rows


def test_at_equal_cost_stands_what_costs_as_much_and_what_was_made_to():
    found = lines("equal_cost")
    assert list(found) == ["early_bird", "uniform", "snip"]
    assert found["uniform"].cost_ratio == pytest.approx((705 / 700 + 715 / 720) / 2)  # without the evaluation
    assert found["snip"].difference.mean == pytest.approx(-7.0)
    (table,) = results_by_ratio(ENTRIES, "early_bird")
    assert table.not_equal == {"dense": pytest.approx((1000 / 700 + 1000 / 720) / 2), "reinit": pytest.approx(76 / 70)}


def test_what_was_to_cost_as_much_and_does_not_is_named():
    entries = [*ENTRIES, entry("thinet", 0, 850, 917, equal=True)]
    markdown = in_markdown(entries)
    assert "Not at that cost after all, and not to be compared with the others: thinet (1.31)." in markdown
    assert "Not at that cost" not in in_markdown(ENTRIES)


def test_eighty_letters_hold_the_names_of_methods():
    entries = [*ENTRIES, *(entry("early_bird_restart", seed, 900 + seed, 700) for seed in (0, 1))]
    lines = in_terminal(entries, 80)
    assert max(map(len, lines)) <= 80
    assert {line[1:20].strip() for line in lines if line.startswith("│")} >= {"early_bird_restart", "dense", "uniform"}
    assert all(line.endswith(("│", "┃")) for line in lines if line.startswith(("│", "┃")))


def test_what_to_know_of_a_run_at_equal_cost_stands_below_its_own_table():
    entries = [*ENTRIES, entry("thinet", 0, 850, 700, equal=True, flags=["its last training is 0.02 of it"])]
    ratio, cost = in_markdown(entries).split("at the total cost")
    assert "| thinet | 8 | 8† |" in cost and "† thinet: its last training is 0.02 of it." in cost
    assert "†" not in ratio


def test_runs_of_the_reference_at_its_own_cost_are_not_what_differences_are_formed_against():
    entries = [*ENTRIES, entry("early_bird", 0, 500, 700, equal=True)]
    (table,) = results_by_ratio(entries, "early_bird")
    uniform = next(line for line in table.equal_ratio if line.name == "uniform")
    assert uniform.difference.mean == pytest.approx(0.0)


def test_ratios_are_to_the_dense_run_of_the_same_seed_also_at_equal_cost():
    rows = grid_rows(ENTRIES)
    assert rows["early_bird-0.5-s1False"]["train_macs_ratio"] == pytest.approx(730 / 1010)
    assert rows["snip-0.5-s0True"]["train_macs_ratio"] == pytest.approx(700 / 1010)
    assert rows["snip-0.5-s0False"]["params_ratio"] == pytest.approx(0.4)


def test_each_ratio_has_its_table_with_the_runs_that_have_none():
    more = [*ENTRIES, entry("early_bird", 0, 910, 900, 0.3)]
    tables = results_by_ratio(more, "early_bird")
    assert [table.prune_ratio for table in tables] == [0.3, 0.5]
    assert [line.name for line in tables[0].equal_ratio] == ["dense", "early_bird"]
    assert tables[0].equal_ratio[0].difference.mean == pytest.approx(0.0)


def test_a_grid_of_methods_without_a_ratio_has_one_table():
    (table,) = results_by_ratio([e for e in ENTRIES if e.label == "dense"], "dense")
    assert [line.name for line in table.equal_ratio] == ["dense"]
    assert table.accuracy_error == pytest.approx(100 * (0.91 * 0.09 / 1000) ** 0.5, rel=0.01)


def test_the_text_forms_agree():
    results = results_by_ratio(ENTRIES, "early_bird")
    tables = full_tables(results, "early_bird", "vgg16 on cifar10")
    markdown = to_markdown(*tables)
    (uniform,) = [line for line in markdown.split("total cost")[0].splitlines() if line.startswith("| uniform |")]
    assert uniform.split(" | ")[2:4] == ["89.00", "+0.00 ± 12.71"]
    assert "### vgg16 on cifar10, p = 0.5: at the total cost of early_bird" in markdown
    assert "were not run at its cost: dense (1.41), reinit (1.09)." in markdown
    assert "0 (1 failed)" in markdown
    latex = to_latex(*tables)
    assert r"early\_bird & -- " in latex and r"+0.00 $\pm$ 12.71" in latex and "_bird" not in latex.replace(r"\_", "")
    lines = in_terminal(ENTRIES, 100)
    assert any("+0.00 ± 12.71" in line for line in lines) and max(map(len, lines)) <= 100
    found = {
        (row["comparison"], row["method"]): row for row in csv.DictReader(to_csv(means_table(results)).splitlines())
    }
    assert found["equal ratio", "uniform"]["points_half_width"].startswith("12.70")
    assert found["equal ratio", "thinet"]["n"] == "0" and found["equal ratio", "thinet"]["accuracy"] == ""


def test_the_runs_as_csv_have_a_line_for_each_also_for_failed_ones():
    rows = list(csv.DictReader(to_csv(runs_table(ENTRIES)).splitlines()))
    assert len(rows) == len(ENTRIES)
    assert (rows[-1]["status"], rows[-1]["error"]) == ("failed", "RuntimeError: no memory")
    assert (rows[0]["status"], rows[0]["accuracy"], rows[0]["training_macs"]) == ("finished", "0.9", "700")


def test_what_a_method_scored_before_its_channels_went_is_told():
    entries = [*ENTRIES, entry("soft", 0, 800, 700, uncut_test={"accuracy": 0.85})]
    assert "soft: 85.00 % before its channels went." in in_markdown(entries)


def priced(label: str, seed: int, macs: int, seconds: float, joules: float, device: str = "cpu") -> GridEntry:
    ratio = None if label == "dense" else 0.5
    made = entry(label, seed, 900, macs, ratio, device={"type": device}, energy={
        "measured": {"nvml": {"joules": 2 * joules, "coverage": 1.0}} if device == "cuda" else {}, "reason": None,
        "estimated": {"joules": joules, "source": "a table"},
    })  # fmt: skip
    made.record["cost"]["total"]["cpu_seconds"] = seconds  # type: ignore[index]
    return made


def test_cpu_seconds_and_joules_stand_beside_the_seconds_with_their_share_of_dense():
    entries = [priced("dense", 0, 1000, 200.0, 40.0), priced("early_bird", 0, 700, 150.0, 10.0)]
    header, _, _, early_bird = in_markdown(entries).splitlines()[2:6]
    cells = dict(zip(header.split(" | "), early_bird.split(" | "), strict=True))
    assert cells["CPU seconds"] == "150 (0.75)" and cells["energy, estimated"] == "~10.0 J (0.25)"
    assert "at the unit energies of a table" in in_markdown(entries)
    assert not any(
        "a table" in line for line in in_terminal(entries, 200)
    )  # the terminal shows no energies, so it explains none
    for table in (means_table(results_by_ratio(entries, "early_bird")), runs_table(entries)):
        found = {row["method"]: row for row in csv.DictReader(to_csv(table).splitlines())}
        assert (found["early_bird"]["cpu_seconds"], found["early_bird"]["joules estimated"]) == ("150.0", "10.0")


def test_seconds_with_another_number_of_threads_are_named_and_not_divided():
    entries = [priced("dense", 0, 1000, 200.0, 40.0), priced("early_bird", 0, 700, 150.0, 10.0)]
    for made, threads in zip(entries, (1, 2), strict=True):
        made.record["device"]["threads"] = threads
    markdown = in_markdown(entries)
    assert "so that their seconds are not to be compared with its: early_bird." in markdown
    assert "| 150 |" in markdown


def test_cpu_seconds_are_not_shown_where_a_gpu_did_the_work_and_measured_joules_are():
    entries = [priced("dense", 0, 1000, 200.0, 40.0, "cuda"), priced("early_bird", 0, 700, 150.0, 10.0, "cuda")]
    markdown = in_markdown(entries)
    assert "CPU seconds" not in markdown and "| energy, measured by nvml | energy, estimated |" in markdown
    assert "| 20.0 J (0.25) | ~10.0 J (0.25) |" in markdown
    assert "joules measured by nvml" in runs_table(entries).headings()


def marks(entries: list[GridEntry]) -> dict[tuple[str, bool], tuple[float, float]]:
    (table,) = results_by_ratio(entries, "early_bird")
    return {(point.name, point.is_full): (point.cost, point.accuracy) for point in points_of(table)}


def test_the_picture_has_a_mark_for_each_method_and_a_hollow_one_for_each_schedule_set_to_the_cost(tmp_path: Path):
    found = marks([*ENTRIES, entry("soft", 0, 210, 1000)])
    assert found["early_bird", True] == (1.0, pytest.approx(89.0))
    assert found["snip", True] == (pytest.approx(1000 / 700), pytest.approx(85.0))
    assert found["snip", False] == (pytest.approx(690 / 700), pytest.approx(83.0))
    assert ("uniform", False) not in found  # it costs that as it is
    assert not any(name == "thinet" for name, _ in found)  # which failed
    tables = results_by_ratio([*ENTRIES, entry("soft", 0, 210, 1000)], "early_bird")
    one, two = (plot_grid(tables, "early_bird", "x", tmp_path / name) for name in ("a.svg", "b.svg"))
    assert one is not None and two is not None and one.read_bytes() == two.read_bytes()
    assert one.read_text().startswith("<?xml")


def test_a_grid_without_costs_has_no_picture(tmp_path: Path):
    tables = results_by_ratio([e for e in ENTRIES if e.label == "dense"], "early_bird")
    assert plot_grid(tables, "early_bird", "x", tmp_path / "a.svg") is None and not (tmp_path / "a.svg").exists()


def test_what_lies_far_below_does_not_press_the_rest_together():
    (table,) = results_by_ratio([*ENTRIES, entry("soft", 0, 210, 1000)], "early_bird")
    points = points_of(table)
    assert {point.name for point in points} - {point.name for point in in_view(points)} == {"soft"}
