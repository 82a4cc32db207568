"""Numbers as published, what they disagree in, and the form of a recomputed table.

A row of `claims.csv` says where a number is printed (`source`, then network, data set, method, pruning ratio,
condition), its quantity, value and unit, and how it comes about: `derivation` and what that takes, `inputs`. Nothing in
the file is a result of ours. `docs/method.md` section 6 has the rules.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from earlybird.report.table import Table, print_lines, to_terminal

if TYPE_CHECKING:
    from rich.console import Console

# What the words mean stands in docs/paper-flops.md.
Derivation = Literal[
    "derived", "from published inputs", "fitted", "fitted, not unique", "not derived",
    "measured", "estimated", "published input",
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Network, data set and pruning ratio."""

    model: str
    dataset: str
    prune_ratio: float | None

    def __str__(self) -> str:
        return f"{self.model} {self.dataset} p={self.prune_ratio:g}"


@dataclass(frozen=True)
class Claim:
    """Published number in `unit`; `value` keeps its printed digits, fields that do not apply are empty."""

    source: str
    model: str
    dataset: str
    method: str
    prune_ratio: float | None
    condition: str
    quantity: str
    value: Decimal
    unit: str
    derivation: Derivation
    inputs: str

    @property
    def row(self) -> tuple[str, str, float | None]:
        """Network, method and pruning ratio."""
        return self.model, self.method, self.prune_ratio

    @property
    def setting(self) -> Setting:
        """Network, data set and pruning ratio of its row."""
        return Setting(self.model, self.dataset, self.prune_ratio)


@cache
def claims() -> tuple[Claim, ...]:
    """All rows of `claims.csv`, in the order of print."""

    def claim(row: dict[str, Any]) -> Claim:
        prune_ratio = float(row["prune_ratio"]) if row["prune_ratio"] else None
        return Claim(**row | {"prune_ratio": prune_ratio, "value": Decimal(row["value"])})

    text = files("earlybird.paper").joinpath("claims.csv").read_text(encoding="utf-8")
    return tuple(map(claim, csv.DictReader(text.splitlines())))


def find(source: str, quantity: str) -> tuple[Claim, ...]:
    """Claims of one quantity of one table, in the order of print."""
    return tuple(claim for claim in claims() if (claim.source, claim.quantity) == (source, quantity))


def published(source: str, quantity: str, model: str = "", method: str = "", prune_ratio: float | None = None) -> Claim:
    """Only claim of this place.

    Raises:
        ValueError: there is none, or there are several.
    """
    (claim,) = (claim for claim in find(source, quantity) if claim.row == (model, method, prune_ratio))
    return claim


def by_setting(source: str, quantity: str) -> dict[Setting, dict[str, Claim]]:
    """Claims of one quantity of one table by setting, then by method, in the order of print."""
    found: dict[Setting, dict[str, Claim]] = {}
    for claim in find(source, quantity):
        found.setdefault(claim.setting, {})[claim.method] = claim
    return found


@cache
def findings() -> dict[str, Any]:
    """Reading and contradictions by table: a contradiction is a claim, a finding and the numbers (`values`) of both."""
    text = files("earlybird.paper").joinpath("findings.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@dataclass(frozen=True)
class Recomputed:
    """Rows of a recomputed table or figure beside our sums, and how they are shown.

    `name` is its key in `findings.json`; `rows` are dataclasses, one a row, the content of the JSON, and `facts` its
    further entries; `tables` are the rows in at most 80 letters, `notes` lines about single rows.
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
