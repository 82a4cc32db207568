"""What the README says is run here: its snippet in a plain PyTorch loop, the example beside it."""

from __future__ import annotations

import csv
import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from earlybird import bn_scale, channel_groups, draw_mask, slim
from earlybird.models import build_model

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
USAGE = (REPOSITORY / "docs" / "usage.md").read_text()
TABLE = REPOSITORY / "docs" / "results" / "compare-cifar10" / "table.csv"
MOST_LINES = 110  # read in two minutes


class TwoBranches(nn.Module):
    """A network nobody has a name for: a stem, two branches that are added, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.right = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.left(x) + self.right(x))
        return self.head(x.mean((2, 3)))


def python_block(page: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return block


def snippet() -> str:
    return python_block(README)


def train_commands() -> list[str]:
    """Those of every page, continued lines joined."""
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in sorted(pages)).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("earlybird train -") and ".py:" not in line]


def plain_loop() -> dict[str, object]:
    """Everything the snippet takes from the user's own program; nothing of ours."""
    torch.manual_seed(0)
    x = torch.randn(64, 1, 8, 8)
    y = (x.mean((1, 2, 3)) > 0).long()
    loader = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train_one_epoch(model: nn.Module, loader, optimizer, after_backward=None) -> float:
        total = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            if after_backward is not None:
                after_backward()
            optimizer.step()
            total += loss.item()
        return total

    model = TwoBranches()
    return {
        "model": model,
        "example_input": x[:1],
        "loader": loader,
        "optimizer": make_optimizer(model),
        "make_optimizer": make_optimizer,
        "train_one_epoch": train_one_epoch,
    }


def test_the_snippet_cuts_a_foreign_network_in_a_plain_loop_and_the_small_one_trains_on():
    scope = plain_loop()
    exec(compile(snippet(), "README.md", "exec"), scope)
    dense, small, ticket = scope["model"], scope["small"], scope["ticket"]
    assert type(small) is TwoBranches
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
    # The add ties the two branches: both must have kept the same channels.
    assert torch.equal(ticket.mask["left.1"], ticket.mask["right.1"])
    assert small.left[0].out_channels == small.right[0].out_channels == small.head.in_features
    before = [p.clone() for p in small.parameters()]
    scope["train_one_epoch"](small, scope["loader"], scope["optimizer"])
    assert any(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))


def test_the_snippet_imports_only_the_four_names_that_design_names():
    assert re.findall(r"^from earlybird import (.*)$", snippet(), flags=re.MULTILINE) == [
        "EarlyBird, bn_l1_subgradient_, channel_groups, slim"
    ]
    assert len(re.findall("import", snippet())) == 1


def test_the_snippet_says_so_when_no_mask_is_stable():
    scope = plain_loop()
    never = snippet().replace("range(160)", "range(3)")  # the rule needs six draws
    with pytest.raises(SystemExit, match="no stable mask: train longer or raise epsilon"), warnings.catch_warnings():
        exec(compile(never, "README.md", "exec"), scope)


def test_the_snippet_of_the_usage_page_saves_a_slim_network_and_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    dense, x = build_model("torchvision:resnet18", num_classes=10, image_size=64), torch.randn(2, 3, 64, 64)
    groups = channel_groups(dense, x)
    small = slim(dense, draw_mask(bn_scale(dense), 0.5, groups), x, groups).eval()
    scope = {"small": small}
    exec(compile(python_block(USAGE), "usage.md", "exec"), scope)
    assert scope["small"] is not small
    assert torch.equal(scope["small"](x), small(x))


def test_the_readme_is_read_in_two_minutes():
    assert len(README.splitlines()) <= MOST_LINES


def test_the_table_of_the_readme_has_the_numbers_of_the_records():
    rows = [re.split(r" *\| *", line)[1:-1] for line in README.splitlines() if re.search(r" T \| \d \|$", line)]
    measured = {row["method"]: row for row in csv.DictReader(TABLE.read_text().splitlines()) if at_equal_cost(row)}
    assert len(rows) == 6
    for method, accuracy, points, *_, n in rows:
        row = measured[re.search(r"\w+", method).group()]
        mean, std = (100 * float(row[key]) for key in ("accuracy", "accuracy_std"))
        assert (accuracy, n) == (f"{mean:.2f} ± {std:.2f}", row["n"])
        if row["points"]:
            assert points == f"{float(row['points']):+.2f} ± {float(row['points_half_width']):.2f}"


def at_equal_cost(row: dict[str, str]) -> bool:
    return row["prune_ratio"] == "0.5" and (row["comparison"] == "equal cost" or row["method"] == "dense")


@pytest.mark.slow
def test_the_example_finds_a_ticket_and_learns_the_digits(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("sklearn")
    runpy.run_path(str(REPOSITORY / "examples" / "foreign_loop.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert float(re.search(r"accuracy ([\d.]+) %", printed).group(1)) > 90
