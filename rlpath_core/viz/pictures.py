"""What the figures of networks share: how they look, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpath_core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET = "#1f2430", "#6b7280"
DASHED, DOTTED = (0, (4.5, 2.0)), (0, (1.0, 1.6))
STATES: dict[str, tuple[str, Any]] = {
    "reference_confirmed": ("#15803d", "-"),
    "rate_ready": ("#1d4ed8", "-"),
    "connected": ("#1d4ed8", DASHED),
    "first_order": ("#8b93a1", DASHED),
    "converged": ("#8b93a1", DOTTED),
    "guess": ("#8b93a1", DOTTED),
}
"""Colour and line style of a saddle by its state of verification."""


def of_state(state: str) -> tuple[str, Any]:
    """Colour and line style."""
    return STATES.get(str(state), STATES["guess"])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, apart from pyplot's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def states_legend(figure: Figure, states: Iterable[str], y: float) -> None:
    """What the lines mean, in one row about ``y`` (a share of the figure): only states that occur."""
    from matplotlib.lines import Line2D

    there = {str(state) for state in states}
    handles = [
        Line2D([], [], color=colour, ls=style, lw=1.8, label=state.replace("_", " "))
        for state, (colour, style) in STATES.items()
        if state in there
    ]
    if handles:
        figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.5, y), ncols=len(handles), frameon=False,
                      fontsize=8, handlelength=2.6, borderpad=0)  # fmt: skip


def save(figure: Figure, path: Path) -> list[Path]:
    """``path`` with the suffixes .png and .svg, whole or not at all; the same figure gives the same bytes."""
    from matplotlib import rc_context

    written = []
    metadata: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    for kind in metadata:
        target = path.with_suffix(f".{kind}")
        with rc_context({"svg.hashsalt": "rlpath"}), atomic_write(target, "wb") as stream:
            figure.savefig(stream, format=kind, dpi=150, metadata=metadata[kind])
        written.append(target)
    return written
