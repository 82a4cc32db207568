"""Grids of a tiny network, for tests that run their nodes."""

from __future__ import annotations

from typing import Any

import pytest

from earlybird.grids.grid import Block, Grid


@pytest.fixture
def grid(tiny_settings) -> Any:
    def make(*methods: str, ratios: Any = (0.5,), seeds: Any = (0,), equal: Any = (), **method_settings: Any) -> Grid:
        settings = tiny_settings("dense")
        del settings["method"]
        return Grid(
            settings, (Block(methods, ratios, seeds),), {"round_to": 1, "min_draw_steps": 1, **method_settings}, equal
        )

    return make
