from __future__ import annotations

import io

import pytest
from rich.console import Console

from earlybird.report.tables import markdown_comparison, print_comparison


def printed(records, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(records, console)
    return console.file.getvalue()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def markdown_row(records, method: str) -> dict[str, str]:
    lines = markdown_comparison(records).splitlines()
    head = next(line for line in lines if line.startswith("| method"))
    body = next(line for line in lines if line.startswith(f"| {method} "))
    return dict(zip(cells(head), cells(body), strict=True))


@pytest.fixture
def pair(make_record):
    return [make_record("dense", train_macs=5e13, wall_seconds=400), make_record(train_macs=3e13, wall_seconds=320)]


def test_markdown_shows_value_and_ratio_of_one_pair(pair):
    row = markdown_row(pair, "early_bird")
    assert row["p asked / realised"] == "0.5 / 0.503"
    assert row["test accuracy %"] == "84.93"
    assert row["ticket at epoch (of schedule)"] == "2.125 (10.6 %)"
    assert row["parameters"] == "260 k (0.28)"
    assert row["MACs per image"] == "11.8 M (0.60)"
    assert row["training MACs"] == "30.0 T (0.60)"
    assert row["seconds"] == "320 (0.80)"
    assert row["n"] == "1"


def test_markdown_shows_mean_and_deviation_over_seeds(make_record):
    seeds = enumerate(((0.80, 300), (0.84, 360)))
    records = [make_record(seed=s, accuracy=a, wall_seconds=w) for s, (a, w) in seeds]
    row = markdown_row(records, "early_bird")
    assert row["test accuracy %"] == "82.00 ± 2.83"  # 4 / sqrt(2)
    assert row["seconds"] == "330 ± 42"  # 60 / sqrt(2), and no ratio without a dense run
    assert row["n"] == "2"


def test_a_quantity_that_some_runs_lack_shows_its_own_n(make_record):
    records = [make_record(seed=s) for s in range(3)]
    records[0]["test"]["accuracy"] = None
    assert markdown_row(records, "early_bird")["test accuracy %"] == "84.93 [n=2]"


def test_top_5_stands_beside_top_1_where_it_was_measured(make_record):
    records = [make_record(seed=s) for s in range(2)]
    for record, top5 in zip(records, (0.95, 0.97), strict=True):
        record["test"]["top5_accuracy"] = top5
    assert markdown_row(records, "early_bird")["test accuracy %"] == "84.93, top-5 96.00 ± 1.41"


def test_a_ticket_that_saves_no_time_says_so(make_record):
    records = [make_record("dense", wall_seconds=100), make_record(wall_seconds=104)]
    text = markdown_comparison(records)
    assert "104 (1.04)" in text
    assert "early_bird saves no time here: 1.04 of the dense seconds." in text
    assert "saves no time" not in markdown_comparison(records[:1])


def test_a_search_in_vain_is_shown_as_none(make_record):
    records = [make_record(ticket={"none": True, "last_distances": [0.3]}), make_record(seed=1)]
    row = markdown_row(records, "early_bird")
    assert row["ticket at epoch (of schedule)"] == "2.125 [n=1] (10.6 %); none in 1 of 2"
    assert markdown_row(records[:1], "early_bird")["ticket at epoch (of schedule)"] == "none in 1 of 1"


def test_a_flagged_ticket_is_marked_and_explained(make_record):
    record = make_record()
    record["ticket"]["flags"] = ["fired at the earliest draw"]
    text = markdown_comparison([record])
    assert "(10.6 %)†" in text and "† early_bird: fired at the earliest draw." in text


def test_missing_dense_runs_are_pointed_out(make_record):
    assert "No dense run of this model" in markdown_comparison([make_record()])


def test_the_terminal_table_stands_side_by_side_in_eighty_letters(pair):
    text = printed(pair)
    assert max(map(len, text.splitlines())) <= 80
    seconds = next(line for line in text.splitlines() if "seconds" in line and "│" in line)
    assert [cell.strip() for cell in seconds.strip("│").split("│")] == ["seconds", "400 (1.00)", "320 (0.80)"]


def test_methods_that_do_not_fit_get_a_table_of_their_own(make_record):
    records = [make_record("dense"), *(make_record(name) for name in ("early_bird", "random", "shuffled", "uniform"))]
    text = printed(records)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("test accuracy %") == 3
    for name in ("dense", "early_bird", "random", "shuffled", "uniform"):
        assert name in text
    assert printed(records, width=200).count("test accuracy %") == 1


def test_square_brackets_in_names_are_printed_as_they_are(make_record):
    assert "net[bold]" in printed([make_record(model="net[bold]")])


def test_no_records_give_no_table():
    assert printed([]) == ""
    assert markdown_comparison([]) == "\n"
