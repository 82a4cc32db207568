"""Where the printed numbers contradict each other: each value worked out by hand from the paper's tables."""

from __future__ import annotations

import pytest

from earlybird.paper.contradictions import Contradiction, table2_contradictions, table3_contradictions


def about(text: str) -> Contradiction:
    (found,) = [c for c in (*table2_contradictions(), *table3_contradictions()) if text in c.claim]
    return found


@pytest.mark.parametrize(
    ("text", "values"),
    [
        # 370.6 / 44.4 = 8.347; the most is VGG16, CIFAR-10, p = 0.7: SNIP's 373.1 / 36.5 = 10.222
        ("10.7x", {"claimed": 10.7, "own_row": 8.35, "most_in_any_setting": 10.22}),
        # 373.1 / 56.1 = 6.651 and 298.0 / 56.1 = 5.312
        ("6.6x", {"claimed": 6.6, "snip": 6.65, "thinet": 5.31}),
        ("re-init 9.45 P, FF 9.85 P", {"reinit": 9.45, "ff": 9.85}),
        ("SNIP 7.40 P", {"snip": 7.4, "half_of_lottery_ticket": 7.45}),
        # 71.81 - 72.62 (VGG16, CIFAR-100, p = 0.1) and 72.29 - 70.01 (PreResNet101, CIFAR-100, p = 0.7)
        ("2.38 points", {"claimed": 2.38, "least": -0.81, "most": 2.28}),
        # 7.45 / 13.9 and 7.45 / 11.0
        ("75 %", {"claimed": 75.0, "least": 53.6, "most": 67.7}),
        # 0.00026 * 0.31e9 / 7,408 = 10.88; times 150,000 forward passes
        (
            "0.026 %",
            {
                "claimed_percent": 0.026,
                "operations_per_channel_if_of_one_image": 10.9,
                "operations_per_channel_if_of_an_epoch": 1_632_019,
            },
        ),
        # 1991.94 / 1259.13
        ("soft filter pruning", {"charged": 1991.94, "one_dense_training": 1259.13, "times": 1.58}),
        ("top-1 75.99", {"printed": 75.99, "implied": 75.59}),
        ("8.21 GFLOP", {"counted": 8.21, "thinet": 7.72}),
    ],
)
def test_values_of_each_contradiction(text, values):
    assert about(text).values == values


def test_the_findings_say_the_numbers():
    assert about("75 %").finding.startswith("one dense training is 54 to 68 %")
    assert "8.35x" in about("10.7x").finding
    assert "all 6 differences" in about("top-1 75.99").finding


def test_each_belongs_to_one_table():
    assert (len(table2_contradictions()), len(table3_contradictions())) == (7, 3)
