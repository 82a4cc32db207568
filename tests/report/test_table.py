"""`Table` and its forms; what they show is worked out by hand."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from earlybird.report.table import Column, Table, named_columns, to_csv, to_latex, to_markdown, to_terminal

TABLE = Table(
    [Column("method", "left"), Column("accuracy %", form=".2f"), Column("runs")],
    [("early_bird", 93.456, 3), ("a|b & 50 %", None, 1)],
    title="vgg16: p = 0.5",
    notes=["Mean ± deviation.", "~ marks an estimate."],
)


def printed(table: Table, width: int = 80, **more) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    to_terminal(table, console, **more)
    return console.file.getvalue().splitlines()


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns: \\['dense'\\]"):
        Table(named_columns("method", "n"), [("dense",)])
    with pytest.raises(ValueError, match="a row of 1 cells"):
        Table(named_columns("method", "n"), [], total=("all",))


def test_markdown_has_heading_alignment_cells_and_notes_and_escapes_bars():
    assert to_markdown(TABLE) == (
        "### vgg16: p = 0.5\n\n"
        "| method | accuracy % | runs |\n|---|---:|---:|\n| early_bird | 93.46 | 3 |\n| a\\|b & 50 % | – | 1 |\n\n"
        "Mean ± deviation.  \n~ marks an estimate.\n"
    )


def test_several_tables_in_markdown_have_an_empty_line_between_them():
    plain = Table(named_columns("p"), [("0.5",)])
    assert to_markdown(plain, plain) == "| p |\n|---|\n| 0.5 |\n\n| p |\n|---|\n| 0.5 |\n"
    assert to_markdown() == "\n"


def test_latex_escapes_what_latex_reads_as_its_own():
    lines = to_latex(TABLE).splitlines()
    assert lines[1] == r"\caption{vgg16: p = 0.5. Mean $\pm$ deviation. $\sim$ marks an estimate.}"
    assert lines[2] == r"\begin{tabular}{lrr}"
    assert lines[4:8] == [
        r"method & accuracy \% & runs \\", r"\midrule", r"early\_bird & 93.46 & 3 \\", r"a|b \& 50 \% & -- & 1 \\",
    ]  # fmt: skip
    signs = to_latex(Table(named_columns("x"), [(r"\ $ # _ { } ~ ^ †",)]))
    assert r"\textbackslash  \$ \# \_ \{ \} $\sim$ \textasciicircum{} \dag{} \\" in signs
    assert "caption" not in signs


def test_csv_has_raw_numbers_and_empty_cells_for_what_is_missing():
    assert to_csv(TABLE) == "method,accuracy %,runs\nearly_bird,93.456,3\na|b & 50 %,,1\n"
    assert list(csv.reader(to_csv(Table(named_columns("a,b"), [('"',)])).splitlines())) == [["a,b"], ['"']]


def test_the_terminal_shows_title_cells_and_notes_as_they_are():
    lines = printed(Table(named_columns("layer", "n"), [("net[bold]", 1)], title="[red]t", notes=["[dim] 1"]))
    assert lines[0] == "[red]t" and lines[-1] == "[dim] 1"
    assert "│ net[bold] │ 1 │" in lines


def test_the_terminal_keeps_names_whole_where_numbers_must_fold():
    rows = [("early_bird_restart", *["93.45 ± 0.12 of dense"] * 6)]
    headings = [f"quantity {place}" for place in range(6)]
    lines = printed(Table(named_columns("method", *headings, fold_after=18), rows))
    assert max(map(len, lines)) <= 80 and any(line.startswith("│ early_bird_restart │") for line in lines)
    narrow = printed(Table(named_columns("method", *headings, fold_after=10), rows))
    assert any(line.startswith("│ early_bird │") for line in narrow)


def test_a_total_stands_under_a_rule():
    table = Table(named_columns("method", "hours"), [("dense", 1)], total=("all", 1))
    *_, rule, total, _ = printed(table)
    assert set(rule) == set("├─┼┤") and total == "│ all    │     1 │"
    assert to_markdown(table).endswith("| dense | 1 |\n| all | 1 |\n")
    assert to_latex(table).splitlines()[6:8] == [r"\midrule", r"all & 1 \\"]
    assert to_csv(table).endswith("all,1\n")


def test_a_frame_of_a_rule_has_no_lines_at_the_sides():
    lines = printed(Table([Column("p\nprinted", "left"), Column("n")], [("0.5", 1)]), frame="rule")
    assert not any("│" in line for line in lines) and "0.5      1" in [line.strip() for line in lines]


def test_across_has_a_row_for_each_column():
    (turned,) = TABLE.across(80)
    assert turned.headings() == ["method", "early_bird", "a|b & 50 %"]
    assert [list(row) for row in turned.rows] == [["accuracy %", "93.46", "–"], ["runs", "3", "1"]]
    assert (turned.title, turned.notes) == (TABLE.title, TABLE.notes)


def test_across_in_parts_repeats_the_first_column_and_says_title_and_notes_once():
    table = Table(named_columns("m", "x"), [("aaaa", 1), ("bbbb", 2), ("cccc", 3)], "t", ["n"])
    # A column takes its letters and three around them: 4 and one at the edge for "m", 7 for each of the others.
    assert [part.headings() for part in table.across(26)] == [["m", "aaaa", "bbbb", "cccc"]]
    first, second = table.across(25)
    assert (first.headings(), second.headings()) == (["m", "aaaa", "bbbb"], ["m", "cccc"])
    assert (first.title, second.title, first.notes, second.notes) == ("t", "", (), ["n"])
    assert [part.headings() for part in table.across(1)] == [["m", "aaaa"], ["m", "bbbb"], ["m", "cccc"]]
    assert all(len(line) <= 25 for part in (first, second) for line in printed(part)[2:])
