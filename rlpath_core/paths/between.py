"""What joins two given structures: the path between them first, then the gaps that the steps found so far leave."""

from __future__ import annotations

from itertools import product
from typing import Any

import networkx as nx
import numpy as np

from rlpath_core.geometry.cell import Mask
from rlpath_core.geometry.matching import matched
from rlpath_core.paths.catalogue import Catalogue, CataloguedSaddle
from rlpath_core.paths.identity import same_structure
from rlpath_core.paths.searches import Guess
from rlpath_core.structure import Structure

NAME = "given"
"""The proposal that such guesses are recorded under."""
GAPS = 200
"""Pairs of minima that are compared, at most."""


class Between:
    """The way from one structure to another.

    Parameters
    ----------
    movable : ndarray of bool, shape (n_atoms,)
    names : tuple of str
        Of the two minima in the catalogue: the same where the step leads to a copy.
    path : tuple of Structure
        The two minima, like atoms paired and periodic images settled.
    tried : list of list of str
        Pairs that were tried before a resume.
    """

    def __init__(
        self,
        movable: Mask,
        names: tuple[str, str],
        path: tuple[Structure, Structure],
        tried: list[list[str]] | None = None,
    ) -> None:
        self.movable, self.names, self.path = movable, names, path
        self.tried = [(one, other) for one, other in tried or ()]

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"names": self.names, "path": self.path, "tried": [list(pair) for pair in self.tried]}

    def is_joined(self, catalogue: Catalogue) -> bool:
        """Whether steps lead from one to the other; to a copy of itself, whether one step has these very ends."""
        start, end = self.names
        if start != end:
            steps = _steps(catalogue)
            return start in steps and end in steps and nx.has_path(steps, start, end)
        return any(self._has_ends(saddle) for saddle in catalogue.present_saddles)

    def _has_ends(self, saddle: CataloguedSaddle) -> bool:
        assert saddle.verdict.ends is not None
        ends = [end.structure for end in saddle.verdict.ends]
        return any(
            all(same_structure(a, b, self.movable) for a, b in zip(order, self.path, strict=True))
            for order in (ends, ends[::-1])
        )

    def next(self, catalogue: Catalogue) -> Guess | None:
        """The next path to try: the whole, then the shortest gap that was not tried yet; None if there is none."""
        if not self.tried:
            self.tried.append(self.names)
            return _guess(self.path, self.names)
        best: tuple[float, tuple[str, str], tuple[Structure, Structure]] | None = None
        for pair in self._gaps(catalogue):
            first, second = (catalogue.minima[name].structure for name in pair)
            second = matched(first, second, self.movable)
            length = float(np.linalg.norm(second.positions - first.positions))
            if best is None or length < best[0]:
                best = length, pair, (first, second)
        if best is None:
            return None
        self.tried.append(best[1])
        return _guess(best[2], best[1])

    def _gaps(self, catalogue: Catalogue) -> list[tuple[str, str]]:
        """Pairs of minima of which steps lead from one end to the first, and from the second to the other end."""
        start, end = self.names
        if start == end:
            return []
        steps = _steps(catalogue)
        reached = [sorted(nx.node_connected_component(steps, name)) if name in steps else [name] for name in self.names]
        return [pair for pair in product(*reached) if pair not in self.tried][:GAPS]


def _steps(catalogue: Catalogue) -> nx.Graph[str]:
    return nx.Graph([(saddle.start, saddle.end) for saddle in catalogue.present_saddles])


def _guess(path: tuple[Structure, Structure], names: tuple[str, str]) -> Guess:
    middle = path[0].moved((path[0].positions + path[1].positions) / 2)
    return Guess(middle, path=path, start=names[0], end=names[1], proposal=NAME)
