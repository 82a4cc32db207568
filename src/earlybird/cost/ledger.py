"""Cost of a run so far: counted `Work`, one `PhaseCost` per finished stretch, added up by phase in a `CostLedger`.

Joules are None, never 0, where nothing was measured, and `energy_method` says why. Estimates are not in here: they
follow from the counted work (`energy.estimate`) and must not be added to what was measured.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from earlybird.cost.network import ModelCost
from earlybird.energy import NO_ENERGY_COUNTER, most_others
from earlybird.errors import CheckpointError, ConfigError, reason, require

# The paper charges one forward and two backward passes on every image of the set in every epoch; evaluation and the
# search's own bookkeeping are free. Our convention charges them.
FORWARDS_PER_TRAINING_STEP = 3

PHASES = ("search", "slim", "train", "retrain", "evaluate")
TOTAL = "total"


@dataclass(frozen=True)
class Work:
    """Counted work of one stretch of a run.

    Attributes:
        images: images run through the network.
        macs_by_width: bits of the two operands, such as "32x32" -> multiply-accumulates as executed.
        paper_flops: FLOPs that the paper's convention charges, 0.0 for nothing; None where it cannot be said.
        traffic_bytes: bytes that operations read and wrote; None where they were not counted.
    """

    images: int = 0
    macs_by_width: Mapping[str, int] = field(default_factory=dict)
    paper_flops: float | None = 0.0
    traffic_bytes: int | None = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all widths."""
        return sum(self.macs_by_width.values())

    def __add__(self, other: Work) -> Work:
        paper = None if self.paper_flops is None or other.paper_flops is None else self.paper_flops + other.paper_flops
        traffic = (self.traffic_bytes, other.traffic_bytes)
        return Work(
            images=self.images + other.images,
            macs_by_width=added(self.macs_by_width, other.macs_by_width),
            paper_flops=paper,
            traffic_bytes=None if traffic[0] is None or traffic[1] is None else traffic[0] + traffic[1],
        )


def training_work(cost: ModelCost, images: int, batches: int) -> Work:
    """Work of training on `images` images in `batches` steps; the paper charges three forward passes an image."""
    macs = {width: images * macs for width, macs in cost.train_macs_by_width.items()}
    traffic = cost.traffic.training.of(images, batches) if cost.traffic else None
    return Work(images, macs, FORWARDS_PER_TRAINING_STEP * images * cost.paper_flops, traffic)


def evaluation_work(cost: ModelCost, images: int, batches: int) -> Work:
    """Work of forward passes in eval mode; the paper charges training only."""
    macs = {width: images * macs for width, macs in cost.macs_by_width.items()}
    return Work(images, macs, traffic_bytes=cost.traffic.forward.of(images, batches) if cost.traffic else None)


def added(*parts: Mapping[str, int]) -> dict[str, int]:
    """Sum of MACs by operand width; widths without any are left out."""
    return dict(sorted(sum(map(Counter, parts), Counter[str]()).items()))


def bit_operations(macs_by_width: Mapping[str, int]) -> int:
    """BitOps: each MAC counts as the product of its operands' widths in bits."""
    return sum(macs * int(a) * int(b) for (a, _, b), macs in ((w.partition("x"), m) for w, m in macs_by_width.items()))


@dataclass(frozen=True)
class PhaseCost:
    """Cost of one stretch of work.

    Attributes:
        phase: one of `PHASES`, or "total".
        images, paper_flops, macs_by_width, traffic_bytes: as `Work` has them.
        macs: multiply-accumulates as executed, of all widths.
        wall_seconds: by the clock.
        cpu_seconds: of all threads of the process together.
        peak_bytes: memory at its highest.
        joules: measured energy, or None.
        energy_method: the counter, such as "nvml+rapl", or why nothing was measured.
        energy_device: device of the joules; "" where nothing was measured.
        energy_coverage: share of `wall_seconds` that the joules were measured over, in [0, 1].
        energy_shared_with: most other processes noticed on the GPU while the joules were measured; None where that is
            not known, as for a CPU and for runs of older versions. Above 0 the joules are not this run's alone.
        spans: times of the work, as pairs of Unix seconds; a power meter's log is looked up there.

    Raises:
        ConfigError: an unknown phase, or a number that is negative or not finite.
    """

    phase: str
    images: int
    macs: int
    paper_flops: float | None
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    joules: float | None = None
    energy_method: str = NO_ENERGY_COUNTER
    energy_device: str = ""
    energy_coverage: float = 0.0
    macs_by_width: Mapping[str, int] = field(default_factory=dict)
    traffic_bytes: int | None = None
    spans: tuple[tuple[float, float], ...] = ()
    energy_shared_with: int | None = None

    def __post_init__(self) -> None:
        require("cost phase", self.phase, self.phase in (*PHASES, TOTAL), f"one of {', '.join(PHASES)}")
        spans = tuple((float(start), float(end)) for start, end in self.spans)  # JSON has lists
        object.__setattr__(self, "spans", spans)
        if not isinstance(self.energy_method, str) or not isinstance(self.energy_device, str):
            raise ConfigError(f"energy_method and energy_device of phase {self.phase!r} are no text")
        if not isinstance(self.macs_by_width, Mapping):
            raise ConfigError(f"macs_by_width of phase {self.phase!r} is {self.macs_by_width!r}; give width -> MACs")
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        numbers |= {f"macs_by_width[{width!r}]": macs for width, macs in self.macs_by_width.items()}
        for name, value in numbers.items():
            if value is None and name in _NOT_ALWAYS_KNOWN:
                continue
            is_whole = name in _WHOLE or name.startswith("macs_by_width")
            if not isinstance(value, int if is_whole else int | float) or not 0 <= value <= sys.float_info.max:
                expected = "an integer" if is_whole else "finite"
                raise ConfigError(f"{name} of phase {self.phase!r} is {value}; a cost is {expected} and not negative")
        share = self.energy_coverage
        require(f"energy_coverage of phase {self.phase!r}", share, share <= 1, "a share in [0, 1]")
        for start, end in self.spans:
            if not (math.isfinite(start) and math.isfinite(end) and start <= end):
                raise ConfigError(f"a span of phase {self.phase!r} is ({start}, {end}); give (start, end) in seconds")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self) | {"macs_by_width": dict(self.macs_by_width), "spans": [list(span) for span in self.spans]}


_NUMBERS = (
    "images", "macs", "paper_flops", "wall_seconds", "cpu_seconds", "peak_bytes", "joules", "energy_coverage",
    "traffic_bytes", "energy_shared_with",
)  # fmt: skip
_WHOLE = ("images", "macs", "peak_bytes", "traffic_bytes", "energy_shared_with")
_NOT_ALWAYS_KNOWN = ("paper_flops", "joules", "traffic_bytes", "energy_shared_with")


class CostLedger:
    """The phases of one run in the order they were closed.

    Example:
        ledger = CostLedger()
        with PhaseMeter("search", device) as meter:
            ...
        ledger.add(meter.cost(training_work(count_cost(model, (3, 32, 32)), images=50_000, batches=391)))
        ledger.total().wall_seconds
    """

    def __init__(self) -> None:
        self._phases: list[PhaseCost] = []

    def __len__(self) -> int:
        return len(self._phases)

    def __iter__(self) -> Iterator[PhaseCost]:
        return iter(self._phases)

    def add(self, cost: PhaseCost) -> None:
        """Append one stretch of work.

        Raises:
            ConfigError: the cost is itself a total, which would be counted twice.
        """
        if cost.phase == TOTAL:
            raise ConfigError(f"a ledger takes single phases ({', '.join(PHASES)}), not a total")
        self._phases.append(cost)

    def merged(self) -> dict[str, PhaseCost]:
        """One cost per phase that occurred, in the order of `PHASES`: sums, and the highest of the memory peaks."""
        found = {phase: [cost for cost in self._phases if cost.phase == phase] for phase in PHASES}
        return {phase: _sum(phase, costs) for phase, costs in found.items() if costs}

    def total(self) -> PhaseCost:
        """All phases as one cost of phase "total"; zeros, and joules None, for an empty ledger."""
        return _sum(TOTAL, self._phases)

    def state_dict(self) -> list[dict[str, Any]]:
        """The phases as plain JSON types, in order."""
        return [cost.as_dict() for cost in self._phases]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> Self:
        """Rebuild a ledger from `state_dict()`; one of an older version lacks what was not counted then.

        Raises:
            CheckpointError: an entry lacks a field, has an unknown one or holds a wrong value.
        """
        ledger = cls()
        names = {field.name for field in fields(PhaseCost)}
        needed = {f.name for f in fields(PhaseCost) if f.default is MISSING and f.default_factory is MISSING}
        for place, entry in enumerate(state):
            if not isinstance(entry, Mapping):
                raise CheckpointError(f"cost entry {place} is {entry!r:.80}; it holds no cost")
            if wrong := (needed - set(entry)) | (set(entry) - names):
                raise CheckpointError(f"cost entry {place} has missing or unknown fields: {', '.join(sorted(wrong))}")
            try:
                ledger.add(PhaseCost(**entry))
            except (ConfigError, TypeError, ValueError, OverflowError) as error:
                raise CheckpointError(f"cost entry {place} cannot be read: {reason(error)}") from error
        return ledger


def _sum(phase: str, costs: Sequence[PhaseCost]) -> PhaseCost:
    wall_seconds = math.fsum(cost.wall_seconds for cost in costs)
    traffic = _sum_or_none([cost.traffic_bytes for cost in costs])
    return PhaseCost(
        phase=phase,
        images=sum(cost.images for cost in costs),
        macs=sum(cost.macs for cost in costs),
        paper_flops=_sum_or_none([cost.paper_flops for cost in costs]),
        wall_seconds=wall_seconds,
        cpu_seconds=math.fsum(cost.cpu_seconds for cost in costs),
        peak_bytes=max((cost.peak_bytes for cost in costs), default=0),
        macs_by_width=added(*(cost.macs_by_width for cost in costs)),
        traffic_bytes=None if traffic is None else int(traffic),
        spans=tuple(span for cost in costs for span in cost.spans),
        **_energy(costs, wall_seconds),
    )


def _energy(costs: Sequence[PhaseCost], wall_seconds: float) -> dict[str, Any]:
    """Joules of the stretches that were measured; joules of two counters are never added together."""
    measured = [cost for cost in costs if cost.joules is not None]
    methods = list(dict.fromkeys(cost.energy_method for cost in measured or costs))
    if not measured or len(methods) > 1:
        return {"energy_method": "; ".join(methods) or NO_ENERGY_COUNTER}
    covered = math.fsum(cost.energy_coverage * cost.wall_seconds for cost in measured)
    return {
        "joules": _sum_or_none([cost.joules for cost in measured]),
        "energy_method": methods[0],
        "energy_device": "; ".join(dict.fromkeys(cost.energy_device for cost in measured)),
        "energy_coverage": min(1.0, covered / wall_seconds) if wall_seconds else 0.0,
        "energy_shared_with": most_others(*(cost.energy_shared_with for cost in measured)),
    }


def _sum_or_none(values: Sequence[float | None]) -> float | None:
    """The sum, or None where one part is unknown: a sum without it would look smaller than it is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None
