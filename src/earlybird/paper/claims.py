"""Numbers as published, sums of training FLOPs to set beside them, and the form of a recomputed table.

A row of `claims.csv` says where a number is printed (`source`, then network, data set, method, pruning ratio,
condition), its quantity, value and unit, and how it comes about: `derivation` and what that takes, `inputs`. F is GFLOP
of one forward pass. Sums are decimal: the last bit of a float must not decide whether a number equals a printed one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from earlybird.cost import count_cost
from earlybird.cost.ledger import FORWARDS_PER_TRAINING_STEP
from earlybird.data.images import PUBLISHED
from earlybird.errors import ConfigError
from earlybird.models import build_model
from earlybird.report.table import Table, print_lines, to_terminal

if TYPE_CHECKING:
    from rich.console import Console

# What the words mean stands in docs/paper-flops.md.
Derivation = Literal[
    "derived", "from published inputs", "fitted", "fitted, not unique", "not derived",
    "measured", "estimated", "published input",
]  # fmt: skip

HUNDREDTH = Decimal("0.01")
# Paper's name -> what to build, classes, image side. CIFAR-100's larger last layer does not show in 0.01 G.
NETWORKS = {
    "vgg16": ("vgg16", 10, 32),
    "preresnet101": ("preresnet101", 10, 32),
    "resnet18": ("torchvision:resnet18", 1000, 224),
    "resnet50": ("torchvision:resnet50", 1000, 224),
}


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

    def show(self, console: Console | None = None) -> None:
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


@dataclass(frozen=True)
class DrawFit:
    """Draw epoch and slim F (GFLOP) that give the printed totals, in a schedule of `epochs` in all.

    `is_half_up` is False where one of the totals lies half-way between two printable ones and was rounded down.
    """

    draw_epoch: int
    slim_gflops: Decimal
    epochs: int
    is_half_up: bool = True

    def __str__(self) -> str:
        """Pair as the tables list it; a star marks a tie that was rounded down."""
        return f"({self.draw_epoch}, {self.slim_gflops:.2f}){'' if self.is_half_up else '*'}"


@cache
def dense_gflops(network: str) -> Decimal:
    """F of an unpruned network of the paper, rounded to 0.01 GFLOP as the paper does.

    Raises:
        ConfigError: the paper has no such network.
    """
    if network not in NETWORKS:
        raise ConfigError(f"the paper has no network {network!r}; give one of {', '.join(NETWORKS)}")
    name, classes, side = NETWORKS[network]
    model = build_model(name, num_classes=classes, image_size=side)
    return Decimal(str(count_cost(model, (3, side, side)).paper_gflops))


def petaflops(gflop_epochs: Decimal, dataset: str) -> Decimal:
    """PFLOPs of training on the n images of a data set, by the sum over epochs of F in GFLOP: 3 * n * sum(F) / 10^6."""
    return (FORWARDS_PER_TRAINING_STEP * PUBLISHED[dataset].train_images * gflop_epochs).scaleb(-6)


def to_hundredths(pflops: Decimal) -> Decimal:
    """Rounded to 0.01, half up, as Table 3 prints its totals."""
    return pflops.quantize(HUNDREDTH, ROUND_HALF_UP)


def slim_grid(dense: Decimal) -> Iterator[Decimal]:
    """All F that a slim network may have: multiples of 0.01 GFLOP above 0, up to the dense network's."""
    return (hundredths * HUNDREDTH for hundredths in range(1, int(dense / HUNDREDTH) + 1))


def draw_fits(slims: Iterable[Decimal], epochs: int, matches: Callable[[int, Decimal], bool]) -> tuple[DrawFit, ...]:
    """All pairs of a draw epoch in 1 .. epochs - 1 and one of `slims` that `matches` accepts; earliest draw first."""
    pairs = [(epoch, slim) for slim in slims for epoch in range(1, epochs) if matches(epoch, slim)]
    return tuple(DrawFit(epoch, slim, epochs) for epoch, slim in sorted(pairs))
