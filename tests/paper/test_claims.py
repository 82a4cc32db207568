"""`claims.csv`: against the transcript of the paper where that is at hand, and against what recomputes its numbers."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from earlybird.paper.claims import Claim, Derivation, Setting, by_setting, claims, find, published
from earlybird.paper.table2 import table2_rows
from earlybird.paper.table3 import table3_rows

TRANSCRIPT = Path(__file__).parents[2].parent / "shared" / "paper"
needs_transcript = pytest.mark.skipif(not TRANSCRIPT.is_dir(), reason="the transcript of the paper is not here")
BASELINES = ("lottery_ticket", "snip", "network_slimming", "thinet")


def transcript(name: str) -> list[dict[str, str]]:
    with (TRANSCRIPT / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_has_its_cells():
    # Table 2: 12 settings of 8 methods, 3 numbers each, and one saving. Table 3: 13 rows of 4 numbers, 11 of 2 more.
    by_source = Counter(claim.source for claim in claims())
    assert [by_source[f"Table {number}"] for number in (1, 2, 3, 4)] == [32, 12 * 8 * 3 + 1, 13 * 4 + 11 * 2, 32]
    assert len(by_setting("Table 2", "training_flops")) == 12
    assert all(len(row) == 8 for row in by_setting("Table 2", "training_flops").values())
    assert len(find("Table 3", "training_flops")) == 13


def test_no_place_is_claimed_twice():
    places = Counter((c.source, c.setting, c.method, c.condition, c.quantity) for c in claims())
    assert places.most_common(1)[0][1] == 1


def test_derivations_are_the_known_ones_and_every_sum_names_its_inputs():
    assert {claim.derivation for claim in claims()} == set(get_args(Derivation))
    given = {"measured", "estimated", "published input"}
    assert all(claim.inputs for claim in claims() if claim.derivation not in given)


def test_printed_digits_are_kept():
    row = by_setting("Table 2", "training_flops")[Setting("preresnet101", "cifar10", 0.3)]
    assert str(row["snip"].value) == "7.40"
    assert str(published("Luo et al. 2017", "forward_flops", "resnet50", "thinet", 0.7).value) == "2.20"


def test_a_place_without_a_claim_is_refused():
    with pytest.raises(ValueError, match="not enough values"):
        published("Table 3", "training_flops", "resnet18", "thinet", 0.3)


def test_a_setting_reads_in_one_line():
    assert str(Setting("vgg16", "cifar10", 0.5)) == "vgg16 cifar10 p=0.5"


def test_the_file_lies_in_the_package_as_text():
    text = files("earlybird.paper").joinpath("claims.csv").read_text(encoding="utf-8")
    assert text.startswith("source,model,dataset,method,prune_ratio,condition,quantity,value,unit,derivation,inputs\n")


# Against the transcript -----------------------------------------------------------------------------------------------

COLUMNS = {
    "Table 1": {"retrain_accuracy_percent": ("accuracy", "%")},
    "Table 2": {
        "retrain_accuracy_percent": ("accuracy", "%"),
        "energy_kilojoules": ("energy", "kJ"),
        "total_training_petaflops": ("training_flops", "PFLOP"),
    },
    "Table 3": {
        "top1_percent": ("top1_accuracy", "%"),
        "top1_improvement": ("top1_gain", "points"),
        "top5_percent": ("top5_accuracy", "%"),
        "top5_improvement": ("top5_gain", "points"),
        "total_training_petaflops": ("training_flops", "PFLOP"),
        "energy_megajoules": ("energy", "MJ"),
    },
    "Table 4": {"retrain_accuracy_percent": ("accuracy", "%")},
}


def condition(row: dict[str, str]) -> str:
    if "search_schedule" in row:
        return f"lr drops {row['search_schedule'].replace(',', ' ')} draw {row['draw_epoch']}"
    return f"lr {row['initial_lr']} draw {row['draw_epoch']}" if "initial_lr" in row else ""


@needs_transcript
@pytest.mark.parametrize("table", COLUMNS)
def test_every_number_of_a_table_is_the_printed_one(table):
    printed = [
        (row["model"], row.get("method", ""), row["prune_ratio"], condition(row), *named, Decimal(row[column]))
        for row in transcript(f"{table.lower().replace(' ', '')}.csv")
        for column, named in COLUMNS[table].items()
        if row[column]
    ]
    ours = [
        (
            c.model,
            c.method,
            "" if c.prune_ratio is None else f"{c.prune_ratio:g}",
            c.condition,
            c.quantity,
            c.unit,
            c.value,
        )
        for c in claims()
        if c.source == table and c.quantity != "energy_saved"
    ]
    assert ours == printed


@needs_transcript
def test_the_datasets_of_the_tables_are_the_printed_ones():
    for table in ("Table 1", "Table 2", "Table 4"):
        rows = transcript(f"{table.lower().replace(' ', '')}.csv")
        printed = [row["dataset"] for row in rows for column in COLUMNS[table]]
        assert [c.dataset for c in claims() if c.source == table and c.quantity != "energy_saved"] == printed


@needs_transcript
def test_claims_of_the_text_are_the_printed_ones():
    ours = {c.quantity: c for c in claims() if c.source.startswith(("Section", "Abstract"))}
    for row in transcript("text_claims.csv"):
        if row["value"] == "qualitative":
            assert row["id"] not in ours
            continue
        parts = [ours[row["id"] + end] for end in ("", "_low", "_high") if row["id"] + end in ours]
        words = row["value"].removesuffix("x").removeprefix("<=")
        printed = words.split("..") if ".." in words else words.split("-") if len(parts) == 2 else [words]
        assert [part.value for part in parts] == list(map(Decimal, printed))
        assert {part.source for part in parts} == {row["where"].capitalize()}
    assert len(ours) == 28


# Against what recomputes them -----------------------------------------------------------------------------------------


def test_derivations_of_table_2_are_those_that_counting_and_searching_give():
    for row in table2_rows():
        claimed = by_setting("Table 2", "training_flops")[Setting(row.model, row.dataset, row.prune_ratio)]
        unique = "fitted" if len(row.fits) == 1 else "fitted, not unique"
        for cell in row.cells:
            kind = cell.status.split()[0].strip(",")
            expected = {"exact": "derived", "off": "derived", "implied": "fitted", "fitted": unique}
            assert claimed[cell.method].derivation == expected.get(kind, "not derived")
            assert kind != "implied" or len(cell.slim_gflops) == 1


def test_derivations_of_table_3_are_those_that_counting_and_searching_give():
    for row in table3_rows():
        if row.method == "early_bird_ff":
            found = "fitted" if len(row.fits) == 1 else "fitted, not unique"
            assert row.status == ("not derived" if row.recomputed is None else found)
        else:
            inputs = {"unpruned": "derived", "network_slimming": "fitted"}
            assert row.status == inputs.get(row.method, "from published inputs")


def test_gains_of_table_3_are_differences_to_the_unpruned_network():
    for which in ("top1", "top5"):
        accuracy = {claim.row: claim.value for claim in find("Table 3", f"{which}_accuracy")}
        for gain in find("Table 3", f"{which}_gain"):
            comes_out = gain.value == accuracy[gain.row] - accuracy[gain.model, "unpruned", None]
            assert gain.derivation == ("derived" if comes_out else "not derived")
            assert comes_out == ((which, gain.model) != ("top1", "resnet50"))


def ratios(quantity: str, method: str, baselines: Iterable[str] = BASELINES) -> list[Decimal]:
    rows = by_setting("Table 2", quantity).values()
    return [row[baseline].value / row[method].value for row in rows for baseline in baselines]


def reductions(quantity: str, model: str) -> list[Decimal]:
    """Percent saved by Early Bird on ImageNet against each pruning method at the same ratio."""
    rows = [row for setting, row in by_setting("Table 3", quantity).items() if setting.model == model]
    rows = [row for row in rows if "early_bird_ff" in row]
    return [
        100 * (1 - row["early_bird_ff"].value / other.value)
        for row in rows
        for method, other in row.items()
        if method != "early_bird_ff"
    ]


def gains() -> list[Decimal]:
    rows = by_setting("Table 2", "accuracy").values()
    return [row["early_bird_ff"].value - max(row[baseline].value for baseline in BASELINES) for row in rows]


RANGES = {
    "ff_energy": lambda: ratios("energy", "early_bird_ff"),
    "ff_flops": lambda: ratios("training_flops", "early_bird_ff"),
    "ll_energy": lambda: ratios("energy", "early_bird_ll"),
    "ll_flops": lambda: ratios("training_flops", "early_bird_ll"),
    "fig5_accuracy": gains,
    "resnet18_flops": lambda: reductions("training_flops", "resnet18"),
    "resnet50_flops": lambda: reductions("training_flops", "resnet50"),
    "resnet18_energy": lambda: reductions("energy", "resnet18"),
    "resnet50_energy": lambda: reductions("energy", "resnet50"),
}


def text_claim(quantity: str) -> Claim:
    (claim,) = (claim for claim in claims() if claim.quantity == quantity)
    return claim


@pytest.mark.parametrize(("end", "extreme"), [("low", min), ("high", max)])
@pytest.mark.parametrize("name", RANGES)
def test_ranges_of_the_text_are_derived_where_the_tables_give_them_and_nowhere_else(name, end, extreme):
    claim = text_claim(f"{name}_{end}")
    recomputed = extreme(RANGES[name]())
    digits = -claim.value.as_tuple().exponent
    assert claim.derivation == ("derived" if round(recomputed, digits) == claim.value else "not derived")


def test_two_ends_of_ranges_do_not_come_out():
    ends = [claim.quantity for claim in claims() if claim.quantity.rsplit("_", 1)[0] in RANGES]
    assert len(ends) == 18
    assert [end for end in ends if text_claim(end).derivation == "not derived"] == [
        "ll_energy_low",
        "fig5_accuracy_high",
    ]


def test_the_lowest_energy_saving_of_the_text_leaves_thinet_out():
    # SNIP on VGG16, CIFAR-100, p = 0.3: 370.6 / 64.4 = 5.755. ThiNet on VGG16, CIFAR-10, p = 0.3: 298.0 / 56.1 = 5.312.
    without = ratios("energy", "early_bird_ll", [baseline for baseline in BASELINES if baseline != "thinet"])
    assert round(min(without), 1) == text_claim("energy_vs_baselines_low").value == text_claim("ll_energy_low").value
    assert round(min(ratios("energy", "early_bird_ll")), 2) == Decimal("5.31")
