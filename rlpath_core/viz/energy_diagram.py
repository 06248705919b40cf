"""Energies along ways through a network: minimum, saddle, minimum, with the barriers both ways."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rlpath_core.kinetics.network import ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import steps
from rlpath_core.kinetics.routes import Route, fastest_route, lowest_route
from rlpath_core.viz.pictures import INK, QUIET, new_figure, of_state, states_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_LEVEL = 1.15
"""Inches across the page for each minimum and each saddle."""
PANEL = 3.0
"""Inches, height of one way."""
FLAT = 0.3
"""Half the width of a level; levels are 1 apart."""
MOST = 3
"""Ways from the lowest minimum that are drawn if no ends are named."""


def important_routes(
    network: ReactionNetwork, options: KineticsOptions, start: str | None = None, end: str | None = None
) -> list[Route]:
    """The ways to draw.

    With both ends, the one over the lowest passes, and the fastest at the first temperature if that is another. Without
    an end, the ways over the lowest passes from ``start`` (the lowest minimum, if it is None) to other minima: those
    with the lowest highest saddle first, without the ways that are part of another, three at most. Where there are
    fewer, the lowest step to a copy of ``start`` itself is one.

    Raises
    ------
    InputError
        The network has no minimum of that name.
    """
    if not network.minima:
        return []
    first = min(network.minima, key=lambda minimum: minimum.energy).name if start is None else start
    if end is not None and end != first:
        lowest = lowest_route(network, first, end)
        fastest = fastest_route(network, steps(network, options), options, first, end, options.temperatures[0])
        same = lowest is not None and fastest is not None and lowest.saddles == fastest.saddles
        return [route for route in ([fastest] if same else [lowest, fastest]) if route is not None]
    others = [minimum.name for minimum in network.minima if minimum.name != first and end is None]
    found = [route for name in others if (route := lowest_route(network, first, name)) is not None]
    whole = [a for a in found if not any(a is not b and b.minima[: len(a.minima)] == a.minima for b in found)]
    hops = [saddle for saddle in network.saddles if saddle.start == saddle.end == first]
    hops = sorted(hops, key=lambda saddle: (saddle.energy, saddle.name))[:1]
    there = network.minimum(first).energy
    whole.sort(key=lambda route: (route.highest, route.minima))
    return [*whole, *(Route((first, first), (hop.name,), hop.energy - there) for hop in hops)][:MOST]


def diagram_figure(network: ReactionNetwork, routes: Sequence[Route], title: str | None = None) -> Figure:
    """Draw the energies along each of the ways in a panel of its own, in eV above the lowest minimum of the network.

    To the left of a saddle stands its barrier in the direction of the way, to the right the barrier back.
    """
    longest = max((len(route.minima) + len(route.saddles) for route in routes), default=3)
    width = max(longest * PER_LEVEL + 1.0, 6.0)
    head, foot = 0.5, 0.45
    total = head + foot + PANEL * max(len(routes), 1)
    figure = new_figure(width, total)
    shown: list[Saddle] = []
    saddles = {saddle.name: saddle for saddle in network.saddles}
    for k, route in enumerate(routes):
        bottom = (foot + PANEL * (len(routes) - 1 - k) + 0.15) / total
        axis = figure.add_axes((0.75 / width, bottom, 1 - 0.95 / width, (PANEL - 0.5) / total))
        _panel(axis, network, route, longest)
        shown += [saddles[name] for name in route.saddles]
    said = "Energy diagram, eV above the lowest minimum" if title is None else title
    if not routes:
        said = "No steps lead from one minimum to another"
    figure.text(0.5, 1 - 0.24 / total, said, ha="center", va="center", fontsize=11, color=INK, weight="bold")
    states_legend(figure, [saddle.state for saddle in shown], 0.2 / total)
    return figure


def _panel(axis: Axes, network: ReactionNetwork, route: Route, longest: int) -> None:
    zero = min(minimum.energy for minimum in network.minima)
    saddles = {saddle.name: saddle for saddle in network.saddles}
    names = [route.minima[0]]
    for saddle, minimum in zip(route.saddles, route.minima[1:], strict=True):
        names += [saddle, minimum]
    heights = [(saddles[n] if n in saddles else network.minimum(n)).energy - zero for n in names]
    span = max(max(heights) - min(heights), 0.05)
    for x, (left, right) in enumerate(pairwise(zip(names, heights, strict=True))):
        colour, style = of_state(saddles[left[0] if left[0] in saddles else right[0]].state)
        along = np.linspace(0, 1, 40)
        smooth = along**2 * (3 - 2 * along)
        axis.plot(x + FLAT + along * (1 - 2 * FLAT), left[1] + (right[1] - left[1]) * smooth, color=colour, ls=style,
                  lw=1.4, zorder=2)  # fmt: skip
        top, said, side = (right[1], "\u2197 {:.2f}", 1) if right[0] in saddles else (left[1], "{:.2f} \u2196", 0)
        axis.annotate(said.format(abs(right[1] - left[1])), (x + (1 - FLAT if side else FLAT), top),
                      xytext=(-4 if side else 4, 2), textcoords="offset points", ha="right" if side else "left",
                      va="bottom", fontsize=8, color=colour, zorder=4)  # fmt: skip
    for x, (name, height) in enumerate(zip(names, heights, strict=True)):
        top = name in saddles
        colour = of_state(saddles[name].state)[0] if top else INK
        axis.plot([x - FLAT, x + FLAT], [height, height], color=colour, lw=3, solid_capstyle="butt", zorder=3)
        label = f"{name}\n{height:.2f}"
        axis.annotate(label, (x, height), xytext=(0, 5 if top else -5), textcoords="offset points", ha="center",
                      va="bottom" if top else "top", fontsize=8.5, color=colour, weight="bold" if top else "normal",
                      linespacing=1.1, zorder=4)  # fmt: skip
    axis.set_xlim(-0.6, longest - 0.4)
    axis.set_ylim(min(heights) - 0.28 * span, max(heights) + 0.26 * span)
    axis.set_xticks([])
    axis.set_yticks([tick for tick in axis.get_yticks() if min(heights) - 1e-9 <= tick <= axis.get_ylim()[1]])
    axis.set_ylabel("eV", fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=QUIET)
    axis.grid(axis="y", color="#e8ebf0", lw=0.7)
    axis.set_axisbelow(True)
    for border in ("top", "right", "bottom"):
        axis.spines[border].set_visible(False)
    axis.spines["left"].set_color("#c4c9d2")
    rate = "" if route.rate is None else f", {route.rate:.2g} 1/s at {route.temperature:g} K"
    ends = f"{route.minima[0]} to {'its copy' if route.minima[0] == route.minima[-1] else route.minima[-1]}"
    axis.set_title(f"{ends}: highest pass {route.highest:.2f} eV{rate}", fontsize=9, color=INK, loc="left", pad=6)
