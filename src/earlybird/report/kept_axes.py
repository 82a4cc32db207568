"""The axes of the kept-channels figure: per layer one light bar (dense), one dark bar (kept) and the share kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from earlybird.report.canvas import DENSE_LIGHT, INK, MUTED, SLIM


def kept_axes(axes: Axes, layers: Sequence[Mapping[str, Any]], rows: int, widest: int) -> None:
    """Draw these layers from the top down.

    Args:
        axes: empty; loses its ticks and frame, since every bar is labelled.
        layers: the layers of this column, in network order.
        rows: layers in a full column, so that bars are equally thick in all columns.
        widest: channels of the widest layer of the network, so that bars compare across columns.
    """
    places = list(range(len(layers)))
    size = 9 if rows <= 24 else 7.5
    axes.hlines(places, 0, 1, transform=axes.get_yaxis_transform(), color="#EEF0F3", linewidth=0.8, zorder=0)
    axes.barh(places, [layer["dense"] for layer in layers], height=0.72, color=DENSE_LIGHT, label="dense network")
    axes.barh(places, [layer["kept"] for layer in layers], height=0.72, color=SLIM, label="kept")
    for place, layer in enumerate(layers):
        _label_layer(axes, place, layer, size)
    axes.set_yticks(places, [layer["name"] for layer in layers], fontsize=size, color=INK)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, widest * 1.30)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _label_layer(axes: Axes, place: int, layer: Mapping[str, Any], size: float) -> None:
    """The share kept at the end of the bar, the counts at the right edge of the axes."""
    box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none"}  # interrupts the row's line
    at_bar: dict[str, Any] = {
        "xytext": (4, 0),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": size,
        "bbox": box,
    }
    axes.annotate(_whole_percent(layer), xy=(layer["dense"], place), color=INK, **at_bar)
    counts, edge = f"{layer['kept']} / {layer['dense']}", axes.get_yaxis_transform()
    axes.text(1, place, counts, transform=edge, ha="right", va="center", fontsize=size, color=MUTED, bbox=box)


def _whole_percent(layer: Mapping[str, Any]) -> str:
    """Whole percent kept; 100 % is said only of a layer that lost nothing."""
    whole = int(100 * layer["kept"] / layer["dense"] + 0.5)
    return f"{min(whole, 99) if layer['kept'] < layer['dense'] else whole} %"
