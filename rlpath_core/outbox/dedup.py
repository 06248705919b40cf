"""Which candidates are new: the structures that were kept before, and what is a near-duplicate of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rlpath_core.outbox.canonicalize import Canonical, Floats
from rlpath_core.outbox.copies import group_with_copies
from rlpath_core.outbox.group import Group, Match

CHUNK = 512
"""Structures that are aligned and compared in one operation."""


class Memory:
    """Every structure that was kept, by composition, cell and fixed atoms; decides which candidates are new.

    Parameters
    ----------
    threshold
        Å; two structures with an RMSD at or below it are duplicates.
    symmetry
        Å, the tolerance of symmetry operations: a structure within the threshold of an image of another under one is a
        duplicate too. None compares structures as they are. Structures then come from ``canonicalize`` with
        ``symmetry`` set accordingly.
    """

    def __init__(self, threshold: float, symmetry: float | None = None) -> None:
        self.threshold = threshold
        self.symmetry = symmetry
        self._groups: dict[tuple, list[Group]] = {}

    def add(self, known: Iterable[Canonical]) -> None:
        """Keep structures without comparing them with each other."""
        structures = list(known)
        for group, places, aligned in self._sorted(structures):
            group.extend([structures[place].id for place in places], aligned)

    def admit(self, candidates: Sequence[Canonical]) -> list[Match | None]:
        """Keep each candidate that is no duplicate of a structure kept before it.

        Parameters
        ----------
        candidates
            The earlier one of two duplicates is kept.

        Returns
        -------
        list of Match or None
            Per candidate the kept structure that it duplicates, or None if it was kept.
        """
        found: list[Match | None] = [None] * len(candidates)
        for group, places, aligned in self._sorted(candidates):
            matches = group.admit([candidates[place] for place in places], aligned)
            for place, match in zip(places, matches, strict=True):
                found[place] = match
        return found

    def _sorted(self, structures: Sequence[Canonical]) -> Iterator[tuple[Group, list[int], Floats]]:
        """The group that each structure belongs to, which structures, and their positions in its frame."""
        by_key: dict[tuple, list[int]] = {}
        for place, structure in enumerate(structures):
            by_key.setdefault(structure.key, []).append(place)
        for key, all_places in by_key.items():
            groups = self._groups.setdefault(key, [])
            for start in range(0, len(all_places), CHUNK):
                left, tried = all_places[start : start + CHUNK], 0
                while left:
                    if tried == len(groups):
                        groups.append(self._new(structures[left[0]]))
                    group, tried = groups[tried], tried + 1
                    aligned, fits = group.all_aligned([structures[place] for place in left])
                    if fits.any():
                        yield group, [place for place, fit in zip(left, fits, strict=True) if fit], aligned[fits]
                    left = [place for place, fit in zip(left, fits, strict=True) if not fit]

    def _new(self, reference: Canonical) -> Group:
        if self.symmetry is None:
            return Group(reference, self.threshold)
        return group_with_copies(reference, self.threshold, self.symmetry)


def rmsd(first: Canonical, second: Canonical) -> float:
    """RMSD in Å over movable atoms, the smallest over all assignments of atoms of the same element and moment.

    Infinite if the structures differ in elements, moments, movable atoms, fixed atoms or cell. Free molecules are also
    turned, starting from their principal axes; for a molecule whose axes are degenerate (CH4) the value is an upper
    bound.
    """
    if first.key != second.key:
        return np.inf
    group = Group(first)
    aligned, fits = group.all_aligned([first, second])
    return group.exact(*aligned) if fits.all() else np.inf
