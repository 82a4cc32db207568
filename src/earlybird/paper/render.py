"""The recomputed tables for the terminal (`print_*`) and for a file (`*_facts`); the same content both times.

No number is computed here. A terminal of 80 letters is enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from earlybird.paper.contradictions import Contradiction, table2_contradictions, table3_contradictions
from earlybird.paper.figure5 import Figure5Row, figure5_rows, settings_by_claim
from earlybird.paper.printed import FIGURE5_REDUCTIONS
from earlybird.paper.table2 import Table2Cell, Table2Row, table2_rows
from earlybird.paper.table3 import Table3Row, table3_rows

MISSING = "–"
LABELS = {
    "lottery_ticket": "LT",
    "snip": "SNIP",
    "network_slimming": "NS",
    "thinet": "ThiNet",
    "soft_filter_pruning": "SFP",
    "early_bird_reinit": "EB re-init",
    "early_bird_ff": "EB FF",
    "early_bird_lf": "EB LF",
    "early_bird_ll": "EB LL",
}
TABLE3_READING = (
    "NS network slimming, SFP soft filter pruning, EB Early Bird; p is the pruning ratio. Total training PFLOPs; "
    "N = 1,281,167 images, 3 forward passes a step; F of ResNet18 and ResNet50 is counted.",
    "Derived: counted F alone. From published inputs: F or a cut that another paper gives. Fitted: searched until the "
    "printed number came out; pairs are (draw epoch, slim F).",
)
TABLE2_READING = (
    "LT lottery ticket, NS network slimming, EB Early Bird; re-init, FF, LF, LL as the paper names them. Total "
    "training PFLOPs over 160 epochs of 50,000 images, rounded to 0.05, then to three digits, half up; to three "
    "digits alone beside a printed total that is no multiple of 0.05.",
    "Fitted: draw epoch e and slim F (GFLOP) searched so that EB re-init and EB FF both come out; (e, F) lists all "
    "such pairs, * those for which a tie was rounded down; draws past epoch 80 fit the arithmetic only.",
    "NS: the slim F that the cell implies. LF and LL: the paper counts an 8-bit operation as one FLOP; e is unknown.",
)
FIGURE5_READING = (
    "Total training PFLOPs if the ticket is drawn at epoch 0, 10, ...; `at e`: at the epoch that fits Table 2. "
    "F: slim F in GFLOP. `base`: progressive pruning and training, 160 dense and 160 slim epochs.",
    "`times`: base / at e. `text`: does it lie, rounded to 0.1, within the text's {:g}-{:g}x? Each pair that fits "
    "Table 2 with a draw up to epoch 80 has a row.".format(*FIGURE5_REDUCTIONS),
)


def print_table3(console: Console) -> None:
    """Print Table 3, a table a network, with notes and contradictions."""
    rows = table3_rows()
    for model, group in groupby(rows, key=lambda row: row.model):
        table = _table(f"Table 3: {model} on ImageNet", ["method", "printed", "recomputed", "off"])
        table.add_column(Text("how"))
        for row in group:
            off = MISSING if row.difference is None else f"{row.difference:.2f}"
            how = f"{row.status}: {row.formula}" if row.formula else row.status
            _add(table, [_method(row), f"{row.printed:.2f}", _number(row.recomputed, ".2f"), off, how])
        console.print(table)
    _print_lines(console, TABLE3_READING)
    _print_lines(console, (f"{row.model} {_method(row)}: {row.note}." for row in rows if row.note))
    _print_contradictions(console, table3_contradictions())


def print_table2(console: Console) -> None:
    """Print Table 2, a table a network and data set, with contradictions."""
    for (model, dataset), group in groupby(table2_rows(), key=lambda row: (row.model, row.dataset)):
        console.print(_table2(model, dataset, list(group)))
    _print_lines(console, TABLE2_READING)
    _print_contradictions(console, table2_contradictions())


def print_figure5(console: Console) -> None:
    """Print the numbers of Figure 5, a table a network and data set, and which settings bear out the text."""
    for (model, dataset), group in groupby(figure5_rows(), key=lambda row: (row.model, row.dataset)):
        console.print(_figure5_table(model, dataset, list(group)))
    _print_lines(console, FIGURE5_READING)
    _print_lines(console, _verdict())


def table3_facts() -> dict[str, Any]:
    """The content of `print_table3` in what JSON can hold."""
    return _facts(table3_rows(), TABLE3_READING, table3_contradictions())


def table2_facts() -> dict[str, Any]:
    """The content of `print_table2` in what JSON can hold."""
    return _facts(table2_rows(), TABLE2_READING, table2_contradictions())


def figure5_facts() -> dict[str, Any]:
    """The content of `print_figure5` in what JSON can hold."""
    names = ("inside_claim", "outside_claim", "no_fit")
    settings = {name: list(found) for name, found in zip(names, settings_by_claim(), strict=True)}
    facts = _facts(figure5_rows(), FIGURE5_READING, ())
    return {**facts, "claimed_reductions": list(FIGURE5_REDUCTIONS), "settings": settings}


def _facts(rows: Sequence[Any], reading: Sequence[str], found: Sequence[Contradiction]) -> dict[str, Any]:
    facts = {
        "reading": reading,
        "rows": [asdict(row) for row in rows],
        "contradictions": [asdict(contradiction) for contradiction in found],
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become the lists that a reader of the file gets
    return plain


def _table(title: str, columns: Sequence[str]) -> Table:
    """A table without side borders, the first column to the left and numbers to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if place == 0 else "right")
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    table.add_row(*map(Text, cells))


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else f"{value:{form}}"


def _three_digits(petaflops: float) -> str:
    return f"{petaflops:.1f}" if petaflops >= 10 else f"{petaflops:.2f}"


def _method(row: Table3Row) -> str:
    # Table 3 has one kind of Early-Bird row, so the tail that tells kinds apart would say nothing.
    label = "EB" if row.method == "early_bird_ff" else LABELS.get(row.method, row.method)
    return label if row.prune_ratio is None else f"{label} p={row.prune_ratio:g}"


def _table2(model: str, dataset: str, rows: Sequence[Table2Row]) -> Table:
    columns = [name for row in rows for name in (f"p={row.prune_ratio:g}\nprinted", "\nrecomputed")]
    title = f"Table 2: {model} on {dataset}, dense F {rows[0].dense_gflops:.2f} GFLOP"
    table = _table(title, ["\nmethod", *columns])
    for cells in zip(*(row.cells for row in rows), strict=True):
        pairs = [text for cell in cells for text in (_three_digits(cell.printed), _recomputed(cell))]
        _add(table, [LABELS[cells[0].method], *pairs])
    _add(table, ["(e, F)", *(text for row in rows for text in ("", _pairs(row)))])
    return table


def _recomputed(cell: Table2Cell) -> str:
    if cell.slim_gflops:
        return "F " + ", ".join(f"{slim:.2f}" for slim in cell.slim_gflops)
    return cell.status if cell.recomputed is None else f"{_three_digits(cell.recomputed)} {cell.status}"


def _pairs(row: Table2Row) -> str:
    marks = ["" if fit.is_half_up else "*" for fit in row.fits]
    pairs = (f"({fit.draw_epoch}, {fit.slim_gflops:.2f}){mark}" for fit, mark in zip(row.fits, marks, strict=True))
    return "\n".join(pairs) or "none"


def _figure5_table(model: str, dataset: str, rows: Sequence[Figure5Row]) -> Table:
    epochs = [str(epoch) for epoch, _ in rows[0].curve]
    title = f"Figure 5: {model} on {dataset}, dense F {rows[0].dense_gflops:.2f} GFLOP"
    table = _table(title, ["p", "F", "e", *epochs, "at e", "base", "times", "text"])
    for row in rows:
        totals = map(_three_digits, (*(total for _, total in row.curve), row.drawn, row.baseline))
        answer = "yes" if row.inside_claim else "no"
        head = [f"{row.prune_ratio:g}", f"{row.slim_gflops:.2f}", str(row.draw_epoch)]
        _add(table, [*head, *totals, f"{row.reduction:.2f}x", answer])
    return table


def _verdict() -> list[str]:
    inside, outside, unfitted = settings_by_claim()
    claim = "{:g}-{:g}x".format(*FIGURE5_REDUCTIONS)
    return [
        f"Inside the text's {claim} (earliest fit): {', '.join(inside) or 'none'}.",
        f"Outside: {', '.join(outside) or 'none'}.",
        f"No pair fits Table 2, so no curve: {', '.join(unfitted) or 'none'}.",
    ]


def _print_contradictions(console: Console, found: Sequence[Contradiction]) -> None:
    console.print("\nWhere the paper disagrees with itself", style="bold", highlight=False)
    _print_lines(console, (f"- {contradiction.claim}\n  -> {contradiction.finding}" for contradiction in found))


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)
