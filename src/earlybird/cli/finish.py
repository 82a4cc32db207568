"""What the command line does when a run has ended: draw its pictures, say what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from earlybird.report.comparison import print_comparison
from earlybird.report.plots import plot_run


def finish_run(record: dict[str, Any], out: str) -> None:
    """Draw the figures, print the table and name the folder."""
    pictures = plot_run(record, out)
    print_comparison([record])
    print(f"{out}: record.json, model.safetensors, {', '.join(Path(picture).name for picture in pictures)}")
