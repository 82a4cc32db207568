"""`Recomputed`: a table or figure of the paper beside our sums, for the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from earlybird.report.table import Table, print_lines, to_terminal

if TYPE_CHECKING:
    from rich.console import Console


@cache
def findings() -> dict[str, Any]:
    """Reading and contradictions by table: a contradiction is a claim, a finding and the numbers (`values`) of both."""
    text = files("earlybird.paper").joinpath("findings.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@dataclass(frozen=True)
class Recomputed:
    """Rows of a recomputed table or figure, and how they are shown.

    Attributes:
        name: its key in `findings.json`.
        rows: dataclasses, one a row; the content of the JSON.
        tables: the rows as tables of at most 80 letters.
        notes: lines about single rows.
        facts: further entries of the JSON.
    """

    name: str
    rows: Sequence[Any]
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def show(self, console: Console) -> None:
        """Print tables, reading, notes and contradictions."""
        found = findings()[self.name]
        for table in self.tables:
            to_terminal(table, console, frame="rule")
        print_lines((*found["reading"], *self.notes), console)
        if contradictions := found["contradictions"]:
            print_lines(["\nWhere the paper disagrees with itself"], console, style="bold")
            print_lines((f"- {each['claim']}\n  -> {each['finding']}" for each in contradictions), console)

    def as_json(self) -> str:
        """Content as JSON; decimal numbers become floats."""
        found = findings()[self.name]
        rows = [asdict(row) for row in self.rows]
        facts = {"reading": found["reading"], "rows": rows, "contradictions": found["contradictions"], **self.facts}
        return json.dumps(facts, indent=1, default=float)
