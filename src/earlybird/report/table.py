"""`Table`: named columns, rows, notes; and its forms for a terminal, Markdown, LaTeX and CSV.

Whoever shows numbers builds a `Table` and renders it afterwards. `rich` is loaded by the terminal's form alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | float | None

MISSING = "–"

_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash ", "^": r"\textasciicircum{}", "†": r"\dag{}"}
    | {"±": r"$\pm$", "~": r"$\sim$", "–": "--"}
)


@dataclass(frozen=True)
class Column:
    """Heading of a column, the unit included, and how its cells are shown; the heading may hold line breaks.

    `form` is the format of cells that are numbers, such as `.2f`; CSV writes them raw. `fold_after` are the letters of
    a cell that a terminal keeps on one line, taking the room from other columns; None leaves the width to the terminal.
    """

    heading: str
    align: Literal["left", "right"] = "right"
    form: str = ""
    fold_after: int | None = None

    def text(self, cell: Cell) -> str:
        """Text of a cell: a number by `form`, a dash for None."""
        if cell is None:
            return MISSING
        return cell if isinstance(cell, str) else format(cell, self.form)


@dataclass(frozen=True)
class Table:
    """Columns, rows of as many cells, and notes below them, under a title; `total` is a last row under a rule, or None.

    Raises:
        ValueError: a row has another number of cells than there are columns.

    Example:
        >>> print(to_markdown(Table(named_columns("method", "n"), [("dense", 3)])), end="")
        | method | n |
        |---|---:|
        | dense | 3 |
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    notes: Sequence[str] = ()
    total: Sequence[Cell] | None = None

    def __post_init__(self) -> None:
        for row in self.all_rows():
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns: {list(row)}")

    def all_rows(self) -> list[Sequence[Cell]]:
        """Rows, the total last."""
        return [*self.rows, *([] if self.total is None else [self.total])]

    def headings(self) -> list[str]:
        """Names of the columns."""
        return [column.heading for column in self.columns]

    def texts(self, row: Sequence[Cell]) -> list[str]:
        """Texts of the cells of a row."""
        return [column.text(cell) for column, cell in zip(self.columns, row, strict=True)]

    def across(self, width: int) -> list[Table]:
        """Transposed: a row for each column, the rows side by side in parts of at most `width` letters.

        The first column stands at the left of each part, and at least one row beside it. The title stays with the
        first part, the notes with the last.
        """
        names, *others = [self.headings(), *map(self.texts, self.all_rows())]
        needs = [max(map(len, texts)) + 3 for texts in (names, *others)]  # three letters around a cell
        parts: list[list[list[str]]] = []
        room = 0
        for texts, need in zip(others, needs[1:], strict=True):
            if not parts or need > room:
                parts.append([names])
                room = width - needs[0] - 1  # one more at the left edge
            parts[-1].append(texts)
            room -= need
        across = [zip(*part, strict=True) for part in parts or [[names]]]
        tables = [Table(named_columns(*headings), rows) for headings, *rows in across]
        tables[0] = replace(tables[0], title=self.title)
        return [*tables[:-1], replace(tables[-1], notes=self.notes)]


def named_columns(first: str, *others: str, fold_after: int | None = None) -> list[Column]:
    """Column of names on the left, columns of numbers beside it."""
    return [Column(first, "left", fold_after=fold_after), *map(Column, others)]


def to_terminal(table: Table, console: Console | None = None, *, frame: Literal["full", "rule"] = "full") -> None:
    """Print the title, the table and the notes as they are, square brackets too; to the standard output by default.

    The `frame` is lines around all cells, or one rule under the headings.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = console or Console()
    if table.title:
        console.print(table.title, style="bold", markup=False, highlight=False)
    grid = Grid() if frame == "full" else Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    rows = [table.texts(row) for row in table.all_rows()]
    for place, column in enumerate(table.columns):
        longest = max((len(line) for row in rows for line in row[place].split("\n")), default=0)
        # A width of its own, or rich takes the room for the numbers from the names.
        width = None if column.fold_after is None else min(column.fold_after, longest)
        grid.add_column(Text(column.heading), justify=column.align, overflow="fold", width=width)
    for place, row in enumerate(rows):
        if place == len(table.rows):
            grid.add_section()
        grid.add_row(*map(Text, row))
    console.print(grid)
    print_lines(table.notes, console, style="dim")


def print_lines(lines: Iterable[str], console: Console | None = None, *, style: str | None = None) -> None:
    """Print text as it is: no markup, no colours for numbers."""
    from rich.console import Console

    console = console or Console()
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False)


def to_markdown(*tables: Table) -> str:
    """Tables in Markdown, each under a heading of its own; ends with a newline."""
    blocks = []
    for table in tables:
        rule = "|" + "|".join("---" if column.align == "left" else "---:" for column in table.columns) + "|"
        lines = [*([f"### {table.title}", ""] if table.title else []), _markdown_line(table.headings()), rule]
        lines += [_markdown_line(table.texts(row)) for row in table.all_rows()]
        blocks.append("\n".join([*lines, "", *(f"{note}  " for note in table.notes)]).rstrip())
    return "\n\n".join(blocks) + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def to_latex(*tables: Table) -> str:
    """Tables in LaTeX for the package booktabs, title and notes as the caption; ends with a newline."""
    blocks = []
    for table in tables:
        caption = ". ".join(text for text in (table.title, " ".join(table.notes)) if text)
        lines = [
            r"\begin{table}",
            *([rf"\caption{{{_latex(caption)}}}"] if caption else []),
            rf"\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}",
            r"\toprule",
            _latex_line(table.headings()),
            r"\midrule",
            *(_latex_line(table.texts(row)) for row in table.rows),
            *([] if table.total is None else [r"\midrule", _latex_line(table.texts(table.total))]),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(text: str) -> str:
    return text.replace("\n", " ").translate(_LATEX)


def to_csv(table: Table) -> str:
    """Headings and rows as CSV, numbers raw and None empty; without title and notes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.headings(), *table.all_rows()])
    return text.getvalue()
