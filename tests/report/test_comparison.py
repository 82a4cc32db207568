from __future__ import annotations

import io

import pytest
from rich.console import Console

from earlybird.report.comparison import comparison_rows, comparison_tables, group_rows, print_comparison
from earlybird.report.table import to_markdown


def only_group(records):
    [groups] = group_rows(comparison_rows(records)).values()
    return groups


def test_a_row_states_what_was_run_and_what_came_out(make_record):
    [row] = comparison_rows([make_record(accuracy=0.85, wall_seconds=340.0)])
    assert (row["method"], row["model"], row["data"], row["epochs"]) == (
        "early_bird",
        "vgg16 (width 0.25)",
        "cifar10",
        20,
    )
    assert (row["prune_ratio"], row["realised_ratio"], row["accuracy"]) == (0.5, 0.503, 0.85)
    assert (row["emergence_epoch"], row["emergence_share"], row["wall_seconds"]) == (2.125, 0.10625, 340.0)


def test_sizes_are_divided_by_the_own_dense_network(make_record):
    record = make_record()
    record["dense"].update(params=1000, macs=400)
    record["final"].update(params=250, macs=300)
    [row] = comparison_rows([record])
    assert (row["params_ratio"], row["macs_ratio"]) == (0.25, 0.75)


def test_costs_are_divided_by_the_dense_run_of_the_same_seed(make_record):
    records = [
        make_record("dense", seed=0, train_macs=100, wall_seconds=10.0),
        make_record("dense", seed=1, train_macs=100, wall_seconds=20.0),
        make_record(seed=1, train_macs=60, wall_seconds=15.0),
    ]
    row = comparison_rows(records)[2]
    assert row["dense_run_id"] == records[1]["run_id"]
    assert row["train_macs_ratio"] == pytest.approx(0.6)
    assert row["train_paper_flops_ratio"] == pytest.approx(0.6)
    assert row["wall_seconds_ratio"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    "other", [{"seed": 3}, {"data": "cifar100"}, {"model": "vgg11"}, {"width": 0.5}, {"total_epochs": 40}]
)
def test_a_dense_run_of_anything_else_is_no_partner(make_record, other):
    _, row = comparison_rows([make_record("dense", **other), make_record()])
    assert row["dense_run_id"] is None
    assert row["train_macs_ratio"] is None and row["wall_seconds_ratio"] is None


def test_a_part_of_a_data_set_is_named_and_compared_by_itself(make_record):
    whole, part = make_record("dense"), make_record("early_bird")
    part["config"]["data"] = part["config"]["data"] | {"train_images": 10_000}
    first, second = comparison_rows([whole, part])
    assert second["data"] == f"{first['data']} (10,000 images)" and second["train_macs_ratio"] is None


def test_seconds_of_two_numbers_of_threads_are_not_divided(make_record):
    dense, slim = make_record("dense"), make_record("early_bird")
    for threads, is_divided in ((None, True), (1, True), (2, False)):
        dense["device"] = {"type": "cpu", "name": "2 cores", "threads": 1}
        slim["device"] = dense["device"] | {"threads": threads}
        row = comparison_rows([dense, slim])[1]
        assert (row["wall_seconds_ratio"] is not None) == (row["cpu_seconds_ratio"] is not None) == is_divided
        assert row["train_macs_ratio"] is not None


def test_seconds_of_two_devices_are_not_divided(make_record):
    dense, ticket = make_record("dense"), make_record()
    dense["device"] = {"type": "cuda", "name": "another"}
    row = comparison_rows([dense, ticket])[1]
    assert row["wall_seconds_ratio"] is None
    assert row["train_macs_ratio"] is not None


def test_a_dense_run_is_its_own_partner(make_record):
    [row] = comparison_rows([make_record("dense")])
    assert row["wall_seconds_ratio"] == row["params_ratio"] == 1.0
    assert row["prune_ratio"] is None and row["emergence_epoch"] is None


def test_paper_flops_that_were_not_counted_stay_none(make_record):
    record = make_record("dense")
    record["cost"]["total"]["paper_flops"] = None
    [row] = comparison_rows([record])
    assert row["train_paper_flops"] is None and row["train_paper_flops_ratio"] is None


def test_spread_is_the_mean_and_the_sample_deviation(make_record):
    [group] = only_group([make_record(seed=s, accuracy=a) for s, a in enumerate((0.80, 0.82, 0.84))])
    spread = group.spread("accuracy")
    assert spread.mean == pytest.approx(0.82)
    assert spread.std == pytest.approx(0.02)  # sqrt((0.02^2 + 0 + 0.02^2) / 2)
    assert spread.n == 3


def test_one_run_has_no_deviation(make_record):
    [group] = only_group([make_record()])
    assert group.spread("accuracy").std is None
    assert group.spread("train_macs_ratio") is None


def test_ratios_are_formed_in_each_pair_and_then_averaged(make_record):
    records = [make_record("dense", seed=s, wall_seconds=w) for s, w in enumerate((10.0, 100.0))]
    records += [make_record(seed=s, wall_seconds=w) for s, w in enumerate((5.0, 100.0))]
    _, group = only_group(records)
    assert group.spread("wall_seconds_ratio").mean == pytest.approx(0.75)  # (0.5 + 1.0) / 2, and not 105 / 110


def test_dense_comes_first_then_method_and_ratio(make_record):
    records = [make_record("random"), make_record(), make_record("dense")]
    assert [group.name for group in only_group(records)] == ["dense", "early_bird", "random"]


def test_runs_of_other_settings_are_not_averaged_and_the_name_says_what_differs(make_record):
    low, high = make_record(), make_record(seed=1)
    high["config"]["training"]["lr"] = 0.5
    names = [group.name for group in only_group([low, high])]
    assert names == ["early_bird (lr=0.1)", "early_bird (lr=0.5)"]


@pytest.mark.parametrize(
    ("section", "key", "default", "other"), [("training", "budget_macs", 0.0, 7e9), ("method", "min_draw_steps", 5, 1)]
)
def test_a_record_that_is_older_than_a_setting_is_averaged_with_its_default(make_record, section, key, default, other):
    older, same, one = make_record(), make_record(seed=1), make_record(seed=2)
    same["config"][section][key] = default
    assert [len(group.rows) for group in only_group([older, same])] == [2]
    one["config"][section][key] = other
    names = [group.name for group in only_group([older, same, one])]
    assert names == ["early_bird", f"early_bird ({key}={other})"]


def test_a_dense_run_with_a_budget_is_no_partner(make_record):
    dense = make_record("dense")
    dense["config"]["training"]["budget_macs"] = 7e9
    assert comparison_rows([make_record(), dense])[0]["dense_run_id"] is None
    one, other, same = make_record(), make_record("dense"), make_record("dense")
    one["config"]["training"]["budget_macs"] = 7e9
    other["config"]["training"]["lr"] = 0.5
    other["run_id"], same["run_id"] = "other", "same"
    assert comparison_rows([one, other, same])[0]["dense_run_id"] == "same"  # but for the budget


def test_what_to_know_of_a_ticket_and_of_a_run_stands_in_the_row_once(make_record):
    record = make_record()
    record["ticket"]["flags"] = ["fired at the earliest draw"]
    record["flags"] = ["fired at the earliest draw", "nothing was trained after the cut"]
    (row,) = comparison_rows([record])
    assert row["flags"] == ("fired at the earliest draw", "nothing was trained after the cut")


def test_models_schedules_and_recipes_are_compared_apart(make_record):
    others = [make_record(total_epochs=40), make_record(model="vgg11"), make_record("dense")]
    others[2]["config"]["training"]["schedule"] = "cosine"
    rows = comparison_rows([make_record(), *others])
    assert list(group_rows(rows)) == [
        ("vgg11 (width 0.25)", "cifar10", 20, "paper"),
        ("vgg16 (width 0.25)", "cifar10", 20, "paper"),
        ("vgg16 (width 0.25)", "cifar10", 20, "paper with schedule=cosine"),
        ("vgg16 (width 0.25)", "cifar10", 40, "paper"),
    ]
    assert rows[0]["dense_run_id"] is None


def printed(records, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(records, console)
    return console.file.getvalue()


def in_markdown(records) -> str:
    return to_markdown(*comparison_tables(records))


def table_row(records, method: str) -> dict[str, str]:
    """Column name -> cell in the row of a method."""
    (table,) = comparison_tables(records)
    (row,) = (row for row in table.rows if row[0] == method)
    return dict(zip(table.headings(), row, strict=True))


@pytest.fixture
def pair(make_record):
    return [make_record("dense", train_macs=5e13, wall_seconds=400), make_record(train_macs=3e13, wall_seconds=320)]


def test_markdown_shows_value_and_ratio_of_one_pair(pair):
    row = table_row(pair, "early_bird")
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
    row = table_row(records, "early_bird")
    assert row["test accuracy %"] == "82.00 ± 2.83"  # 4 / sqrt(2)
    assert row["seconds"] == "330 ± 42"  # 60 / sqrt(2), and no ratio without a dense run
    assert row["n"] == "2"


def test_a_quantity_that_some_runs_lack_shows_its_own_n(make_record):
    records = [make_record(seed=s) for s in range(3)]
    records[0]["test"]["accuracy"] = None
    assert table_row(records, "early_bird")["test accuracy %"] == "84.93 [n=2]"


def test_top_5_stands_beside_top_1_where_it_was_measured(make_record):
    records = [make_record(seed=s) for s in range(2)]
    for record, top5 in zip(records, (0.95, 0.97), strict=True):
        record["test"]["top5_accuracy"] = top5
    assert table_row(records, "early_bird")["test accuracy %"] == "84.93, top-5 96.00 ± 1.41"


def test_a_ticket_that_saves_no_time_says_so(make_record):
    records = [make_record("dense", wall_seconds=100), make_record(wall_seconds=104)]
    text = in_markdown(records)
    assert "104 (1.04)" in text
    assert "early_bird saves no time here: 1.04 of the dense seconds." in text
    assert "saves no time" not in in_markdown(records[:1])


def test_a_search_in_vain_is_shown_as_none(make_record):
    records = [make_record(ticket={"none": True, "last_distances": [0.3]}), make_record(seed=1)]
    row = table_row(records, "early_bird")
    assert row["ticket at epoch (of schedule)"] == "2.125 [n=1] (10.6 %); none in 1 of 2"
    assert table_row(records[:1], "early_bird")["ticket at epoch (of schedule)"] == "none in 1 of 1"


def test_a_flagged_ticket_is_marked_and_explained(make_record):
    record = make_record()
    record["ticket"]["flags"] = ["fired at the earliest draw"]
    text = in_markdown([record])
    assert "(10.6 %)†" in text and "† early_bird: fired at the earliest draw." in text


def test_missing_dense_runs_are_pointed_out(make_record):
    assert "No dense run of this model" in in_markdown([make_record()])


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


def test_no_records_give_no_table():
    assert printed([]) == ""
    assert in_markdown([]) == "\n"
