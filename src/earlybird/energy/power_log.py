"""The log of an external power meter, the paper's own protocol: read its CSV, integrate it over a run's phases.

Times are Unix seconds, power is watts. What the meter did not see is a gap, never zero watts. Nothing here guesses the
offset between the meter's clock and the machine's: give `offset_seconds` where they differ.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earlybird.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Span = tuple[float, float]

# Column names in lower case, with everything but letters and digits written as "_"; the first that occurs is taken.
TIME_COLUMNS: tuple[str, ...] = ("timestamp", "unix", "unix_time", "unixtime", "unix_s", "epoch", "timestamp_s")
TIME_COLUMNS += ("timestamp_utc", "datetime", "date_time", "time", "time_s", "time_utc", "ts", "t", "t_s")
TIME_COLUMNS += ("seconds", "date")
POWER_COLUMNS = ("watts", "watt", "power_w", "power_watts", "power", "active_power_w", "active_power", "w", "p_w", "p")
KILOWATT_COLUMNS = ("power_kw", "active_power_kw", "kilowatts", "kilowatt", "kw", "p_kw")
# Words of a header that tell another quantity, or a unit that two readings fit.
NOT_WATTS = frozenset({"mw", "milliwatts", "megawatts", "wh", "kwh", "mwh", "j", "kj", "joules", "energy", "va", "kva"})
NOT_WATTS |= {"var", "percent", "volts", "voltage", "v", "amps", "ampere", "a", "ma", "current", "dbm"}
NO_READING = ("", "n/a", "na", "-")
FARTHEST_TIME = 1e11  # the year 5138; milliseconds since 1970 lie beyond it


@dataclass(frozen=True)
class PowerLog:
    """Samples of a power meter.

    times: Unix seconds, strictly increasing, shape [samples]. watts: same shape, 0 or more; NaN where the meter gave no
    reading.

    Raises:
        DataError: the arrays differ in shape, times do not increase, or power is negative or infinite.
    """

    times: Floats
    watts: Floats

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


def read_power_log(path: str | Path, *, time_column: str | None = None, power_column: str | None = None) -> PowerLog:
    """Read a meter's CSV, separated by comma, semicolon or tab.

    Columns are found by their header, or named by the caller; a file without a header has time first, power second.
    Times are Unix seconds or ISO 8601 with an offset from UTC. Power is watts, or kilowatts where the header says kW.
    Empty cells and "n/a" are gaps. Samples with equal times (a meter faster than its clock's print) become their mean.

    Raises:
        DataError: no such file, no rows, an unknown column, a time without an offset or before the last one, or power
            that is not a number of 0 or more; with row and value.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=_delimiter(next((line for line in file if line.strip()), "")))
            file.seek(0)
            times, watts = _parse(path, rows, time_column, power_column)
    except OSError as error:
        raise DataError(f"power log {path} cannot be read: {error.strerror}; give the meter's CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"power log {path} is not a CSV file in UTF-8: {error}; export it as such") from error
    return _mean_of_equal_times(times, watts)


def integrate(
    log: PowerLog, spans: Sequence[Span], *, max_gap_seconds: float | None = None, offset_seconds: float = 0.0
) -> MeteredEnergy:
    """Energy over the union of the spans, by the trapezoid rule between samples.

    spans: (start, end) in Unix seconds; spans that overlap are merged, so that nothing is counted twice. Power at the
    edge of a span is interpolated. Samples further apart than `max_gap_seconds` (by default 5 times the median
    interval, at least 2 s), and the neighbourhood of a sample without a reading, are gaps.
    offset_seconds: added to the log's times, where the meter's clock is behind.

    Raises:
        ConfigError: a span that is not finite or ends before it begins; a maximal gap that is not positive.
    """
    edges = _union(spans)
    times = log.times + offset_seconds
    known = _known_intervals(times, log.watts, max_gap_seconds)
    starts, ends = edges[:, 0], edges[:, 1]
    span_seconds = float((ends - starts).sum())
    covered, joules = (float((total(ends) - total(starts)).sum()) for total in _running_totals(times, log.watts, known))
    return MeteredEnergy(
        joules=joules if covered > 0 else None,
        covered_seconds=covered,
        span_seconds=span_seconds,
        coverage=min(1.0, covered / span_seconds) if span_seconds else 0.0,
        gaps=_gaps(times, known, edges),
    )


def idle_watts(log: PowerLog, spans: Sequence[Span], *, offset_seconds: float = 0.0) -> float | None:
    """Median power before the first span and after the last one; None where the log holds none.

    Raises:
        ConfigError: a span that is not finite or ends before it begins.
    """
    edges = _union(spans)
    times = log.times + offset_seconds
    quiet = ~np.isnan(log.watts)
    if len(edges):
        quiet &= (times < edges[0, 0]) | (times > edges[-1, 1])
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


def _known_intervals(times: Floats, watts: Floats, max_gap_seconds: float | None) -> npt.NDArray[np.bool_]:
    """Whether power is known between each sample and the next, shape [samples - 1]."""
    intervals = np.diff(times)
    if max_gap_seconds is None:
        max_gap_seconds = max(2.0, 5.0 * float(np.median(intervals))) if len(intervals) else 2.0
    if not max_gap_seconds > 0:
        raise ConfigError(f"max_gap_seconds (--max-gap) is {max_gap_seconds}; give a positive number of seconds")
    blank = np.isnan(watts)
    return (intervals <= max_gap_seconds) & ~blank[:-1] & ~blank[1:]


def _running_totals(
    times: Floats, watts: Floats, known: npt.NDArray[np.bool_]
) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]:
    """Known seconds, and joules over them, from the first sample up to each of some times."""
    steps = np.where(known, np.diff(times), 0.0)
    power = np.nan_to_num(watts)
    seconds = np.concatenate([[0.0], np.cumsum(steps)])
    joules = np.concatenate([[0.0], np.cumsum(steps * (power[:-1] + power[1:]) / 2)])
    if not len(known):
        return np.zeros_like, np.zeros_like
    slopes = np.diff(power) / np.diff(times)

    def place(at: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
        """The interval that a time lies in, and the known seconds of it up to that time."""
        inside = np.clip(at, times[0], times[-1])
        left = np.clip(np.searchsorted(times, inside, side="right") - 1, 0, len(known) - 1)
        return left, np.where(known[left], inside - times[left], 0.0)

    def seconds_until(at: Floats) -> Floats:
        left, part = place(at)
        return seconds[left] + part

    def joules_until(at: Floats) -> Floats:
        left, part = place(at)
        return joules[left] + part * (power[left] + slopes[left] * part / 2)

    return seconds_until, joules_until


def _gaps(times: Floats, known: npt.NDArray[np.bool_], edges: Floats) -> tuple[Span, ...]:
    """The parts of the spans where power is not known; intervals that touch are one gap."""
    unknown = np.concatenate([[True], ~known, [True]])  # before the first sample, between them, after the last
    bounds = np.concatenate([[-np.inf], times, [np.inf]])
    if not len(times):
        unknown, bounds = np.array([True]), np.array([-np.inf, np.inf])
    turns = np.flatnonzero(np.diff(np.concatenate([[False], unknown, [False]]).astype(np.int8)))
    starts, ends = bounds[turns[::2]], bounds[turns[1::2]]
    found = []
    for start, end in edges.tolist():
        first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
        clipped = zip(np.maximum(starts[first:last], start), np.minimum(ends[first:last], end), strict=True)
        found += [(float(left), float(right)) for left, right in clipped if left < right]
    return tuple(found)


def _delimiter(line: str) -> str:
    # A file with semicolons or tabs may hold commas within a header's words.
    return next((sign for sign in ";\t" if sign in line), ",")


def _parse(
    path: Path, rows: Any, time_column: str | None, power_column: str | None
) -> tuple[array[float], array[float]]:
    """Times and watts in the file's order; `rows` is a csv reader, which knows the line."""
    first = next((row for row in rows if row), None)
    if first is None:
        raise DataError(f"power log {path} is empty; give a CSV with a time and a power column")
    time_at, power_at, scale, has_header = _columns(path, first, time_column, power_column)
    times, watts = array("d"), array("d")
    last, read_time = -FARTHEST_TIME, None
    for row in rows if has_header else _again(first, rows):
        if not row:
            continue
        try:
            if read_time is None:
                read_time = _time_reader(row[time_at])
            time, power = read_time(row[time_at]), _watts(row[power_at])
        except (ValueError, IndexError) as error:
            raise _bad_row(path, rows.line_num, row, time_at, power_at) from error
        if not last <= time < FARTHEST_TIME or power < 0 or power == np.inf:
            raise _bad_row(path, rows.line_num, row, time_at, power_at, last)
        last = time
        times.append(time)
        watts.append(power * scale)
    if not times:
        raise DataError(f"power log {path} has a header and no rows; give a log with samples")
    return times, watts


def _columns(
    path: Path, first: list[str], time_column: str | None, power_column: str | None
) -> tuple[int, int, float, bool]:
    """Places of time and power, watts per unit of power, and whether the first row is a header."""
    has_header = not any(_is_value(cell) for cell in first)
    if not has_header:
        if time_column is not None or power_column is not None:
            raise DataError(f"power log {path} has no header to name columns by; its first row is {_shown(first)}")
        return 0, 1, 1.0, False
    time_at = _column(path, first, "time", time_column, TIME_COLUMNS)
    power_at = _column(path, first, "power", power_column, (*POWER_COLUMNS, *KILOWATT_COLUMNS))
    return time_at, power_at, _watts_per_unit(path, first[power_at]), True


def _watts_per_unit(path: Path, header: str) -> float:
    """What a number in this column is in watts, by the units that its header names, whoever chose the column."""
    words = {*_plain(header).split("_"), *(["percent"] if "%" in header else [])}
    if wrong := words & NOT_WATTS:
        what = "may be milli- or megawatts" if wrong & {"mw"} else "is no power in watts"
        raise DataError(f"power log {path}: column {header!r} {what}; give or make a column of watts")
    return 1000.0 if words & {"kw", "kilowatt", "kilowatts"} else 1.0


def _column(path: Path, header: list[str], kind: str, wanted: str | None, known: Sequence[str]) -> int:
    there = f"the file has {', '.join(repr(name) for name in header)}"
    if wanted is not None:
        names = [name.strip().lower() for name in header]
        wanted = wanted.strip().lower()
        if wanted not in names:
            raise DataError(f"power log {path} has no column {wanted!r}; {there}")
        return _only(path, names, wanted)
    names = [_plain(name) for name in header]
    found = next((name for name in known if name in names), None)
    if found is None:
        flag = f"--{kind}-column"
        raise DataError(f"power log {path}: no {kind} column is known by its name; {there}; name it by {flag}")
    return _only(path, names, found)


def _only(path: Path, names: list[str], name: str) -> int:
    if names.count(name) > 1:
        raise DataError(f"power log {path} has {names.count(name)} columns named {name!r}; give each its own name")
    return names.index(name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        try:
            datetime.fromisoformat(cell.strip())
        except ValueError:
            return False
    return True


def _again(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _time_reader(cell: str) -> Callable[[str], float]:
    """How this file writes its times, by the first of them."""
    try:
        float(cell)
    except ValueError:
        return _iso_seconds
    return float


def _iso_seconds(cell: str) -> float:
    moment = datetime.fromisoformat(cell.strip())
    if moment.tzinfo is None:
        raise ValueError("no offset")  # local time of which machine, and summer or winter?
    return moment.timestamp()


def _watts(cell: str) -> float:
    try:
        power = float(cell)
    except ValueError:
        if cell.strip().lower() in NO_READING:
            return float("nan")
        raise
    if power != power:  # an empty cell is a gap by intent; "nan" is a fault of whoever wrote the file
        raise ValueError("not a number")
    return power


def _bad_row(
    path: Path, line: int, row: list[str], time_at: int, power_at: int, last: float | None = None
) -> DataError:
    """The first thing that is wrong with a row. `last`: the time before it, where the row could be read."""
    where = f"power log {path}, line {line}"
    if len(row) <= max(time_at, power_at):
        return DataError(
            f"{where}: {len(row)} cells ({_shown(row)}), {max(time_at, power_at) + 1} needed; mend the row"
        )
    moment, power = row[time_at].strip(), row[power_at].strip()
    if not _is_value(moment):
        return DataError(f"{where}: time {moment!r} is neither Unix seconds nor ISO 8601; write one of them")
    if last is None:
        try:
            _watts(power)
        except ValueError:
            legal = "a number of 0 or more, with a decimal point, or an empty cell for no reading"
            return DataError(f"{where}: power {power!r}; write {legal}")
        if _time_reader(moment) is float or datetime.fromisoformat(moment).tzinfo is not None:
            return DataError(f"{where}: time {moment!r} is written otherwise than those above; write all in one way")
        cure = "append it, as in 2020-05-01T12:00:00+02:00, or write Unix seconds"
        return DataError(f"{where}: time {moment!r} has no offset from UTC; {cure}")
    time = _time_reader(moment)(moment)
    if not -FARTHEST_TIME < time < FARTHEST_TIME:
        return DataError(f"{where}: time {moment!r} is not in Unix seconds; milliseconds are divided by 1000")
    if time < last:
        return DataError(f"{where}: time {moment!r} is before the row above by {last - time:.6g} s; sort the rows")
    return DataError(f"{where}: power {power!r}; write a finite number of 0 or more")


def _shown(row: list[str]) -> str:
    return ",".join(row)[:80]


def _mean_of_equal_times(times: array[float], watts: array[float]) -> PowerLog:
    """One sample per time, the mean of its readings; NaN where it has none."""
    moments, power = np.frombuffer(times), np.frombuffer(watts)
    first = np.flatnonzero(np.concatenate([[True], np.diff(moments) > 0]))
    if len(first) == len(moments):
        return PowerLog(moments, power)
    read = ~np.isnan(power)
    count = np.add.reduceat(read.astype(np.float64), first)
    total = np.add.reduceat(np.where(read, power, 0.0), first)
    return PowerLog(moments[first], np.where(count > 0, total / np.maximum(count, 1.0), np.nan))
