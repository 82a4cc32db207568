"""Where the paper contradicts itself and which fits the notes name: each number recomputed from the claims."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from earlybird.cost import count_cost
from earlybird.cost.ledger import FORWARDS_PER_TRAINING_STEP
from earlybird.data.images import PUBLISHED
from earlybird.models import build_model
from earlybird.paper.claims import Setting, by_setting, dense_gflops, find, findings, published
from earlybird.paper.table3 import early_bird_fits, table3_rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "paper-flops.md"
BASELINES = ("lottery_ticket", "snip", "network_slimming", "thinet")
CONTRADICTIONS = [found for table in ("table2", "table3") for found in findings()[table]["contradictions"]]


def about(text: str) -> dict[str, Any]:
    (found,) = [each for each in CONTRADICTIONS if text in each["claim"]]
    return found


def numbers(text: str) -> list[float]:
    """Numbers that a text says."""
    return [float(word.replace(",", "")) for word in re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", text.replace(", ", " "))]


def table2(quantity: str) -> dict[Setting, dict[str, float]]:
    rows = by_setting("Table 2", quantity).items()
    return {setting: {method: float(claim.value) for method, claim in row.items()} for setting, row in rows}


def saved(row: dict[str, float]) -> dict[str, float]:
    return {baseline: row[baseline] / row["early_bird_ll"] for baseline in BASELINES}


def headline_saving() -> dict[str, float]:
    energy = table2("energy")
    own = saved(energy[Setting("vgg16", "cifar100", 0.5)])["snip"]
    most = max(min(saved(row).values()) for row in energy.values())
    claimed = published("Abstract", "energy_vs_baselines_high").value
    return {"claimed": claimed, "own_row": round(own, 2), "most_in_any_setting": round(most, 2)}


def weakest_baseline() -> dict[str, float]:
    row = saved(table2("energy")[Setting("vgg16", "cifar10", 0.3)])
    claimed = published("Table 2", "energy_saved", "vgg16", "early_bird_ll", 0.3).value
    return {"claimed": claimed, "snip": round(row["snip"], 2), "thinet": round(row["thinet"], 2)}


def cheaper_reinit() -> dict[str, float]:
    rows = [(row["early_bird_reinit"], row["early_bird_ff"]) for row in table2("training_flops").values()]
    ((reinit, inherited),) = (pair for pair in rows if pair[0] < pair[1])
    return {"reinit": reinit, "ff": inherited}


def snip_is_half() -> dict[str, float]:
    row = table2("training_flops")[Setting("preresnet101", "cifar10", 0.3)]
    return {"snip": row["snip"], "half_of_lottery_ticket": row["lottery_ticket"] / 2}


def accuracy_gain() -> dict[str, float]:
    rows = table2("accuracy").values()
    gains = [round(row["early_bird_ff"] - max(row[baseline] for baseline in BASELINES), 2) for row in rows]
    return {"claimed": published("Section 4.3", "fig5_accuracy_high").value, "least": min(gains), "most": max(gains)}


def first_step() -> dict[str, float]:
    # The first step is one dense training, half of the lottery ticket's two; the whole adds the slim training.
    rows = [row for s, row in table2("training_flops").items() if (s.model, s.dataset) == ("preresnet101", "cifar10")]
    shares = [round(50 * row["lottery_ticket"] / row["network_slimming"], 1) for row in rows]
    return {"claimed": published("Section 4.1", "first_step_share").value, "least": min(shares), "most": max(shares)}


def overhead() -> dict[str, float]:
    norms = [m for m in build_model("preresnet101", num_classes=10).modules() if isinstance(m, nn.BatchNorm2d)]
    channels = sum(norm.num_features for norm in norms)
    assert f"{channels:,} channels" in about("0.026 %")["finding"]
    claimed = float(published("Section 4.3", "overhead_flops").value)
    allowed = claimed / 100 * float(dense_gflops("preresnet101")) * 1e9 / channels
    return {
        "claimed_percent": claimed,
        "operations_per_channel_if_of_one_image": round(allowed, 1),
        "operations_per_channel_if_of_an_epoch": round(
            allowed * FORWARDS_PER_TRAINING_STEP * PUBLISHED["cifar10"].train_images
        ),
    }


def soft_filter_pruning() -> dict[str, float]:
    charged = published("Table 3", "training_flops", "resnet18", "soft_filter_pruning", 0.3).value
    one = published("Table 3", "training_flops", "resnet18", "unpruned").value
    return {"charged": charged, "one_dense_training": one, "times": round(charged / one, 2)}


def deltas() -> dict[str, float]:
    accuracy = {claim.row: claim.value for claim in find("Table 3", "top1_accuracy")}
    gains = [gain for gain in find("Table 3", "top1_gain") if gain.model == "resnet50"]
    assert f"all {len(gains)} differences" in about("top-1 75.99")["finding"]
    (base,) = {accuracy[gain.row] - gain.value for gain in gains}
    return {"printed": accuracy["resnet50", "unpruned", None], "implied": base}


def dense_resnet50() -> dict[str, float]:
    thinet = published("Luo et al. 2017", "forward_flops", "resnet50", "unpruned").value
    return {"counted": dense_gflops("resnet50"), "thinet": thinet}


# Words of the claim, what recomputes its numbers, and the numbers as worked out by hand.
CASES: list[tuple[str, Callable[[], dict[str, float]], list[float]]] = [
    # 370.6 / 44.4 = 8.347; the most is VGG16, CIFAR-10, p = 0.7: SNIP's 373.1 / 36.5 = 10.222
    ("10.7x", headline_saving, [10.7, 8.35, 10.22]),
    # 373.1 / 56.1 = 6.651 and 298.0 / 56.1 = 5.312
    ("6.6x", weakest_baseline, [6.6, 6.65, 5.31]),
    ("re-init 9.45 P, FF 9.85 P", cheaper_reinit, [9.45, 9.85]),
    ("SNIP 7.40 P", snip_is_half, [7.4, 7.45]),
    # 71.81 - 72.62 (VGG16, CIFAR-100, p = 0.1) and 72.29 - 70.01 (PreResNet101, CIFAR-100, p = 0.7)
    ("2.38 points", accuracy_gain, [2.38, -0.81, 2.28]),
    # 7.45 / 13.9 and 7.45 / 11.0
    ("75 %", first_step, [75.0, 53.6, 67.7]),
    # 0.00026 * 0.31e9 / 7,408 = 10.88; times 150,000 forward passes
    ("0.026 %", overhead, [0.026, 10.9, 1_632_019]),
    # 1991.94 / 1259.13
    ("soft filter pruning", soft_filter_pruning, [1991.94, 1259.13, 1.58]),
    ("top-1 75.99", deltas, [75.99, 75.59]),
    ("8.21 GFLOP", dense_resnet50, [8.21, 7.72]),
]


@pytest.mark.parametrize(("text", "recompute", "by_hand"), CASES, ids=[case[0] for case in CASES])
def test_numbers_of_each_contradiction_follow_from_the_claims(text, recompute, by_hand):
    recomputed = {name: float(value) for name, value in recompute().items()}
    assert about(text)["values"] == recomputed
    assert list(recomputed.values()) == by_hand


@pytest.mark.parametrize("found", CONTRADICTIONS, ids=lambda found: found["claim"][:30])
def test_a_contradiction_says_its_numbers_in_words_too(found):
    said = numbers(f"{found['claim']} {found['finding']}")
    for name, value in found["values"].items():
        assert {value, float(round(value))} & {*said}, name


def test_each_contradiction_belongs_to_one_table_and_is_recomputed_once():
    assert [len(findings()[table]["contradictions"]) for table in ("table2", "table3", "figure5")] == [7, 3, 0]
    assert sorted(about(text)["claim"] for text, *_ in CASES) == sorted(found["claim"] for found in CONTRADICTIONS)


def test_notes_of_table_3_name_the_fits_that_the_search_finds():
    notes, checked = findings()["table3"]["notes"], []
    for row in table3_rows():
        if row.model == "resnet50" and row.fits:
            checked.append(f"resnet50 EB p={row.prune_ratio:g}")
            lost = sum(fit.epochs == 89 for fit in row.fits)
            assert f"{len(row.fits) - lost} fits with 90 epochs in all, {lost} with 89" in notes[checked[-1]]
    draws = [{(fit.epochs, fit.draw_epoch) for fit in row.fits} for row in table3_rows() if row.model == "resnet50"]
    shared = sorted(draw for draw in set.union(*draws) if sum(draw in of_row for of_row in draws) == 2)
    assert shared == [(89, 8), (89, 26)]
    assert all("another row of this network too: 8, 26; the earliest is shown" in notes[name] for name in checked[1:])
    assert len(checked) == 3 and len(notes) == 8


def test_other_dense_f_for_resnet50_at_three_tenths_fit_what_the_note_says():
    claim = published("Table 3", "training_flops", "resnet50", "early_bird_ff", 0.3)
    products = Decimal(
        str(round(2 * count_cost(build_model("torchvision:resnet50", num_classes=1000), (3, 224, 224)).macs / 1e9, 2))
    )
    thinet = published("Luo et al. 2017", "forward_flops", "resnet50", "unpruned").value
    note = findings()["table3"]["notes"]["resnet50 EB p=0.3"]
    found = {dense: [early_bird_fits(claim, dense, epochs) for epochs in (90, 89)] for dense in (products, thinet)}
    assert products == Decimal("8.18")  # torchvision gives 4.089 GMAC for ResNet50
    assert [[len(fits) for fits in both] for both in found.values()] == [[3, 0], [1, 11]]
    assert f"with dense F 8.18 (without BN, ReLU, pooling) 3 with 90, first {found[products][0][0]}" in note
    whole, lost = found[thinet]
    assert f"with dense F 7.72 (ThiNet's) 1 with 90, first {whole[0]}, 11 with 89, first {lost[0]}" in note
    own = next(row for row in table3_rows() if (row.model, row.method, row.prune_ratio) == claim.row)
    assert f"2 fits with 90 epochs in all, 0 with 89: {', '.join(map(str, own.fits))}" in note


@pytest.mark.parametrize("found", CONTRADICTIONS, ids=lambda found: found["claim"][:30])
def test_a_line_of_the_document_states_the_numbers_of_each_contradiction(found):
    lines = (numbers(line) for line in DOCUMENT.read_text(encoding="utf-8").splitlines())
    assert any(set(map(abs, found["values"].values())) <= set(map(abs, line)) for line in lines)
