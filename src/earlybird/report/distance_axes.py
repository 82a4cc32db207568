"""The axes of the mask-distance figure: distances, epsilon, the window that fired, the cut, share of the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earlybird.report.canvas import CUT, HALO, INK, MUTED, cut_line, percent


def distance_axes(axes: Axes, ticket: Mapping[str, Any], total_epochs: float) -> None:
    """Draw a ticket's distances, in [0, 1], over completed epochs.

    Args:
        axes: empty.
        ticket: the `ticket` of a record, found or searched for in vain.
        total_epochs: epochs of the whole schedule; 0 where unknown, which leaves the upper axis out.
    """
    epochs, distances = ticket["distance_epochs"], ticket["distances"]
    cut = None if ticket.get("none") else float(ticket["epoch"])
    axes.plot(epochs, distances, color=MUTED, linewidth=1.4, marker="o", markersize=4.5 if len(epochs) <= 60 else 2.5)
    axes.set_xlim(0, max(epochs[-1], cut or 0.0) * 1.06)
    axes.set_ylim(0, max(*distances, ticket.get("epsilon") or 0.0) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("completed epochs")
    axes.set_ylabel("mask distance  (0 = same mask)")
    _draw_epsilon(axes, ticket)
    if cut is None:
        _draw_note(axes, axes.get_xlim()[1], "no ticket: the mask never held still\nfor as long as the rule asks")
    else:
        cut_line(axes, cut)
        _draw_note(axes, cut, "\n".join(_cut_words(ticket, total_epochs, _draw_window(axes, ticket))))
    _share_of_schedule(axes, total_epochs)


def _reads_distances(ticket: Mapping[str, Any]) -> bool:
    """Whether the ticket's rule compares distances with epsilon; `epi` compares kept counts and has no line here."""
    return ticket.get("rule") != "epi" and ticket.get("epsilon") is not None


def _draw_epsilon(axes: Axes, ticket: Mapping[str, Any]) -> None:
    if not _reads_distances(ticket):
        return
    epsilon, ratio = ticket["epsilon"], ticket.get("prune_ratio") or 0.0
    axes.axhline(epsilon, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
    chance = 2 * ratio * (1 - ratio)  # the distance of two independent masks of this ratio
    against = f"  ({percent(epsilon / chance)} of chance)" if chance else ""
    axes.annotate(
        f"ε = {epsilon:g}{against}",
        xy=(0, epsilon),
        xycoords=axes.get_yaxis_transform(),
        xytext=(6, 5),
        textcoords="offset points",
        fontsize=9,
        bbox=HALO,
        zorder=4,
    )


def _draw_window(axes: Axes, ticket: Mapping[str, Any]) -> int:
    """Ring the consecutive distances that fired the rule; returns how many."""
    if not _reads_distances(ticket):
        return 0
    drawn = [place for place, epoch in enumerate(ticket["distance_epochs"]) if epoch <= ticket["epoch"] + 1e-9]
    window = int(ticket.get("window") or 0)
    # `window` counts distances in the paper's rule and masks in that of the authors' code.
    count = {"paper": window, "authors_code": max(window - 1, 0)}.get(str(ticket.get("rule")), 0)
    fired = drawn[-count:] if count else []
    axes.plot(
        [ticket["distance_epochs"][place] for place in fired],
        [ticket["distances"][place] for place in fired],
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="white",
        markeredgecolor=CUT,
        markeredgewidth=1.8,
        zorder=5,
        clip_on=False,
    )
    return len(fired)


def _cut_words(ticket: Mapping[str, Any], total_epochs: float, fired: int) -> list[str]:
    words = [f"ticket drawn after {ticket['epoch']:.4g} epochs"]
    if total_epochs:
        words.append(f"{percent(ticket['fraction_of_schedule'])} of the {total_epochs:g}-epoch schedule")
    if fired:
        words.append(f"○ the {fired} distances that fired the rule")
    return words


def _draw_note(axes: Axes, epoch: float, words: str) -> None:
    """Red words beside the line at that epoch, on the side that has more room."""
    is_left = epoch > 0.5 * axes.get_xlim()[1]
    axes.annotate(
        words,
        xy=(epoch, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-9 if is_left else 9, -5),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="top",
        fontsize=9.5,
        fontweight="bold",
        linespacing=1.4,
        color=CUT,
        bbox=HALO,
        zorder=4,
    )


def _share_of_schedule(axes: Axes, total_epochs: float) -> None:
    """A second axis on top, in percent of the schedule: how early is the point of the figure."""
    if not total_epochs:
        return
    to_percent, to_epochs = _times(100 / total_epochs), _times(total_epochs / 100)
    top = axes.secondary_xaxis("top", functions=(to_percent, to_epochs))
    top.set_xlabel("share of the schedule", fontsize=9, color=MUTED)
    top.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    top.tick_params(labelsize=8.5)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor
