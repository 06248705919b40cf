"""Periodic neighbour lists, for cells of any shape, mixed periodicity and no cell at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

from rlpath_core.geometry.cached import remembered
from rlpath_core.geometry.cell import full_cell
from rlpath_core.structure import Structure


def neighbours(structure: Structure, quantities: str, cutoff: Any) -> tuple[NDArray[Any], ...]:
    """matscipy's periodic neighbour list, for cells of any shape, mixed periodicity and no cell at all.

    ``cutoff`` is a distance in Å or a radius per atom [n_atoms]: spheres that overlap are neighbours.
    """
    cell = full_cell(structure)
    origin = structure.positions.min(axis=0) - 1.0 if not structure.pbc.any() else np.zeros(3)
    found = neighbour_list(
        quantities, positions=structure.positions, cell=cell, pbc=structure.pbc, cutoff=cutoff, cell_origin=origin
    )
    return found if isinstance(found, tuple) else (found,)


@remembered
def pairs_within(structure: Structure, cutoff: float) -> tuple[NDArray[Any], ...]:
    """``neighbours`` as i, j, distance [n_pairs] and vector [n_pairs, 3], within ``cutoff`` Å."""
    return neighbours(structure, "ijdD", cutoff)
