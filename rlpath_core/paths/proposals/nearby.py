"""Where known structures lie nearest to a minimum, under the symmetry of the atoms that do not move."""

from __future__ import annotations

import numpy as np

from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, wrap_vectors
from rlpath_core.geometry.roles import Roles
from rlpath_core.paths.identity import Copies
from rlpath_core.structure import Structure


@cached_on_object
def copies_of(roles: Roles) -> Copies:
    """The operations of the held atoms, searched for once."""
    return Copies(roles.given, roles.movable)


def images(structure: Structure, roles: Roles) -> Floats:
    """Positions under every symmetry operation of the held atoms: shape (n_operations, n_atoms, 3), Å.

    Atoms keep their numbers, and held atoms their places: only movable ones are turned. Where there is no group to
    search, the structure alone.
    """
    operations = copies_of(roles).operations
    if operations is None:
        return structure.positions[None]
    out = np.broadcast_to(structure.positions, (len(operations), *structure.positions.shape)).copy()
    out[:, roles.movable] = operations.images(structure.positions[roles.movable])
    return out


def distances(minimum: Structure, every: Floats, roles: Roles) -> Floats:
    """How far the active atoms of each of ``every`` (shape (n, n_atoms, 3), Å) are from the minimum's: shape (n,), Å.

    The root of the sum of squares from each atom to the nearest of its kind, in the direction in which that is more.
    No pairing of the atoms gives less.
    """
    active = np.flatnonzero(roles.active)
    kinds = minimum.numbers[active]
    off = wrap_vectors(every[:, None, active] - minimum.positions[active][:, None], minimum)
    square = np.where(kinds[:, None] == kinds, (off**2).sum(axis=-1), np.inf)
    return np.asarray(np.sqrt(np.maximum(square.min(axis=1).sum(axis=1), square.min(axis=2).sum(axis=1))))
