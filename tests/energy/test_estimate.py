"""Estimated joules follow from the published table, and are None where something is not known."""

from __future__ import annotations

import pytest

from earlybird.energy import estimated_joules, unit_energies
from earlybird.errors import ConfigError


def test_the_default_table_is_horowitz() -> None:
    table = unit_energies()
    assert table.name == "horowitz-2014-45nm (version 1)" and "ISSCC 2014" in table.source
    assert table.mac_picojoules == {8: 0.30, 16: 1.5, 32: 4.6}
    assert table.dram_picojoules_per_byte == 640 / 4  # 640 pJ for a 32-bit word


def test_products_and_traffic_add_up() -> None:
    # 1e12 fp32 products: 4.6 J; 1e12 bytes: 160 J.
    assert estimated_joules({"32x32": 10**12}, 0) == pytest.approx(4.6)
    assert estimated_joules({"16x16": 10**12, "8x8": 10**12}, 10**12) == pytest.approx(1.5 + 0.3 + 160)


def test_the_wider_operand_decides() -> None:
    assert estimated_joules({"8x32": 10**12}, 0) == pytest.approx(4.6)


def test_what_is_not_known_is_none_and_never_zero() -> None:
    assert estimated_joules({"32x32": 1}, None) is None
    assert estimated_joules({"64x64": 1}, 0) is None


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="'tpu'; give one of horowitz-2014-45nm"):
        unit_energies("tpu")
