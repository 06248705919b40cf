"""Hard limits inside a saddle search: where one is broken, the search has no hope or the model is out of its range."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.bonds import sum_radii
from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.environment import LocalEnvironment
from rlpath_core.geometry.roles import Roles
from rlpath_core.paths.options import LimitsOptions
from rlpath_core.paths.searches.base import SearchEnded
from rlpath_core.sampling.options import DetachedOptions
from rlpath_core.sampling.validators import Detached, Displacement
from rlpath_core.structure import Structure

NEARER = 0.8
"""Two atoms that were too near in the start may come this much nearer, as a fraction of their distance there."""


class Watch:
    """Ends a search that breaks a hard limit. It is called with every structure that the search moves to.

    Parameters
    ----------
    roles : Roles
    start : Structure
        Where the search begins: atoms that are too near there may stay so. Held atoms may always.
    start_energy : float
        eV: what the limits of the energy are measured from.
    options : LimitsOptions
    """

    def __init__(self, roles: Roles, start: Structure, start_energy: float, options: LimitsOptions) -> None:
        self.roles, self.start, self.start_energy, self.options = roles, start, start_energy, options
        self.detached = (
            None if options.max_distance is None else Detached(DetachedOptions(max_distance=options.max_distance))
        )
        self.environment: LocalEnvironment | None = None
        self.near: dict[tuple[int, int], float] = {}
        if options.min_factor is not None:
            reach = 2 * options.min_factor * float(covalent_radii[start.numbers].max())
            self.environment = LocalEnvironment(start, roles.movable, reach)
            for i, j, d, _ in zip(*self._near(start), strict=True):
                pair = int(i), int(j)
                self.near[pair] = min(float(d) * NEARER, self.near.get(pair, np.inf))

    def __call__(self, structure: Structure, prediction: Prediction) -> None:
        """Look at one structure and the model's prediction of it.

        Parameters
        ----------
        structure : Structure
            The atoms of the start.
        prediction : Prediction

        Raises
        ------
        SearchEnded
            ``energy:too_high`` or ``energy:too_low`` with the difference from the start (eV), ``min_dist:too_near``
            with a distance, or ``detached:off_surface`` with the distance of a fragment from the surface (Å).
        """
        rise, options = prediction.energy - self.start_energy, self.options
        if options.max_energy is not None and rise > options.max_energy:
            raise SearchEnded("energy:too_high", rise, options.max_energy)
        if options.max_drop is not None and -rise > options.max_drop:
            raise SearchEnded("energy:too_low", -rise, options.max_drop)
        if self.environment is not None:
            for i, j, d, limit in zip(*self._near(structure), strict=True):
                allowed = min(float(limit), self.near.get((int(i), int(j)), np.inf))
                if d < allowed:
                    raise SearchEnded("min_dist:too_near", float(d), allowed)
        if self.detached is not None:
            rejection = self.detached.check(Displacement(self.start, structure, self.roles, "search", prediction))
            if rejection is not None:
                raise SearchEnded(rejection.reason, rejection.figure, rejection.limit)

    def _near(self, structure: Structure) -> tuple[Floats, ...]:
        """Pairs of a movable and another atom that are too near: atoms i and j, distance and limit (Å)."""
        assert self.environment is not None
        assert self.options.min_factor is not None
        centre, j, d = self.environment.pairs(structure)
        i = self.environment.rows[centre]
        limit = self.options.min_factor * sum_radii(structure, i, j)
        keep = d < limit
        return i[keep], j[keep], d[keep], limit[keep]
