"""The configurations in `examples/` are read as the command line reads them, and say what the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest

from earlybird.cli.options import parse_run
from earlybird.training.loop import learning_rate

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("imagenet-*.yaml")), ids=lambda path: path.stem)
def test_an_imagenet_preset_is_the_papers_protocol(path: Path):
    config, _ = parse_run("train", "", ["--config", str(path), "--data", "imagefolder:elsewhere"])
    assert config.data.name == "imagefolder:elsewhere"
    assert (config.training.epochs, config.training.batch_size, config.training.precision) == (90, 256, "fp32")
    assert (config.method.clock, config.method.round_to, config.method.policy) == ("epochs", 1, "inner")
    steps = 5005  # 1,281,167 images in batches of 256, the last one partial.
    rates = [learning_rate(epoch * steps, 90 * steps, config.training) for epoch in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
