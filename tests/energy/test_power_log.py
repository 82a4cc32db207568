"""A power meter's log gives the joules of the covered time, says what it did not see, and refuses a bad row by name."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from earlybird.energy import power_log
from earlybird.energy.power_log import MeterReading, PowerLog, idle_watts, integrate
from earlybird.errors import ConfigError, DataError

START = 1_600_000_000.0


@pytest.fixture
def write(tmp_path):
    def written(*lines: str):
        path = tmp_path / "meter.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return written


def read_power_log(path: Path, **named) -> PowerLog:
    return power_log.read_power_log(MeterReading(path, **named))


def log_of(times, watts) -> PowerLog:
    return PowerLog(np.array(times, dtype=float), np.array(watts, dtype=float))


def wave(seconds):
    """Watts of a machine that draws 200 W and 50 W more or less in waves of a minute."""
    return 200.0 + 50.0 * np.sin(2 * np.pi * seconds / 60.0)


def wave_joules(start: float, end: float) -> float:
    rate = 2 * math.pi / 60.0
    return 200.0 * (end - start) - 50.0 / rate * (math.cos(rate * end) - math.cos(rate * start))


def test_a_log_with_gaps_gives_the_joules_of_the_covered_time(write):
    seconds = np.arange(0.0, 600.0, 1.0)
    seen = [second for second in seconds if not (100 < second < 160 or 400 < second < 430)]
    log = read_power_log(write("timestamp,power", *(f"{START + second},{wave(second):.6f}" for second in seen)))
    energy = integrate(log, [(START + 10.5, START + 300.25), (START + 350.0, START + 500.75)])
    covered = [(10.5, 100.0), (160.0, 300.25), (350.0, 400.0), (430.0, 500.75)]
    assert energy.joules == pytest.approx(sum(wave_joules(*part) for part in covered), rel=1e-3)
    assert energy.covered_seconds == pytest.approx(sum(end - start for start, end in covered))
    assert energy.span_seconds == pytest.approx(289.75 + 150.75)
    assert energy.coverage == pytest.approx(energy.covered_seconds / energy.span_seconds)
    assert energy.gaps == ((START + 100.0, START + 160.0), (START + 400.0, START + 430.0))


def test_power_at_an_edge_between_samples_is_interpolated():
    # 0 W at 0 s, 10 W at 1 s, 10 W at 2 s: from 0.5 s to 1.5 s a trapezoid of 3.75 J and a box of 5 J.
    energy = integrate(log_of([0, 1, 2], [0, 10, 10]), [(0.5, 1.5)])
    assert energy.joules == pytest.approx(8.75)
    assert energy.coverage == 1.0 and energy.gaps == ()
    inside = integrate(log_of([0, 1], [0, 10]), [(0.25, 0.75)])
    assert inside.joules == pytest.approx(2.5)


def test_a_span_beyond_the_log_is_covered_in_part():
    energy = integrate(log_of([0, 1, 2], [10, 10, 10]), [(-1, 5)])
    assert energy.joules == pytest.approx(20.0) and energy.covered_seconds == pytest.approx(2.0)
    assert energy.coverage == pytest.approx(1 / 3)
    assert energy.gaps == ((-1.0, 0.0), (2.0, 5.0))


@pytest.mark.parametrize("log", [log_of([0, 1, 2], [1, 1, 1]), log_of([11], [5]), log_of([], [])])
def test_nothing_covered_is_none_and_not_zero(log):
    energy = integrate(log, [(10, 12)])
    assert energy.joules is None and energy.coverage == 0.0 and energy.covered_seconds == 0.0
    assert energy.gaps[0][0] == 10.0 and energy.gaps[-1][1] == 12.0


def test_a_machine_that_is_off_draws_a_measured_zero():
    assert integrate(log_of([0, 1, 2], [0, 0, 0]), [(0, 2)]).joules == 0.0


def test_no_span_and_an_empty_span_cost_nothing_that_was_measured():
    log = log_of([0, 1], [1, 1])
    for spans in ([], [(0.5, 0.5)]):
        energy = integrate(log, spans)
        assert energy.joules is None and (energy.span_seconds, energy.coverage, energy.gaps) == (0.0, 0.0, ())


def test_the_longest_interval_is_the_callers_or_five_medians():
    log = log_of([0, 1, 2, 6, 7, 13, 14], [10.0] * 7)  # the median is 1 s
    energy = integrate(log, [(0, 14)])
    assert energy.joules == pytest.approx(80.0) and energy.gaps == ((7.0, 13.0),)
    assert integrate(log, [(0, 14)], max_gap_seconds=1.0).gaps == ((2.0, 6.0), (7.0, 13.0))
    assert integrate(log, [(0, 14)], max_gap_seconds=60.0).joules == pytest.approx(140.0)
    quick = log_of([0, 0.1, 0.2, 0.3, 2.2], [10.0] * 5)
    assert integrate(quick, [(0, 2.2)]).gaps == ()  # 1.9 s is 19 medians, yet below 2 s
    with pytest.raises(ConfigError, match=r"max_gap_seconds \(--max-gap\) is 0.0; give a positive number"):
        integrate(log, [(0, 14)], max_gap_seconds=0.0)


def test_overlapping_spans_count_once_and_in_any_order():
    log = log_of(range(11), [10.0] * 11)
    energy = integrate(log, [(6, 8), (2, 5), (1, 3), (8, 9)])
    assert energy.joules == pytest.approx(70.0) and energy.span_seconds == 7.0


@pytest.mark.parametrize("span", [(2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_span_that_is_no_stretch_of_time_is_refused(span):
    with pytest.raises(ConfigError, match="give .start, end. in Unix seconds"):
        integrate(log_of([0, 1], [1, 1]), [span])
    with pytest.raises(ConfigError, match="is not a stretch of time"):
        idle_watts(log_of([0, 1], [1, 1]), [span])


def test_the_offset_moves_the_meters_clock(write):
    log = read_power_log(write("time,watts", "0,10", "1,20", "2,30", "3,40"), offset_seconds=100.0)
    assert integrate(log, [(100, 101)]).joules == pytest.approx(15.0)
    assert idle_watts(log, [(101, 104)]) == 10.0


def test_idle_power_is_the_median_before_the_first_and_after_the_last_span():
    log = log_of(range(8), [50, 52, 300, 60, 310, 54, math.nan, 1000])
    assert idle_watts(log, [(1.5, 2.5), (3.5, 4.5)]) == 53.0  # of 50, 52, 54, 1000; not the 60 between the spans
    assert idle_watts(log, [(0, 7)]) is None
    assert idle_watts(log_of([], []), []) is None


def test_blank_cells_are_gaps_and_not_zeros(write):
    log = read_power_log(write("time,watts", "0,10", "1,10", "2,", "3,n/a", "4,10", "5,10", "6, NA "))
    energy = integrate(log, [(0, 6)])
    assert energy.joules == pytest.approx(20.0) and energy.covered_seconds == 2.0
    assert energy.gaps == ((1.0, 4.0), (5.0, 6.0))
    assert idle_watts(log, [(0, 3.5)]) == 10.0


def test_iso_times_with_an_offset_are_unix_seconds(write):
    log = read_power_log(write("Date;Power (W)", "2020-09-13T14:26:40+02:00;5", "2020-09-13T12:26:41.5Z;6"))
    assert log.times.tolist() == [START, START + 1.5] and log.watts.tolist() == [5.0, 6.0]
    assert datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC).timestamp() == START


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["0,5", "1,6"], ("", "")),
        (["0;5", "1;6"], ("", "")),
        (["0\t5", "", "1\t6"], ("", "")),
        (["\ufeffTimestamp,WATTS", "0,5", "1,6"], (" ('Timestamp')", " ('WATTS')")),
        (['when,"Power, W"', "0,5", "1,6"], (" ('when')", " ('Power, W')")),
        (["when; Power, W ", "0;5", "1;6"], (" ('when')", " ('Power, W')")),
    ],
)
def test_two_columns_are_time_and_power_by_position(write, lines, names):
    log = read_power_log(write(*lines))
    assert log.times.tolist() == [0.0, 1.0] and log.watts.tolist() == [5.0, 6.0]
    assert log.columns == "time in column 1{}, power in column 2{}, in W".format(*names)


def test_columns_are_named_by_the_caller(write):
    path = write("time, When ,power,Wall", "9,0,1,0.5", "9,1,1,0.6")
    log = read_power_log(path, time_column="When", power_column="Wall", power_unit="kW")
    assert log.times.tolist() == [0.0, 1.0] and log.watts.tolist() == [500.0, 600.0]
    assert log.columns == "time in column 2 ('When'), power in column 4 ('Wall'), in kW"


@pytest.mark.parametrize(("unit", "watts"), [("W", 5.0), ("kW", 5000.0), ("mW", 0.005)])
def test_the_unit_is_the_callers_whatever_the_header_says(write, unit, watts):
    log = read_power_log(write("time,kW", "0,5"), power_unit=unit)
    assert log.watts.tolist() == [watts] and log.columns.endswith(f"('kW'), in {unit}")


def test_an_unknown_unit_is_refused(write):
    with pytest.raises(ConfigError, match=r"power_unit \(--power-unit\) is 'kw'; give one of W, kW, mW"):
        read_power_log(write("0,5"), power_unit="kw")


def test_equal_times_become_their_mean(write):
    log = read_power_log(write("0,10", "1,20", "1,30", "1,", "2,", "2,n/a", "3,5"))
    assert log.times.tolist() == [0.0, 1.0, 2.0, 3.0]
    np.testing.assert_array_equal(log.watts, [10.0, 25.0, np.nan, 5.0])


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([""], "is empty; give a CSV with a time and a power column"),
        (["time,power"], "has a header and no rows"),
        (["time"], "name two columns by --time-column and --power-column; the file has 'time'"),
        (
            ["time,volts,power", "0,230,1"],
            "name two columns by --time-column and --power-column; the file has 'time', 'volts', 'power'",
        ),
        (["0,230,1"], "name two columns by --time-column and --power-column; the file has '0', '230', '1'"),
        (["time,power", "0,1", "1,lots"], "line 3: power 'lots'; write a finite number of 0 or more"),
        (["time,power", "0,1", "1,nan"], "line 3: power 'nan'; write a finite number of 0 or more"),
        (["time;power", "0;1,5"], "line 2: power '1,5'; write a finite number of 0 or more, with a decimal point"),
        (["0,1", "1,-2"], "line 2: power '-2'; write a finite number of 0 or more"),
        (["0,1", "1,inf"], "line 2: power 'inf'; write a finite number of 0 or more"),
        (["time,power", "5,1", "", "4.5,1"], "line 4: time '4.5' is before the row above by 0.5 s; sort the rows"),
        (["time,power", "1600000000000,1"], "time '1600000000000' is not in Unix seconds; milliseconds are divided"),
        (["time,power", "noon,1"], "line 2: time 'noon' is neither Unix seconds nor ISO 8601"),
        (["time,power", "2020-05-01T12:00:00,1"], "has no offset from UTC; append it, as in"),
        (["2020-05-01T12:00:00,1"], "or write Unix seconds"),
        (["time,power", "0,1", "2020-05-01T12:00:00Z,1"], "is written otherwise than those above"),
        (["time,power", "0,1", "7"], "line 3: 1 cells (7), 2 needed"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(write, lines, told):
    path = write(*lines)
    with pytest.raises(DataError) as caught:
        read_power_log(path)
    message = str(caught.value)
    assert told in message and str(path) in message and "\n" not in message


def test_a_named_column_that_is_not_there_lists_those_that_are(write):
    with pytest.raises(DataError, match="has no column 'load'; the file has 'time', 'power'"):
        read_power_log(write("time,power", "0,1"), time_column="time", power_column="load")
    with pytest.raises(DataError, match="has no column 'Time'; the file has 'time', 'power'"):
        read_power_log(write("time,power", "0,1"), time_column="Time", power_column="power")
    with pytest.raises(DataError, match="has no column 'time'; the file has '0', '1'"):
        read_power_log(write("0,1"), time_column="time", power_column="load")


@pytest.mark.parametrize("named", [{"time_column": "time"}, {"power_column": "power"}])
def test_one_named_column_is_not_enough(write, named):
    with pytest.raises(DataError, match="name two columns by --time-column and --power-column; the file has 'time', "):
        read_power_log(write("time,power", "0,1"), **named)


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file or directory; give the meter's CSV file"):
        read_power_log(tmp_path / "none.csv")
    path = tmp_path / "meter.csv"
    path.write_bytes(b"time,power\n0,\xff\xfe\n")
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        read_power_log(path)


@pytest.mark.parametrize(
    ("times", "watts", "told"),
    [
        ([0, 1], [1], "2,. times and .1,. watts"),
        ([1, 1], [1, 1], "times must be finite and increase"),
        ([0, math.inf], [1, 1], "times must be finite and increase"),
        ([0, 1], [1, -1], "watts must be 0 or more"),
        ([0, 1], [1, math.inf], "watts must be 0 or more"),
    ],
)
def test_a_log_refuses_nonsense_at_birth(times, watts, told):
    with pytest.raises(DataError, match=told):
        log_of(times, watts)


def test_a_day_at_ten_hertz_integrates_to_rounding():
    times = START + np.arange(864_000) / 10.0
    log = PowerLog(times, np.full(864_000, 250.0))
    spans = [(START + 60.0 * minute, START + 60.0 * minute + 30.0) for minute in range(1000)]
    energy = integrate(log, spans)
    assert energy.joules == pytest.approx(1000 * 30.0 * 250.0, rel=1e-9) and energy.gaps == ()


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "meter.csv"
    path.write_text("time,power,power\n1,100,200\n")
    with pytest.raises(DataError, match="has 2 columns named 'power'; give each its own name"):
        read_power_log(path, time_column="time", power_column="power")


def test_a_blank_first_line_does_not_hide_the_delimiter(tmp_path):
    path = tmp_path / "meter.csv"
    path.write_text("\ntime;watts\n1;50\n2;50\n")
    assert read_power_log(path).watts.tolist() == [50.0, 50.0]
