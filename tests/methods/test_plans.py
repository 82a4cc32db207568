"""What `earlybird cost` plans for a method that ends dense is what the method executes, to the last product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from earlybird.cost import count_cost
from earlybird.cost.plan import PlannedData, method_plans, price
from earlybird.models import build_model
from earlybird.runs.config import RunConfig
from earlybird.runs.run import run


@pytest.mark.parametrize("method", ["dense", "lottery_ticket", "snip"])
def test_the_plan_of_a_method_that_masks_weights_is_what_it_executed(
    method: str, tiny_settings: Any, tiny: Path, tmp_path: Path
):
    record = run(RunConfig.from_dict(tiny_settings(method)), tmp_path / "run", quiet=True)
    dense = count_cost(build_model(f"{tiny}:network", num_classes=3, image_size=8), (3, 8, 8))
    data = PlannedData(train_images=90, test_images=30, batch_size=20)
    planned = price(method_plans(12, 1, 2)[method], {"dense": dense, "slim": dense}, data)
    assert record["cost"]["total"]["macs"] == planned.work.macs
    assert {phase: cost["macs"] for phase, cost in record["cost"]["phases"].items()} == {
        phase: work.macs for phase, work in planned.phases.items()
    }
