"""``bonds``: a bond to break, to form, or both at once (an atom is passed on), at about its length in a saddle.

A bond in a saddle is 1.3 to 1.5 times as long as the sum of the covalent radii. One end at least belongs to the
adsorbate. Which elements and which kind of change lead to new saddles is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols, covalent_radii
from numpy.typing import NDArray

from rlpath_core.geometry.bonds import bonds, sum_radii
from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.fragments import bond_sides, fragments
from rlpath_core.geometry.neighbours import pairs_within
from rlpath_core.paths.options import BondChangeOptions
from rlpath_core.paths.proposals.base import PROPOSALS, KnownMinimum, Landscape, Proposal, crowded, unit
from rlpath_core.paths.proposals.learning import Yields
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure

FEW_BONDS = 2
"""An atom with more bonds is not passed on: it has no partner to leave."""
SURROUNDINGS = 3.0
"""Å: atoms this near to the bond shake."""


@dataclass(frozen=True)
class Change:
    """A bond that changes.

    Attributes
    ----------
    kind
        ``break`` (``i`` leaves ``j``), ``form`` (``i`` comes to ``j``) or ``pass`` (``i`` leaves ``j`` for ``k``).
    atoms
        i, j; and k of an atom that is passed on.
    vectors
        From ``i`` to ``j``, and to ``k``, Å: each to the image that is meant.
    elements
        What is learnt of, such as ``pass O-H-O``.
    """

    kind: str
    atoms: tuple[int, ...]
    vectors: tuple[tuple[float, ...], ...]
    elements: str

    @property
    def key(self) -> str:
        """Names it among the changes of one minimum."""
        return " ".join(map(str, (self.kind, *self.atoms)))


@PROPOSALS.register("bonds")
class BondChanges(Proposal):
    """See the module's text."""

    Options = BondChangeOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.kinds = Yields()
        self.tried: dict[str, dict[str, int]] = {}
        """How often each change was tried, for each minimum."""

    def applies(self, landscape: Landscape) -> bool:
        return any(self._left(minimum, landscape) for minimum in landscape.minima)

    def propose(self, landscape: Landscape, rng: np.random.Generator) -> Guess | None:
        minimum = landscape.choose(rng, lambda one: bool(self._left(one, landscape)))
        if minimum is None:
            return None
        left = self._left(minimum, landscape)
        elements = self.kinds.draw(dict.fromkeys(change.elements for change in left), rng)
        tried = self.tried.setdefault(minimum.name, {})
        alike = [change for change in left if change.elements == elements]
        least = min(tried.get(change.key, 0) for change in alike)
        alike = [change for change in alike if tried.get(change.key, 0) == least]
        change = alike[int(rng.integers(len(alike)))]
        tried[change.key] = least + 1
        length = float(rng.choice(self.options.lengths))
        structure, mode = changed(minimum.structure, landscape.roles.movable, landscape.roles.active, change, length)
        near = _around(structure, landscape.roles.movable, change.atoms)
        positions = structure.positions.copy()
        positions[near] += rng.normal(0.0, self.options.shake, (len(near), 3))
        structure = structure.moved(positions)
        if crowded(structure, minimum.structure) or not mode.any():
            tried[change.key] = self.options.repeats
            return None
        parameters = {"change": elements, "atoms": list(change.atoms), "length": length}
        return Guess(structure, unit(mode), start=minimum.name, proposal=self.name, parameters=parameters)

    def _left(self, minimum: KnownMinimum, landscape: Landscape) -> list[Change]:
        """Changes of a minimum that were not tried often."""
        tried = self.tried.get(minimum.name, {})
        every = changes(minimum.structure, landscape.roles.active, float(self.options.reach))
        return [change for change in every if tried.get(change.key, 0) < self.options.repeats]

    def observe(self, guess: Guess, saddle: str | None, value: float, calls: int) -> None:
        self.kinds.observe(guess.parameters["change"], value, calls)

    def state(self) -> dict[str, Any]:
        return {"kinds": self.kinds.state(), "tried": {name: dict(tried) for name, tried in self.tried.items()}}

    def load(self, state: dict[str, Any]) -> None:
        self.kinds.load(state["kinds"])
        self.tried = {name: dict(tried) for name, tried in state["tried"].items()}


@cached_on_object
def changes(structure: Structure, active: Mask, reach: float) -> list[Change]:
    """Every bond that may change.

    Parameters
    ----------
    structure : Structure
        A minimum.
    active : ndarray of bool, shape (n_atoms,)
        Bonds between these may break and form; these may be passed on.
    reach : float
        As ``BondChangeOptions.reach``.

    Returns
    -------
    list of Change
    """
    symbols = [chemical_symbols[z] for z in structure.numbers]
    bonded = bonds(structure)
    degree = np.bincount(bonded.i, minlength=len(structure))
    i, j, d, vector = pairs_within(structure, 2 * reach * float(covalent_radii[structure.numbers].max()))
    near = (i != j) & (d < reach * sum_radii(structure, i, j)) & active[i]
    near &= ~np.isin(i * len(structure) + j, bonded.i * len(structure) + bonded.j)
    found = []
    inner = bonded.within(active)
    for a, b, v in zip(inner.i.tolist(), inner.j.tolist(), inner.vector, strict=True):
        # the end with fewer bonds leaves; of two alike, the first
        if (degree[a], a) < (degree[b], b):
            pair = "-".join(sorted((symbols[a], symbols[b])))
            found.append(Change("break", (a, b), (tuple(v.tolist()),), f"break {pair}"))
    pieces = fragments(structure, active)
    piece = np.full(len(structure), -1)
    for number, atoms in enumerate(pieces):
        piece[atoms] = number
    for k in np.flatnonzero(near & active[j] & (i < j) & (piece[i] != piece[j])):
        a, b = int(i[k]), int(j[k])
        pair = "-".join(sorted((symbols[a], symbols[b])))
        found.append(Change("form", (a, b), (tuple(vector[k].tolist()),), f"form {pair}"))
    light = np.flatnonzero(active & (degree > 0) & (degree <= FEW_BONDS))
    leaving = np.isin(bonded.i, light)
    for a, b, v in zip(bonded.i[leaving].tolist(), bonded.j[leaving].tolist(), bonded.vector[leaving], strict=True):
        for k in np.flatnonzero(near & (i == a)):
            if int(j[k]) == b or np.linalg.norm(vector[k] - v) < 1.0:
                continue
            name = f"pass {symbols[b]}-{symbols[a]}-{symbols[int(j[k])]}"
            found.append(Change("pass", (a, b, int(j[k])), (tuple(v.tolist()), tuple(vector[k].tolist())), name))
    return found


def changed(
    structure: Structure, movable: Mask, active: Mask, change: Change, length: float
) -> tuple[Structure, Floats]:
    """The structure with the bond at ``length`` times the sum of the covalent radii, and the direction of the change.

    Parameters
    ----------
    structure : Structure
    movable, active : ndarray of bool, shape (n_atoms,)
    change : Change
    length : float

    Returns
    -------
    structure : Structure
    mode : ndarray, shape (n_atoms, 3)
        Not normalised.
    """
    i, j = change.atoms[:2]
    to_j = np.array(change.vectors[0])
    positions = structure.positions.copy()
    mode = np.zeros_like(positions)
    mobile = np.where(movable, 1 / atomic_masses[structure.numbers], 0.0)
    if change.kind == "pass":
        k, to_k = change.atoms[2], np.array(change.vectors[1])
        along = to_k - to_j
        first, second = sum_radii(structure, np.array([i, i]), np.array([j, k]))
        gap = np.linalg.norm(along) - length * (first + second)
        if gap > 0:  # too far apart to pass it on: the molecule that it leaves comes nearer
            piece = next(atoms for atoms in fragments(structure, active) if i in atoms)
            shift = gap * unit(along)
            positions[piece] += shift
            to_k = to_k - shift
            if j not in piece:
                to_j = to_j - shift
            along = to_k - to_j
        positions[i] += to_j + along * first / (first + second)
        mode[i], mode[j], mode[k] = mobile[i] * along, -mobile[j] * along / 2, -mobile[k] * along / 2
        return structure.moved(positions), mode
    distance = np.linalg.norm(to_j)
    target = length * float(sum_radii(structure, np.array([i]), np.array([j]))[0])
    step = (target - distance) * to_j / distance  # what the vector from i to j grows by
    own, other = np.array([i]), np.array([j])
    if change.kind == "break":
        own = bond_sides(structure, bonds(structure)).get((j, i), own)
    else:
        own, other = (next(atoms for atoms in fragments(structure, active) if atom in atoms) for atom in (i, j))
    own, other = own[movable[own]], other[movable[other]]
    weight = np.array([1 / _mass(structure, own), 1 / _mass(structure, other)])
    share = weight / weight.sum()
    positions[own] -= share[0] * step
    positions[other] += share[1] * step
    mode[i], mode[j] = -mobile[i] * to_j, mobile[j] * to_j
    return structure.moved(positions), mode


def _mass(structure: Structure, atoms: NDArray[np.int64]) -> float:
    return float(atomic_masses[structure.numbers[atoms]].sum()) if len(atoms) else np.inf


def _around(structure: Structure, movable: Mask, atoms: tuple[int, ...]) -> NDArray[np.int64]:
    """Movable atoms near the bond, without those that it is made of."""
    i, j, *_ = pairs_within(structure, SURROUNDINGS)
    near = np.setdiff1d(j[np.isin(i, atoms)], atoms)
    return near[movable[near]]
