"""The printed tables: every number side by side, in a terminal of 120 letters and of 80, and the same facts as JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from earlybird.paper import figure5, table2, table3
from earlybird.paper.table2 import table2_rows
from earlybird.paper.table3 import table3_rows

TABLES = {"table2": table2, "table3": table3, "figure5": figure5}


def printed(name: str, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    TABLES[name].recompute().show(console)
    return console.file.getvalue()


def facts(name: str) -> dict[str, Any]:
    return json.loads(TABLES[name].recompute().as_json())


def line_with(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_no_line_is_too_long_and_no_number_is_cut_off(name, width):
    text = printed(name, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_table_3_has_printed_and_recomputed_side_by_side():
    text = printed("table3", 120)
    assert line_with(text, "SFP p=0.3").split()[2:5] == ["1991.94", "1991.95", "0.01"]
    assert "from published inputs: 3*N*90*(3.64 + 3.64*(1 - 0.418)) G" in text
    assert line_with(text, "EB p=0.3", "2242.30").split() == ["EB", "p=0.3", "2242.30", "–", "–", "not", "derived"]
    assert "resnet18 SFP p=0.3: 0.01 off." in text
    for row in table3_rows():
        assert f"{row.printed:.2f}" in text and row.formula in text


def test_table_2_has_the_fits_and_the_implied_f():
    text = printed("table2", 120)
    vgg = text[text.index("vgg16 on cifar10,") : text.index("preresnet101 on cifar100,")]
    assert line_with(vgg, "SNIP").split() == ["SNIP", *["15.1", "15.1", "exact"] * 3]
    assert line_with(vgg, "NS").split() == ["NS", "27.4", "F", "0.51", "25.7", "F", "0.44", "23.8", "F", "0.36"]
    assert line_with(vgg, "(e, F)").split() == ["(e,", "F)", "(23,", "0.51)", "(17,", "0.43)*", "none"]
    assert "7.45 off by 0.05" in text
    assert "8.35x" in text


def test_figure_5_has_a_line_a_fit_and_a_verdict():
    text = printed("figure5", 120)
    row = "0.3 0.51 23 12.2 12.4 12.6 13.0 13.7 15.1 12.7 27.4 2.16x yes"
    assert row in [" ".join(line.split()) for line in text.splitlines()]
    assert "Inside the text's 2.2-2.4x (earliest fit): preresnet101 cifar10 p=0.5" in text


def test_json_holds_every_row():
    assert [row["status"] for row in facts("table3")["rows"]] == [row.status for row in table3_rows()]
    cells = [cell for row in facts("table2")["rows"] for cell in row["cells"]]
    assert len(cells) == 96
    assert [cell["printed"] for cell in cells] == [float(cell.printed) for row in table2_rows() for cell in row.cells]
    assert len(facts("table2")["contradictions"]) == 7
    figure = facts("figure5")
    assert (len(figure["rows"]), figure["claimed_reductions"]) == (15, [2.2, 2.4])
    assert figure["settings"]["no_fit"] == ["vgg16 cifar10 p=0.7"]


def test_numbers_are_numbers_in_json():
    row = facts("table2")["rows"][3]
    assert (row["model"], row["prune_ratio"], row["dense_gflops"]) == ("vgg16", 0.3, 0.63)
    assert row["fits"][0] == {"draw_epoch": 23, "slim_gflops": 0.51, "epochs": 160, "is_half_up": True}


def test_the_claim_of_figure_5_is_the_same_in_its_reading():
    assert "within the text's 2.2-2.4x?" in facts("figure5")["reading"][1]
