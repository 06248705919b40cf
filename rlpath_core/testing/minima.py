"""Which minima are one? A judge for benchmarks that shares nothing with ``sampling.basins``: tight, and slow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.geometry import get_distances
from numpy.typing import NDArray

from rlpath_core.backends.base import Model
from rlpath_core.geometry.cell import closed_cell
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub, Script
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.relax import Quenched, quench
from rlpath_core.structure import Structure

SAME_ENERGY = 0.01
"""eV"""
SAME_DISTANCE = 0.1
"""Å"""
WALKERS = 64


def relaxed(model: Model, structures: Sequence[Structure], options: QuenchOptions) -> list[Quenched]:
    """Every structure relaxed, many in one batch; in their order."""
    found: dict[int, Quenched] = {}

    def script(k: int) -> Script:
        def relax(evaluate: Evaluator) -> None:
            movable = infer_roles(structures[k]).movable
            found[k] = quench(structures[k], movable, evaluate(structures[k]), evaluate, options)

        return relax

    for first in range(0, len(structures), WALKERS):
        Hub(model).run([script(k) for k in range(first, min(first + WALKERS, len(structures)))])
    return [found[k] for k in range(len(structures))]


def signature(structure: Structure) -> NDArray[np.float64]:
    """Distances from movable atoms to all others, nearest images, sorted within each pair of elements, Å."""
    movable = np.flatnonzero(infer_roles(structure).movable)
    d = get_distances(structure.positions[movable], structure.positions, closed_cell(structure), structure.pbc)[1]
    z = structure.numbers
    pairs = [(a, b) for a in np.unique(z[movable]) for b in np.unique(z)]
    return np.concatenate([np.sort(d[np.ix_(z[movable] == a, z == b)], axis=None) for a, b in pairs])


def classes(minima: Sequence[Quenched]) -> list[int]:
    """A number per minimum: equal for those whose energies and signatures agree with the first of their kind."""
    kept: list[tuple[float, NDArray[np.float64]]] = []
    out = []
    for one in minima:
        mine = signature(one.structure)
        for number, (energy, theirs) in enumerate(kept):
            if abs(energy - one.energy) < SAME_ENERGY and np.abs(theirs - mine).max() < SAME_DISTANCE:
                out.append(number)
                break
        else:
            out.append(len(kept))
            kept.append((one.energy, mine))
    return out
