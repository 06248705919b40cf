"""``pairs``: from one minimum to another, or to a copy of itself.

First the pairs that an action or a search joined, then those that lie nearest, each once. The nearest copy of the other
minimum is taken under the symmetry of the atoms that do not move; a copy of the same minimum on the next equivalent
site, or with two like atoms of a molecule exchanged, is a pair too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import wrap_vectors
from rlpath_core.geometry.interpolation import interpolate
from rlpath_core.geometry.matching import matched
from rlpath_core.geometry.roles import Roles
from rlpath_core.paths.identity import SAME
from rlpath_core.paths.options import PairOptions
from rlpath_core.paths.proposals.base import PROPOSALS, KnownMinimum, Landscape, Proposal, unit
from rlpath_core.paths.proposals.nearby import distances, images
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure


@PROPOSALS.register("pairs")
class Pairs(Proposal):
    """See the module's text."""

    Options = PairOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.tried: set[str] = set()
        """Names and distance of the pairs that were proposed: what has the same of both is a copy of it."""
        self.done: dict[str, int] = {}
        """Minima from which no pair was left, and how many minima were known then."""

    def applies(self, landscape: Landscape) -> bool:
        return any(self._fits(minimum, landscape) for minimum in landscape.minima)

    def _fits(self, minimum: KnownMinimum, landscape: Landscape) -> bool:
        return self.done.get(minimum.name) != len(landscape.minima)

    def propose(self, landscape: Landscape, rng: np.random.Generator) -> Guess | None:
        while (start := landscape.choose(rng, lambda one: self._fits(one, landscape))) is not None:
            for key, name, final in self._ends(start, landscape):
                self.tried.add(key)
                moved = final.positions - start.structure.positions
                farthest = float(np.linalg.norm(moved, axis=1).max())
                if not SAME < farthest <= self.options.max_distance:
                    continue
                middle = interpolate(start.structure, final, 1, movable=landscape.roles.movable)[1]
                return Guess(
                    middle,
                    unit(moved),
                    path=(start.structure, final),
                    start=start.name,
                    end=name,
                    proposal=self.name,
                    parameters={"distance": float(np.linalg.norm(moved)), "farthest": farthest},
                )
            self.done[start.name] = len(landscape.minima)
        return None

    def _ends(self, start: KnownMinimum, landscape: Landscape) -> Iterator[tuple[str, str, Structure]]:
        """What was not tried: minima and copies of this one, joined ones first, those with a known saddle last."""
        roles, limit = landscape.roles, self.options.max_distance * np.sqrt(landscape.roles.active.sum())
        joined = _partners(start.name, landscape.pairs)
        known = _partners(start.name, [(one.start, one.end) for one in landscape.saddles])
        found = []
        for n, other in enumerate(landscape.minima):
            every = images(other.structure, roles)
            for k, distance in enumerate(distances(start.structure, every, roles)):
                key = f"{' '.join(sorted((start.name, other.name)))} {distance:.1f}"
                if distance <= limit and key not in self.tried:
                    found.append((other.name in known, other.name not in joined, float(distance), n, k, key))
        for *_, n, k, key in sorted(found):
            if key not in self.tried:
                other = landscape.minima[n]
                image = other.structure.moved(images(other.structure, roles)[k])
                yield key, other.name, matched(start.structure, image, roles.movable)
        for pair, image in exchanged(start.structure, roles):
            key = f"{start.name} {start.name} exchanged {pair}"
            if key not in self.tried:
                yield key, start.name, image

    def state(self) -> dict[str, Any]:
        return {"tried": sorted(self.tried), "done": dict(self.done)}

    def load(self, state: dict[str, Any]) -> None:
        self.tried, self.done = set(state["tried"]), dict(state["done"])


def _partners(name: str, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """What a minimum is paired with: itself only by a pair of both."""
    return {other for one, other in (*pairs, *((b, a) for a, b in pairs)) if one == name}


def exchanged(structure: Structure, roles: Roles) -> Iterator[tuple[str, Structure]]:
    """The structure with two like atoms exchanged that are bonded to the same active atom: turns by half."""
    bonded = bonds(structure).within(roles.adsorbate)
    for centre in np.unique(bonded.i):
        ends = np.unique(bonded.j[bonded.i == centre])
        for one, other in combinations(ends.tolist(), 2):
            if structure.numbers[one] == structure.numbers[other]:
                positions = structure.positions.copy()
                positions[[one, other]] += wrap_vectors(positions[[other, one]] - positions[[one, other]], structure)
                yield f"{one} {other}", structure.moved(positions)
