"""Routes against all simple paths, and the rate of a chain against the linear equations of its steady state."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from rlpath_core.errors import InputError
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import Step, steps
from rlpath_core.kinetics.routes import fastest_route, lowest_route
from rlpath_core.structure import Structure

OPTIONS = KineticsOptions(temperatures=[300, 900])


def made(seed: int, n: int = 7, m: int = 12) -> ReactionNetwork:
    """A random network with two frequencies per minimum and random degeneracies that fit together."""
    rng = np.random.default_rng(seed)
    atom = Structure([1, 1], np.zeros((2, 3)) + [[0], [1]], fixed=[True, False])
    copies = rng.choice([1, 2, 4], n)
    minima = [Minimum(f"B{k:03d}", atom, -9 + rng.uniform(0, 0.4), rng.uniform(100, 900, 3)) for k in range(n)]
    saddles = []
    for k in range(m):
        a, b = rng.choice(n, 2, replace=False)
        per = int(np.lcm(copies[a], copies[b])) * int(rng.integers(1, 3))
        frequencies = np.array([-200.0, *rng.uniform(100, 900, 2)])
        saddles.append(
            Saddle(
                f"TS{k:03d}", atom, -9 + rng.uniform(0.5, 1.5), np.ones((2, 3)), minima[a].name, minima[b].name,
                frequencies, per // int(copies[a]), per // int(copies[b]),
            )
        )  # fmt: skip
    return ReactionNetwork(tuple(minima), tuple(saddles))


@pytest.mark.parametrize("seed", range(4))
def test_the_lowest_route_has_the_lowest_highest_saddle_of_all(seed: int) -> None:
    network = made(seed)
    every = nx.MultiGraph()
    every.add_nodes_from(minimum.name for minimum in network.minima)
    for saddle in network.saddles:
        every.add_edge(saddle.start, saddle.end, key=saddle.name, energy=saddle.energy)
    for end in ("B001", "B004", "B006"):
        route = lowest_route(network, "B000", end)
        tops = [
            max(every.edges[edge]["energy"] for edge in path) for path in nx.all_simple_edge_paths(every, "B000", end)
        ]
        assert (route is None) == (not tops)
        if route is not None:
            assert route.minima[0] == "B000"
            assert route.minima[-1] == end
            assert route.highest == pytest.approx(min(tops) - network.minimum("B000").energy)
            for pair, name in zip(pairwise(route.minima), route.saddles, strict=True):
                saddle = next(saddle for saddle in network.saddles if saddle.name == name)
                assert {saddle.start, saddle.end} == set(pair)


def flow(route_minima: tuple[str, ...], route_saddles: tuple[str, ...], found: dict[str, Step], t: int) -> float:
    """Steady flow through a chain: the first minimum is held at 1, the last at 0, all others stay as they are."""
    k = []
    for pair, name in zip(pairwise(route_minima), route_saddles, strict=True):
        rates = found[name].rates[t]  # type: ignore[index]
        k.append(rates if found[name].start == pair[0] else rates[::-1])
    n = len(k) - 1
    if n == 0:
        return k[0][0]
    matrix, right = np.zeros((n, n)), np.zeros(n)
    for i in range(n):
        matrix[i, i] = k[i][1] + k[i + 1][0]
        if i:
            matrix[i, i - 1] = -k[i][0]
        else:
            right[i] = k[i][0]
        if i + 1 < n:
            matrix[i, i + 1] = -k[i + 1][1]
    occupied = np.linalg.solve(matrix, right)
    return k[-1][0] * occupied[-1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("t", [0, 1])
def test_the_fastest_route_has_the_largest_steady_flow_of_all(seed: int, t: int) -> None:
    network = made(seed)
    rated = steps(network, OPTIONS)
    found = {step.name: step for step in rated}
    every = nx.MultiGraph()
    every.add_nodes_from(minimum.name for minimum in network.minima)
    every.add_edges_from((step.start, step.end, step.name) for step in rated)
    for end in ("B001", "B004", "B006"):
        route = fastest_route(network, rated, OPTIONS, "B000", end, OPTIONS.temperatures[t])
        flows = [
            flow(("B000", *(_walk(path))), tuple(key for *_, key in path), found, t)
            for path in nx.all_simple_edge_paths(every, "B000", end)
        ]
        assert (route is None) == (not flows)
        if route is not None:
            assert route.rate == pytest.approx(max(flows), rel=1e-6)


def _walk(path: list[tuple[str, str, str]]) -> list[str]:
    """Minima after the first along a path of edges."""
    at, out = "B000", []
    for a, b, _ in path:
        at = b if a == at else a
        out.append(at)
    return out


def test_names_and_temperatures_that_are_not_there_are_one_line() -> None:
    network = made(0)
    rated = steps(network, OPTIONS)
    with pytest.raises(InputError, match=r"no minimum 'B00'\. Did you mean 'B00"):
        lowest_route(network, "B00", "B001")
    with pytest.raises(InputError, match="temperature: there are no rates at 400 K, only at 300, 900 K"):
        fastest_route(network, rated, OPTIONS, "B000", "B001", 400)
    bare = dataclasses.replace(network, saddles=())
    assert lowest_route(bare, "B000", "B001") is None
    assert fastest_route(bare, [], OPTIONS, "B000", "B001", 300) is None
    alone = lowest_route(bare, "B000", "B000")
    assert alone is not None
    assert (alone.minima, alone.saddles, alone.highest) == (("B000",), (), 0)
