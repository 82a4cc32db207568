"""Style and file output of all figures: the same record gives the same bytes, anywhere.

Grey is the dense network, blue the slim one, red the moment of the cut, in every figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DENSE_INK = "#7B8794"
DENSE_LIGHT = "#DDE1E6"
SLIM = "#1F6FB2"
CUT = "#C8102E"
INK = "#1F2933"
MUTED = "#66707C"

HALO = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
"""Box behind a label, so that lines under it do not cross its letters."""

LOOK = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same outlines on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#B4BBC4",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E8EBEF",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "earlybird",  # element ids are drawn at random without it
}


@contextmanager
def figure_file(path: str | Path, *, inches: tuple[float, float]) -> Iterator[Figure]:
    """Hand out a new figure of that size and write it at the end; the suffix of the path names the format.

    The global state of matplotlib is left as found: no pyplot, and the look holds inside this context only.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(LOOK, after_reset=True):
        figure = Figure(figsize=inches)
        FigureCanvasAgg(figure)
        yield figure
        # A date would make every rewrite of an unchanged run a change.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, metadata=metadata)


def title(figure: Figure, heading: str, caption: str, *, x: float = 0.02) -> None:
    """Draw a bold heading and a muted caption at the top left, in the top 0.62 inches of the figure."""
    height = figure.get_figheight()
    figure.text(x, 1 - 0.14 / height, heading, ha="left", va="top", fontsize=13, fontweight="bold")
    figure.text(x, 1 - 0.42 / height, caption, ha="left", va="top", fontsize=9.5, color=MUTED)
