"""Energy in the comparison: one row for each counter, one for the estimate, ratios only between whole runs."""

from __future__ import annotations

import io

from rich.console import Console

from earlybird.report.comparison import comparison_tables, print_comparison


def energy(measured=(), joules=None, reason=None, others=None):
    """A record's `energy`: (method, joules, coverage) of counters, and estimated joules; `others` on the card."""
    found = {name: {"joules": value, "coverage": share} for name, value, share in measured}
    return {
        "measured": {name: one | ({} if others is None else {"shared_with": others}) for name, one in found.items()},
        "reason": reason,
        "notes": [],
        "estimated": None if joules is None else {"joules": joules, "source": "a table"},
        "estimate_reason": None if joules is not None else "the memory traffic is not known",
    }


def rows(records):
    """Column name -> its cells, method by method."""
    (table,) = comparison_tables(records)
    return {name: [row[place] for row in table.rows] for place, name in enumerate(table.headings())}


def pair(make_record, dense, ticket):
    return [make_record("dense") | {"energy": dense}, make_record() | {"energy": ticket}]


def test_measured_and_estimated_stand_in_rows_of_their_own(make_record):
    both = pair(make_record, energy([("nvml", 2000.0, 1.0)], 900.0), energy([("nvml", 1000.0, 1.0)], 600.0))
    table = rows(both)
    assert table["energy, measured by nvml"] == ["2.00 kJ (1.00)", "1.00 kJ (0.50)"]
    assert table["energy, estimated"] == ["~900 J (1.00)", "~600 J (0.67)"]


def test_each_counter_has_a_row_and_nothing_is_filled_in(make_record):
    both = pair(make_record, energy([("nvml", 2000.0, 1.0)], 1.0), energy([("external_meter", 5000.0, 1.0)]))
    table = rows(both)
    assert table["energy, measured by nvml"] == ["2.00 kJ (1.00)", "–"]
    assert table["energy, measured by external_meter"] == ["–", "5.00 kJ"]
    assert table["energy, estimated"][1] == "–"


def test_joules_of_a_part_of_a_run_have_no_ratio_and_say_of_which_part(make_record):
    both = pair(make_record, energy([("nvml", 100.0, 1.0)]), energy([("nvml", 25.0, 0.4)]))
    assert rows(both)["energy, measured by nvml"] == ["100 J (1.00)", "25.0 J [40 % of the run]"]


def test_joules_of_two_machines_have_no_ratio(make_record):
    both = pair(make_record, energy([("nvml", 100.0, 1.0)]), energy([("nvml", 25.0, 1.0)]))
    both[1]["device"] = {"type": "cuda", "name": "another"}
    assert rows(both)["energy, measured by nvml"] == ["100 J (1.00)", "25.0 J"]


SHARED_NOTE = (
    "energy, measured by nvml: left out where the card was shared with other processes (†): their joules are in it."
)


def test_joules_of_a_shared_card_are_left_out_and_the_estimate_stays(make_record):
    others, alone = energy([("nvml", 1e5, 0.4)], 600.0, others=3), energy([("nvml", 2000.0, 1.0)], 900.0, others=0)
    both = pair(make_record, alone, others)
    table = rows(both)
    assert table["energy, measured by nvml"] == ["2.00 kJ (1.00)", "–"]
    assert table["energy, estimated"] == ["~900 J (1.00)", "~600 J (0.67)"]
    assert SHARED_NOTE in comparison_tables(both)[0].notes
    assert SHARED_NOTE not in comparison_tables([both[0]])[0].notes
    # A dense partner that shared its card gives no ratio.
    assert rows(pair(make_record, others, alone))["energy, measured by nvml"] == ["–", "2.00 kJ"]
    assert rows(pair(make_record, others, others))["energy, measured by nvml"] == ["–", "–"]


def test_a_mean_has_the_joules_of_the_seeds_that_had_the_card_alone(make_record):
    runs = [
        make_record(seed=seed) | {"energy": energy([("nvml", joules, 1.0)], others=others)}
        for seed, joules, others in ((0, 1e5, 3), (1, 1000.0, 0), (2, 1200.0, None))
    ]
    assert rows(runs)["energy, measured by nvml"] == ["1.10 ± 0.14 kJ [n=2]"]


def test_a_meter_at_the_wall_keeps_its_joules_beside_a_shared_card(make_record):
    both = energy([("nvml", 1e5, 1.0)], others=3)
    both["measured"]["external_meter"] = {"joules": 5000.0, "coverage": 1.0}
    table = rows([make_record() | {"energy": both}])
    assert table["energy, measured by external_meter"] == ["5.00 kJ"]
    assert table["energy, measured by nvml"] == ["–"]


def test_reasons_stand_below_the_table(make_record):
    console = Console(file=io.StringIO(), width=200)
    missing = energy(reason="not measured (no counter: RAPL: no folder)")
    print_comparison([make_record() | {"energy": missing}], console)
    text = console.file.getvalue()
    assert "energy: not measured (no counter: RAPL: no folder)." in text
    assert "energy, not estimated: the memory traffic is not known." in text
    assert "energy, measured" not in text and "~" not in text


def test_records_of_older_versions_have_no_energy_rows(make_record):
    assert not [name for name in rows([make_record()]) if name.startswith("energy")]
