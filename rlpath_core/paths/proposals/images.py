"""``images``: known saddles, turned, mirrored or shifted to where the surroundings are the same.

Copies by the symmetry of the held atoms are one saddle in the catalogue and need no search. What remains is symmetry
that is nearly there, as of an island that only the cell distorts, and saddles of one minimum that another one must have
too, because the atoms concerned and all around them lie alike. A saddle found this way costs a fraction of a random
search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cell import Floats, wrap_vectors
from rlpath_core.geometry.matching import matched
from rlpath_core.geometry.neighbours import pairs_within
from rlpath_core.geometry.roles import Roles
from rlpath_core.paths.identity import SAME
from rlpath_core.paths.options import ImageOptions
from rlpath_core.paths.proposals.base import PROPOSALS, KnownMinimum, KnownSaddle, Landscape, Proposal, crowded, unit
from rlpath_core.paths.proposals.nearby import copies_of, distances, images
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure

Ints = NDArray[np.int64]

ALIKE = 0.2
"""eV: saddles whose energies differ by more are no copies of each other."""
UPRIGHT = 0.95
"""Least cosine between the surface's normal and its image."""
REMEMBERED = 256
"""Guesses that a new one must differ from."""
LOOKED_AT = 8
"""Pairs of a saddle and a minimum that one proposal looks at, at most."""


@dataclass(frozen=True, eq=False)
class Motion:
    """How a saddle differs from a minimum, and the surroundings in which it does.

    Attributes
    ----------
    atoms : ndarray of int, shape (n,)
        The atoms that move and those around them, the one that moves farthest first.
    vectors : ndarray, shape (n, 3)
        Å: from the first to each, in the minimum.
    steps : ndarray, shape (n, 3)
        Å: from the minimum to the saddle.
    mode : ndarray, shape (n, 3)
        Of the saddle.
    """

    atoms: Ints
    vectors: Floats
    steps: Floats
    mode: Floats


@PROPOSALS.register("images")
class SaddleImages(Proposal):
    """See the module's text."""

    Options = ImageOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.tried: dict[str, int] = {}
        """Images that were looked at, of each saddle at each minimum; -1 if there are no more."""
        self.found: dict[str, list[tuple[Floats, Floats]]] = {}
        """Images of a saddle at a minimum: positions and mode. Computed again where they are missing."""
        self.proposed: list[Floats] = []
        """Positions of the movable atoms of the latest guesses, [n_movable, 3] Å: none is made twice."""

    def applies(self, landscape: Landscape) -> bool:
        return any(self._left(minimum, landscape) for minimum in landscape.minima)

    def _left(self, minimum: KnownMinimum, landscape: Landscape) -> list[KnownSaddle]:
        return [one for one in landscape.saddles if self.tried.get(f"{one.name} {minimum.name}", 0) >= 0]

    def propose(self, landscape: Landscape, rng: np.random.Generator) -> Guess | None:
        for _ in range(LOOKED_AT):
            minimum = landscape.choose(rng, lambda one: bool(self._left(one, landscape)))
            if minimum is None:
                return None
            # the saddles of the minimum itself first, then those found last
            saddle = max(self._left(minimum, landscape)[::-1], key=lambda one: minimum.name in (one.start, one.end))
            key = f"{saddle.name} {minimum.name}"
            if key not in self.found:
                self.found[key] = self._images(saddle, minimum, landscape)
            every = self.found[key]
            for n in range(self.tried.get(key, 0), len(every)):
                self.tried[key] = n + 1
                positions, mode = every[n]
                structure = minimum.structure.moved(positions)
                if not crowded(structure, minimum.structure) and not self._known(structure, saddle, landscape):
                    movable = landscape.roles.movable
                    self.proposed = [*self.proposed, structure.positions[movable]][-REMEMBERED:]
                    return Guess(
                        structure,
                        unit(mode),
                        start=minimum.name,
                        proposal=self.name,
                        parameters={"saddle": saddle.name, "image": n},
                    )
            self.tried[key] = -1
            self.found[key] = []
        return None

    def _known(self, structure: Structure, saddle: KnownSaddle, landscape: Landscape) -> bool:
        """Whether it is a known saddle or an earlier guess, or a copy of one that its degeneracy counts."""
        roles = landscape.roles
        others = [one.structure.positions for one in landscape.saddles if abs(one.energy - saddle.energy) <= ALIKE]
        for movable in self.proposed:
            positions = structure.positions.copy()
            positions[roles.movable] = movable
            others.append(positions)
        every = images(structure, roles)
        for positions in others:
            other = structure.moved(positions)
            near = distances(other, every, roles).min() <= SAME * np.sqrt(roles.active.sum())
            if near and copies_of(roles).are(structure, other):
                return True
        return False

    def _images(self, saddle: KnownSaddle, minimum: KnownMinimum, landscape: Landscape) -> list[tuple[Floats, Floats]]:
        """Positions and mode of every image of the saddle at the minimum, without the saddle itself."""
        roles, out = landscape.roles, []
        for side in dict.fromkeys((saddle.start, saddle.end)):
            origin = next((one for one in landscape.minima if one.name == side), None)
            motion = None if origin is None else motion_of(origin.structure, saddle, roles, self.options)
            if origin is None or motion is None:
                continue
            places = alike(origin.structure, motion, minimum.structure, roles, float(self.options.tolerance))
            for atoms, rotation in places:
                positions, mode = minimum.structure.positions.copy(), np.zeros(minimum.structure.positions.shape)
                moves = roles.movable[atoms]
                positions[atoms[moves]] += motion.steps[moves] @ rotation.T
                mode[atoms[moves]] = motion.mode[moves] @ rotation.T
                out.append((positions, mode))
        return out

    def state(self) -> dict[str, Any]:
        return {"tried": dict(self.tried), "proposed": list(self.proposed)}

    def load(self, state: dict[str, Any]) -> None:
        self.tried, self.found = dict(state["tried"]), {}
        self.proposed = [np.asarray(positions, np.float64) for positions in state["proposed"]]


def motion_of(minimum: Structure, saddle: KnownSaddle, roles: Roles, options: ImageOptions) -> Motion | None:
    """The motion from a minimum to a saddle that a copy of it has.

    The saddle may be at another copy of the minimum: the nearest of its images is taken.
    """
    operations = copies_of(roles).operations
    every = images(saddle.structure, roles)
    k = int(np.argmin(distances(minimum, every, roles)))
    mode = saddle.mode if operations is None else saddle.mode @ operations.rotations[k].T
    image = matched(minimum, saddle.structure.moved(every[k]), roles.movable)
    order = _same_atoms(image, every[k])
    steps = image.positions - minimum.positions
    moving = np.flatnonzero(np.linalg.norm(steps, axis=1) > options.moving)
    if not len(moving):
        return None
    i, j, *_ = pairs_within(minimum, float(options.radius))
    atoms = np.union1d(moving, j[np.isin(i, moving)])
    first = int(moving[np.argmax(np.linalg.norm(steps[moving], axis=1))])
    atoms = np.concatenate(([first], atoms[atoms != first]))
    vectors = wrap_vectors(minimum.positions[atoms] - minimum.positions[first], minimum)
    return Motion(atoms, vectors, steps[atoms], mode[order][atoms])


def _same_atoms(image: Structure, positions: Floats) -> Ints:
    """For each atom of a matched structure, its number before like atoms were paired: shape (n_atoms,)."""
    off = wrap_vectors(image.positions[:, None] - positions, image)
    return np.asarray((off**2).sum(axis=2).argmin(axis=1))


def alike(
    origin: Structure, motion: Motion, target: Structure, roles: Roles, tolerance: float
) -> list[tuple[Ints, Floats]]:
    """Where the surroundings of a motion are found again.

    Parameters
    ----------
    origin : Structure
        The minimum that the motion begins in.
    motion : Motion
    target : Structure
        The minimum that is searched.
    roles : Roles
    tolerance : float
        Å, for each atom.

    Returns
    -------
    list of (ndarray of int, shape (n,); ndarray, shape (3, 3))
        The atoms of ``target`` that stand for those of the motion, and the rotation or mirror that brings the motion
        there. Without the place where the motion is already.
    """
    first, second, third = _triangle(motion)
    numbers, vectors = origin.numbers[motion.atoms], motion.vectors
    reach = float(np.linalg.norm(vectors, axis=1).max()) + tolerance
    i, j, d, vector = pairs_within(target, reach)
    among = roles.active if roles.active[motion.atoms[0]] else roles.movable
    frame = _frames(vectors[second][None], vectors[third][None])[0]
    out: dict[bytes, tuple[Ints, Floats]] = {}
    for centre in np.flatnonzero(among & (target.numbers == numbers[first])):
        near = i == centre
        atoms, length, where = j[near], d[near], vector[near]
        pairs = _corners(numbers, vectors, second, third, target.numbers[atoms], length, where, tolerance)
        if not len(pairs):
            continue
        frames = _frames(where[pairs[:, 0]], where[pairs[:, 1]])
        for mirror in (np.diag([1.0, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0])):
            for rotation in np.swapaxes(frames, 1, 2) @ mirror @ frame:
                if roles.normal is not None and roles.normal @ rotation @ roles.normal < UPRIGHT:
                    continue
                mapped = _mapped(vectors @ rotation.T, numbers, where, target.numbers[atoms], tolerance)
                if mapped is None:
                    continue
                onto = np.concatenate(([centre], atoms))[mapped]
                if len(np.unique(onto)) == len(onto) and (roles.movable[onto] == roles.movable[motion.atoms]).all():
                    out.setdefault(onto.tobytes(), (onto, rotation))
    if target is origin:
        out.pop(motion.atoms.tobytes(), None)
    return list(out.values())


def _triangle(motion: Motion) -> tuple[int, int, int]:
    """The first atom and two near ones that are not in line with it."""
    order = np.argsort(np.linalg.norm(motion.vectors, axis=1), kind="stable")
    second = int(order[1])
    one = unit(motion.vectors[second])
    aside = np.linalg.norm(np.cross(motion.vectors[order], one), axis=1)
    third = int(order[np.flatnonzero(aside > 0.5)[0]]) if (aside > 0.5).any() else int(order[-1])
    return 0, second, third


def _frames(first: Floats, second: Floats) -> Floats:
    """Right-handed axes, as rows, of pairs of vectors: shape (n, 3, 3)."""
    x = first / np.linalg.norm(first, axis=1, keepdims=True)
    z = np.cross(first, second)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)
    return np.stack((x, np.cross(z, x), z), axis=1)


def _corners(
    numbers: Ints, vectors: Floats, second: int, third: int, near: Ints, length: Floats, where: Floats, tolerance: float
) -> Ints:
    """Pairs of neighbours that make the same triangle: shape (n, 2)."""
    one = np.flatnonzero((near == numbers[second]) & (np.abs(length - np.linalg.norm(vectors[second])) <= tolerance))
    two = np.flatnonzero((near == numbers[third]) & (np.abs(length - np.linalg.norm(vectors[third])) <= tolerance))
    apart = np.linalg.norm(where[one][:, None] - where[two], axis=2)
    fits = np.abs(apart - np.linalg.norm(vectors[second] - vectors[third])) <= tolerance
    a, b = np.nonzero(fits)
    return np.column_stack((one[a], two[b]))


def _mapped(image: Floats, numbers: Ints, where: Floats, near: Ints, tolerance: float) -> Ints | None:
    """Which neighbour each image lies on, 0 for the centre itself; None if one lies on no atom of its kind."""
    places = np.concatenate((np.zeros((1, 3)), where))
    kinds = np.concatenate((numbers[:1], near))
    square = ((image[:, None] - places) ** 2).sum(axis=2)
    square[numbers[:, None] != kinds] = np.inf
    best = square.argmin(axis=1)
    return best if square.min(axis=1).max() <= tolerance**2 else None
