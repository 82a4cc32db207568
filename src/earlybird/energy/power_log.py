"""Log of an external power meter, the paper's own protocol: its CSV, and the energy over a run's phases.

Times are Unix seconds, power is watts. What the meter did not see is a gap, never zero watts. Nothing here guesses the
offset between the meter's clock and the machine's: give `offset_seconds` where they differ.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earlybird.atomic import read_file
from earlybird.errors import ConfigError, DataError, reason

Floats = npt.NDArray[np.float64]
Span = tuple[float, float]

WATTS_PER_UNIT = {"W": 1.0, "kW": 1e3, "mW": 1e-3}
NO_READING = ("", "n/a", "na", "-")
FARTHEST_TIME = 1e11  # the year 5138; milliseconds since 1970 lie beyond it


@dataclass(frozen=True)
class MeterReading:
    """CSV of a power meter, and how to read it (see `read_power_log`; `max_gap_seconds`: see `integrate`).

    device: what the meter stood before, in the user's words.
    """

    path: Path
    device: str = "the whole machine, at the plug"
    time_column: str | None = None
    power_column: str | None = None
    power_unit: str = "W"
    offset_seconds: float = 0.0
    max_gap_seconds: float | None = None


@dataclass(frozen=True)
class PowerLog:
    """Samples of a power meter.

    times: Unix seconds, strictly increasing, shape [samples]. watts: same shape, 0 or more; NaN where the meter gave no
    reading. columns: the columns of the file that were read, and the unit, in words.

    Raises:
        DataError: the arrays differ in shape, times do not increase, or power is negative or infinite.
    """

    times: Floats
    watts: Floats
    columns: str = ""

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or self.times.shape != self.watts.shape:
            raise DataError(f"power log: {self.times.shape} times and {self.watts.shape} watts; give one per sample")
        if not (np.isfinite(self.times).all() and (np.diff(self.times) > 0).all()):
            raise DataError("power log: times must be finite and increase")
        if not ((self.watts >= 0) & (self.watts < np.inf) | np.isnan(self.watts)).all():
            raise DataError("power log: watts must be 0 or more and finite, or NaN where there was no reading")


@dataclass(frozen=True)
class MeteredEnergy:
    """Energy of some spans by a power log.

    joules: over the covered time alone, not scaled up; None where nothing is covered. covered_seconds: time with power
    known. span_seconds: length of the spans' union. coverage: the one by the other, in [0, 1]. gaps: stretches of the
    spans without power, (start, end) in Unix seconds of the spans' clock.
    """

    joules: float | None
    covered_seconds: float
    span_seconds: float
    coverage: float
    gaps: tuple[Span, ...]


def read_power_log(reading: MeterReading) -> PowerLog:
    """Read a meter's CSV, separated by comma, semicolon or tab.

    The header names both columns, exactly; without names a file of two columns is time, then power, with or without a
    header. Times are Unix seconds or ISO 8601 with an offset from UTC. Empty cells and "n/a" are gaps. Samples with
    equal times (a meter faster than its clock's print) become their mean. `offset_seconds` is added to the times, where
    the meter's clock is behind.

    Raises:
        ConfigError: a unit other than W, kW and mW.
        DataError: no such file, no rows, columns that are not named or not there, a time without an offset or before
            the last one, or power that is not a number of 0 or more; with row and value.
    """
    path, time_column, power_unit = reading.path, reading.time_column, reading.power_unit
    if power_unit not in WATTS_PER_UNIT:
        raise ConfigError(f"power_unit (--power-unit) is {power_unit!r}; give one of {', '.join(WATTS_PER_UNIT)}")
    try:
        with io.StringIO(read_file(path).decode("utf-8-sig"), newline="") as file:
            line = next((line for line in file if line.strip()), "")
            file.seek(0)
            # A file with semicolons or tabs may hold commas within a header's words.
            rows = csv.reader(file, delimiter=next((sign for sign in ";\t" if sign in line), ","))
            first = [cell.strip() for cell in next((row for row in rows if row), [])]
            places = _places(path, first, time_column, reading.power_column)
            is_header = time_column is not None or all(_moment(cell) is None for cell in first)
            times, watts = _samples(path, rows, [] if is_header else [first], places)
    except OSError as error:
        raise DataError(f"power log {path} cannot be read: {reason(error)}; give the meter's CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"power log {path} is not a CSV file in UTF-8: {reason(error)}; export it as such") from error
    time_at, power_at = (f"{place + 1} ({first[place]!r})" if is_header else f"{place + 1}" for place in places)
    columns = f"time in column {time_at}, power in column {power_at}, in {power_unit}"
    moments, starts = np.unique(times + reading.offset_seconds, return_index=True)
    watts = watts * WATTS_PER_UNIT[power_unit]
    count = np.add.reduceat((~np.isnan(watts)).astype(np.float64), starts)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN.
        return PowerLog(moments, np.add.reduceat(np.nan_to_num(watts), starts) / count, columns)


def integrate(log: PowerLog, spans: Sequence[Span], *, max_gap_seconds: float | None = None) -> MeteredEnergy:
    """Energy over the union of the spans, by the trapezoid rule between samples.

    spans: (start, end) in Unix seconds; spans that overlap are merged, so that nothing is counted twice. Power at the
    edge of a span is interpolated. Samples further apart than `max_gap_seconds` (by default 5 times the median
    interval, at least 2 s), and the neighbourhood of a sample without a reading, are gaps.

    Raises:
        ConfigError: a span that is not finite or ends before it begins; a maximal gap that is not positive.
    """
    edges, intervals, blank = _union(spans), np.diff(log.times), np.isnan(log.watts)
    if max_gap_seconds is None:
        max_gap_seconds = max(2.0, 5.0 * float(np.median(intervals))) if len(intervals) else 2.0
    if not max_gap_seconds > 0:
        raise ConfigError(f"max_gap_seconds (--max-gap) is {max_gap_seconds}; give a positive number of seconds")
    known = (intervals <= max_gap_seconds) & ~blank[:-1] & ~blank[1:]
    known = np.concatenate([[False], known, [False]])  # and before and after the samples
    # Between two neighbours of the grid there is neither a sample nor an edge.
    grid = np.union1d(log.times, edges)
    inside = np.searchsorted(edges.ravel(), grid[:-1], side="right") % 2 == 1
    known = known[np.searchsorted(log.times, grid[:-1], side="right")]
    steps = np.where(inside & known, np.diff(grid), 0.0)
    power = np.interp(grid, log.times, np.nan_to_num(log.watts)) if len(log.times) else np.zeros(len(grid))
    covered, span_seconds = float(steps.sum()), float(np.diff(edges).sum())
    turns = grid[np.flatnonzero(np.diff(np.concatenate([[False], inside & ~known, [False]])))].tolist()
    joules = float((steps * (power[:-1] + power[1:])).sum() / 2) if covered > 0 else None
    coverage = min(1.0, covered / span_seconds) if span_seconds else 0.0
    return MeteredEnergy(joules, covered, span_seconds, coverage, tuple(zip(turns[::2], turns[1::2], strict=True)))


def idle_watts(log: PowerLog, spans: Sequence[Span]) -> float | None:
    """Median power before the first span and after the last one; None where the log holds none.

    Raises:
        ConfigError: a span that is not finite or ends before it begins.
    """
    edges, quiet = _union(spans), ~np.isnan(log.watts)
    if len(edges):
        quiet &= (log.times < edges[0, 0]) | (log.times > edges[-1, 1])
    return float(np.median(log.watts[quiet])) if quiet.any() else None


def _union(spans: Sequence[Span]) -> Floats:
    """Disjoint spans in order, shape [spans, 2]."""
    merged: list[list[float]] = []
    for start, end in sorted(spans):
        if not (np.isfinite(start) and np.isfinite(end) and start <= end):
            raise ConfigError(f"span ({start}, {end}) is not a stretch of time; give (start, end) in Unix seconds")
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, dtype=np.float64).reshape(-1, 2)


def _places(path: Path, first: list[str], time_column: str | None, power_column: str | None) -> tuple[int, int]:
    """Places of time and power in a row; `first` is the file's first row, [] of an empty file."""
    if not first:
        raise DataError(f"power log {path} is empty; give a CSV with a time and a power column")
    there = f"the file has {', '.join(map(repr, first)):.200}"
    if time_column is None and power_column is None and len(first) == 2:
        return 0, 1
    if time_column is None or power_column is None:
        raise DataError(f"power log {path}: name two columns by --time-column and --power-column; {there}")
    for name in (time_column, power_column):
        if name not in first:
            raise DataError(f"power log {path} has no column {name!r}; {there}")
        if first.count(name) > 1:
            raise DataError(f"power log {path} has {first.count(name)} columns named {name!r}; give each its own name")
    return first.index(time_column), first.index(power_column)


def _moment(cell: str) -> float | datetime | None:
    """Number or date in a cell, if it holds one."""
    with suppress(ValueError):
        return float(cell)
    with suppress(ValueError):
        return datetime.fromisoformat(cell)
    return None


def _samples(path: Path, rows: Any, before: Iterable[list[str]], places: tuple[int, int]) -> tuple[Floats, Floats]:
    """Times and power in the file's order; `rows` is a csv reader, which knows the line, `before` what it gave."""
    times, power, styles = array("d"), array("d"), set()
    for row in filter(None, chain(before, rows)):
        try:
            if len(row) <= max(places):
                shown = ",".join(row)[:80]
                raise ValueError(f"{len(row)} cells ({shown}), {max(places) + 1} needed; mend the row")
            moment = row[places[0]].strip()
            time, style = _seconds(moment)
            styles.add(style)
            if len(styles) > 1:
                raise ValueError(f"time {moment!r} is written otherwise than those above; write all in one way")
            if times and time < times[-1]:
                raise ValueError(f"time {moment!r} is before the row above by {times[-1] - time:.6g} s; sort the rows")
            times.append(time)
            power.append(_power(row[places[1]].strip()))
        except ValueError as error:
            raise DataError(f"power log {path}, line {rows.line_num}: {error}") from error
    if not times:
        raise DataError(f"power log {path} has a header and no rows; give a log with samples")
    return np.frombuffer(times), np.frombuffer(power)


def _seconds(cell: str) -> tuple[float, str]:
    """Unix seconds, and how they were written."""
    moment = _moment(cell)
    if moment is None:
        raise ValueError(f"time {cell!r} is neither Unix seconds nor ISO 8601; write one of them")
    if isinstance(moment, datetime):
        if moment.tzinfo is None:  # local time of which machine, and summer or winter?
            cure = "append it, as in 2020-05-01T12:00:00+02:00, or write Unix seconds"
            raise ValueError(f"time {cell!r} has no offset from UTC; {cure}")
        return moment.timestamp(), "ISO 8601"
    if not abs(moment) < FARTHEST_TIME:
        raise ValueError(f"time {cell!r} is not in Unix seconds; milliseconds are divided by 1000")
    return moment, "seconds"


def _power(cell: str) -> float:
    if cell.lower() in NO_READING:
        return float("nan")
    with suppress(ValueError):
        if 0 <= (power := float(cell)) < np.inf:
            return power
    cure = "write a finite number of 0 or more, with a decimal point, or an empty cell for no reading"
    raise ValueError(f"power {cell!r}; {cure}")
