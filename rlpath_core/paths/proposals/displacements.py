"""``displacements``: a random displacement around one atom, or of one molecule.

Which saddle a search finds is decided by where it begins: the law of the first displacement matters more than the
method of the search. So there are several laws, and those that find new saddles per force call are drawn more often,
as are the atoms around which they were found. Atoms with few neighbours are the first choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import atomic_masses

from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.fragments import fragments, unwrap
from rlpath_core.geometry.neighbours import pairs_within
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.rotations import random_direction, rotation_matrix
from rlpath_core.paths.options import DisplacementOptions
from rlpath_core.paths.proposals.base import PROPOSALS, Landscape, Proposal, crowded, unit
from rlpath_core.paths.proposals.learning import PRIOR_CALLS, Yields
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure

AROUND = 0.05
"""Å: how much the neighbours of an atom or a molecule that is moved shake."""
DRAWS = 20
"""Displacements that press atoms together are drawn again this often."""


@PROPOSALS.register("displacements")
class Displacements(Proposal):
    """See the module's text."""

    Options = DisplacementOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.laws = Yields()
        self.places: dict[int, list[float]] = {}
        """What was found around each atom, and the calls that it took."""

    def applies(self, landscape: Landscape) -> bool:
        return bool(landscape.minima) and bool(landscape.roles.movable.any())

    def propose(self, landscape: Landscape, rng: np.random.Generator) -> Guess | None:
        minimum = landscape.choose(rng)
        if minimum is None:
            return None
        before, roles = minimum.structure, landscape.roles
        centre = self._centre(before, roles, rng)
        piece = next((one for one in fragments(before, roles.adsorbate) if centre in one), np.array([centre]))
        law = self.laws.draw(self._laws(before, roles, piece), rng)
        for _ in range(DRAWS):
            moved = self._moved(before, roles, centre, piece, law, rng)
            structure = before.moved(before.positions + moved)
            if not crowded(structure, before):
                break
        else:
            return None
        parameters = {"law": law, "atom": int(centre)}
        return Guess(structure, unit(moved), start=minimum.name, proposal=self.name, parameters=parameters)

    def _laws(self, structure: Structure, roles: Roles, piece: np.ndarray) -> list[str]:
        """The laws that mean something for this atom: ``kind size``."""
        options = self.options
        laws = [f"shake {size:g}" for size in options.sigmas] + [f"step {size:g}" for size in options.steps]
        adsorbed = roles.normal is not None and bool(roles.adsorbate[piece].all()) and len(piece) < len(structure)
        if adsorbed and not unwrap(structure, piece, bonds(structure)).endless:
            laws += [f"shift {size:g}" for size in options.shifts]
            laws += [f"turn {size:g}" for size in options.turns if len(piece) > 1]
        return laws

    def _centre(self, structure: Structure, roles: Roles, rng: np.random.Generator) -> int:
        """An active atom: by what was found around it, and by how few neighbours it has."""
        atoms = np.flatnonzero(roles.active)
        near = np.bincount(bonds(structure).i, minlength=len(structure))[atoms]
        seen = np.array([self.places.get(int(atom), (0.0, 0.0)) for atom in atoms])
        weight = (1 + seen[:, 0]) / (1 + seen[:, 1] / PRIOR_CALLS) / (1 + near)
        return int(rng.choice(atoms, p=weight / weight.sum()))

    def _moved(
        self,
        structure: Structure,
        roles: Roles,
        centre: int,
        piece: np.ndarray,
        law: str,
        rng: np.random.Generator,
    ) -> Floats:
        """The displacement of every atom: shape (n_atoms, 3), Å."""
        kind, size = law.split()[0], float(law.split()[1])
        i, j, *_ = pairs_within(structure, float(self.options.radius))
        rigid = piece if kind in ("shift", "turn") else np.array([centre])
        near = np.unique(np.append(j[np.isin(i, rigid)], centre))
        near = near[roles.movable[near]]
        moved = np.zeros((len(structure), 3))
        moved[near] = rng.normal(0.0, size if kind == "shake" else AROUND, (len(near), 3))
        if kind == "step":
            moved[centre] = size * random_direction(rng)
        elif kind == "shift":
            normal = roles.normals[centre]
            along = np.cross(normal, random_direction(rng))
            moved[piece] = size * along / np.linalg.norm(along) + rng.normal(0.0, 0.1) * normal
        elif kind == "turn":
            unwrapped = unwrap(structure, piece, bonds(structure))
            centroid = np.average(unwrapped.positions, axis=0, weights=atomic_masses[structure.numbers[piece]])
            arms = unwrapped.positions - centroid
            moved[piece] = arms @ rotation_matrix(random_direction(rng), size).T - arms
        return moved

    def observe(self, guess: Guess, saddle: str | None, value: float, calls: int) -> None:
        self.laws.observe(guess.parameters["law"], value, calls)
        place = self.places.setdefault(guess.parameters["atom"], [0.0, 0.0])
        place[0] += value
        place[1] += calls

    def state(self) -> dict[str, Any]:
        return {"laws": self.laws.state(), "places": {str(atom): list(place) for atom, place in self.places.items()}}

    def load(self, state: dict[str, Any]) -> None:
        self.laws.load(state["laws"])
        self.places = {int(atom): list(place) for atom, place in state["places"].items()}
