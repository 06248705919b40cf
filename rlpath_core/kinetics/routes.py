"""Ways from one minimum to another: over the lowest passes, and the fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.kinetics.balance import occupations
from rlpath_core.kinetics.modes import KB, H
from rlpath_core.kinetics.network import ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import Step

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Route:
    """A way through the network.

    Attributes
    ----------
    minima
        [n + 1] names, in the order in which they are passed.
    saddles
        [n] names of the saddles between them.
    highest
        Energy of the highest saddle above the first minimum, eV.
    rate, temperature
        1/s and K, of `fastest_route`; None otherwise.
    """

    minima: tuple[str, ...]
    saddles: tuple[str, ...]
    highest: float
    rate: float | None = None
    temperature: float | None = None


def lowest_route(network: ReactionNetwork, start: str, end: str) -> Route | None:
    """The way whose highest saddle is the lowest of all ways; so it is for every part of the way.

    It is the path in the minimum spanning tree of the saddles' energies (Hu, Oper. Res. 9, 898 (1961),
    doi:10.1287/opre.9.6.898).

    Returns
    -------
    Route or None
        None if no steps lead from ``start`` to ``end``.

    Raises
    ------
    InputError
        The network has no minimum of that name.
    """
    return _route(network, minimax_tree(network), start, end, weight=None)


def minimax_tree(network: ReactionNetwork) -> nx.Graph:
    """The minimum spanning forest of the saddles' energies; its edges name their ``saddle``."""
    import networkx as nx

    joined = _empty(network)
    for saddle in network.saddles:
        _keep_less(joined, saddle, saddle.energy)
    return nx.minimum_spanning_tree(joined)


def fastest_route(
    network: ReactionNetwork,
    steps: Sequence[Step],
    options: KineticsOptions,
    start: str,
    end: str,
    temperature: float,
) -> Route | None:
    """The way with the largest flow at ``temperature``, if each were the only one.

    With the minima before the end in equilibrium, the flow from one copy of the start through a chain of steps is that
    of a current through resistors in a row: 1/k is the sum over the steps of 1 / (k_i K_i), where K_i is the occupation
    of the minimum that the step leads from over that of the start. Steps without rates are left out.

    Parameters
    ----------
    network
    steps, options
        What `rlpath_core.kinetics.rates.steps` says of the network with these options.
    start, end
        Names of minima.
    temperature
        K, one of those of ``options``.

    Returns
    -------
    Route or None
        None if no steps with rates lead from ``start`` to ``end``.

    Raises
    ------
    InputError
        The network has no minimum of that name, or there are no rates at ``temperature``.
    """
    if temperature not in options.temperatures:
        known = ", ".join(f"{t:g}" for t in options.temperatures)
        raise InputError(f"there are no rates at {temperature:g} K, only at {known} K", key="temperature")
    _check(network, start, end)
    occupied = occupations(network, steps, options, temperature)
    joined = _empty(network)
    for saddle, step in zip(network.saddles, steps, strict=True):
        if step.free_energies is not None and start in occupied:
            there = step.free_energies[step.temperatures.index(temperature)][0]
            relative = occupied[saddle.start] - occupied[start] - there / (KB * temperature)
            _keep_less(joined, saddle, H / (KB * temperature * saddle.degeneracy) * float(np.exp(-relative)))
    route = _route(network, joined, start, end, weight="weight")
    if route is None or not route.saddles:
        return route
    ways = pairwise(route.minima)
    return replace(route, rate=1 / sum(joined.edges[a, b]["weight"] for a, b in ways), temperature=temperature)


def _empty(network: ReactionNetwork) -> nx.Graph:
    import networkx as nx

    joined = nx.Graph()
    joined.add_nodes_from(minimum.name for minimum in network.minima)
    return joined


def _keep_less(joined: nx.Graph, saddle: Saddle, weight: float) -> None:
    """Join the ends of a saddle, unless something of less weight joins them; never an end with itself."""
    if saddle.start == saddle.end:
        return
    there = joined.get_edge_data(saddle.start, saddle.end)
    if there is None or weight < there["weight"]:
        joined.add_edge(saddle.start, saddle.end, weight=weight, saddle=saddle.name)


def _check(network: ReactionNetwork, *names: str) -> None:
    for name in names:
        network.minimum(name)


def _route(network: ReactionNetwork, joined: nx.Graph, start: str, end: str, weight: str | None) -> Route | None:
    """The shortest way through what is joined; without ``weight`` that of the fewest steps."""
    import networkx as nx

    _check(network, start, end)
    try:
        minima = nx.shortest_path(joined, start, end, weight=weight)
    except nx.NetworkXNoPath:
        return None
    saddles = [joined.edges[a, b]["saddle"] for a, b in pairwise(minima)]
    energies = {saddle.name: saddle.energy for saddle in network.saddles}
    top = max((energies[name] for name in saddles), default=network.minimum(start).energy)
    return Route(tuple(minima), tuple(saddles), top - network.minimum(start).energy)
