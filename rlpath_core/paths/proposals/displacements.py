"""``displacements``: a random displacement around one atom, of one molecule, or of a part of it.

Which saddle a search finds is decided by where it begins: the law of the first displacement matters more than the
method of the search. So there are several laws, and those that find new saddles per force call are drawn more often,
as are the atoms around which they were found. Atoms with few neighbours are the first choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import Floats, wrap_vectors
from rlpath_core.geometry.fragments import fragments, unwrap
from rlpath_core.geometry.neighbours import pairs_within
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.rotations import random_direction, rotation_matrix
from rlpath_core.paths.options import DisplacementOptions
from rlpath_core.paths.proposals.base import PROPOSALS, Landscape, Proposal, crowded, unit
from rlpath_core.paths.proposals.learning import PRIOR_CALLS, Yields
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure

Ints = NDArray[np.int64]

AROUND = 0.05
"""Å: how much the neighbours of an atom or a molecule that is moved shake."""
MANY = 4
"""A piece with fewer atoms has no parts that slide along each other."""
EDGE = 0.5
"""Å: atoms this far beyond the chosen one, across the direction of the slide, slide with it."""
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
        left = self._laws(before, roles, piece)
        while left:
            law = self.laws.draw(left, rng)
            for _ in range(DRAWS):
                moved = self._moved(before, roles, centre, piece, law, rng)
                structure = before.moved(before.positions + moved)
                if not crowded(structure, before):
                    parameters = {"law": law, "atom": centre}
                    return Guess(structure, unit(moved), start=minimum.name, proposal=self.name, parameters=parameters)
            left.remove(law)
        return None

    def _laws(self, structure: Structure, roles: Roles, piece: Ints) -> list[str]:
        """The laws that mean something for this atom: ``kind size``, ``shake size radius``."""
        options = self.options
        laws = [f"shake {size:g} {radius:g}" for size in options.sigmas for radius in options.radii]
        laws += [f"step {size:g}" for size in options.steps]
        if len(piece) >= MANY:
            laws += [f"shear {size:g}" for size in options.shears]
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
        self, structure: Structure, roles: Roles, centre: int, piece: Ints, law: str, rng: np.random.Generator
    ) -> Floats:
        """The displacement of every atom: shape (n_atoms, 3), Å."""
        kind, size, radius = (*law.split(), self.options.radii[0])[:3]
        size = float(size)
        i, j, *_ = pairs_within(structure, float(radius))
        rigid = piece if kind in ("shift", "turn", "shear") else np.array([centre])
        near = np.unique(np.append(j[np.isin(i, rigid)], centre))
        near = near[roles.movable[near]]
        moved = np.zeros((len(structure), 3))
        moved[near] = rng.normal(0.0, size if kind == "shake" else AROUND, (len(near), 3))
        if kind == "step":
            moved[centre] = size * random_direction(rng)
        elif kind == "shear":
            slide, across = _along(roles, centre, rng), _along(roles, centre, rng)
            height = wrap_vectors(structure.positions[piece] - structure.positions[centre], structure) @ across
            part = height >= -EDGE if (height < -EDGE).any() else height <= EDGE
            moved[piece] += size * np.where(part, 1 - part.mean(), -part.mean())[:, None] * slide
        elif kind == "shift":
            moved[piece] = size * _along(roles, centre, rng) + rng.normal(0.0, 0.1) * roles.normals[centre]
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


def _along(roles: Roles, atom: int, rng: np.random.Generator) -> Floats:
    """A random direction along the surface that an atom is on, or any direction without a surface."""
    direction = random_direction(rng)
    return direction if roles.normal is None else unit(np.cross(roles.normals[atom], direction))
