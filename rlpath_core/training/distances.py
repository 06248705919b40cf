"""Atoms that lie in one place: a network has no finite force there, and no reference method an energy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlpath_core.data.batches import Graph
from rlpath_core.data.neighbour_cache import CachedGraphs
from rlpath_core.errors import InputError
from rlpath_core.geometry.neighbours import SAME_PLACE, closest_pair
from rlpath_core.structure import Structure

if TYPE_CHECKING:
    from rlpath_core.training.dataset import Origin, TrainingSet

log = logging.getLogger("rlpath.training")
ONE_PLACE = 0.01
"""Å: atoms closer than this are refused, closer than ``SAME_PLACE`` reported."""


def edge_lengths(graph: Graph) -> NDArray[np.float64]:
    """[n_edges], Å"""
    sender, receiver = graph.edges
    vectors = graph.positions[receiver] - graph.positions[sender] + graph.shifts
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


def closest(graphs: Sequence[Graph]) -> NDArray[np.float64]:
    """[n_structures], Å: the shortest distance in each structure; infinity where no atom has a neighbour."""
    if isinstance(graphs, CachedGraphs):
        return graphs.closest
    return np.array([edge_lengths(graph).min(initial=np.inf) for graph in graphs])


def words(atoms: Sequence[int], length: float) -> str:
    """Two atoms and their distance."""
    a, b = sorted(atoms)
    return f"atoms {a} and {b} are {length:.2g} Å apart"


def closest_atoms(graph: Graph) -> str:
    """Which atoms lie closest, and how close."""
    lengths = edge_lengths(graph)
    n = int(lengths.argmin())
    return words(graph.edges[:, n].tolist(), lengths[n])


def check_structures(structures: Iterable[Structure], origin: Origin) -> None:
    """The same as `check_distances` of structures without graphs, in one pass."""
    near: list[tuple[float, str]] = []
    for n, structure in enumerate(structures):
        closest_two = closest_pair(structure)
        if closest_two is None:
            continue
        *atoms, length = closest_two
        pair = words(atoms, length)
        entry = f"{origin.key}, entry {origin.entries[n]}"
        if length < ONE_PLACE:
            raise InputError(f"{pair}: mend the structure, or leave it out of the set", origin.path, entry)
        near.append((length, f"{entry} {pair}"))
    if near:
        _report(origin.path, len(near), min(near)[1])


def _report(where: Path | str, n: int, closest_one: str) -> None:
    plural = "" if n == 1 else "s"
    log.warning("%s: %d structure%s with atoms closer than %g Å; in %s", where, n, plural, SAME_PLACE, closest_one)


def check_distances(data: TrainingSet) -> None:
    """InputError naming the first structure with two atoms in one place; one line of the log about close ones."""
    distances = closest(data.graphs)
    if (wrong := np.flatnonzero(distances < ONE_PLACE)).size:
        more = f", and {wrong.size - 1} more like it" if wrong.size > 1 else ""
        where, entry = data.origin(int(wrong[0]))
        raise InputError(
            f"{closest_atoms(data.graphs[int(wrong[0])])}{more}: mend the structure, or leave it out of the set",
            where,
            entry,
        )
    if (near := np.flatnonzero(distances < SAME_PLACE)).size:
        first = int(distances.argmin())
        where, entry = data.origin(first)
        _report(where, near.size, f"{entry} {closest_atoms(data.graphs[first])}")
