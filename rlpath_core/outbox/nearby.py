"""Which of many rows lie within a radius of others: exact, and far cheaper than comparing all with all.

SciPy's k-d tree (doi:10.1145/361002.361007) searches along the rows' principal axes, where a distance never exceeds the
one between whole rows; what it finds is then measured over all features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAF = 64
AXES = 16
"""Principal axes that are searched; rows hardly differ along the others."""
RECENT = 0.125
"""Part of all rows that may be in the second tree before both become one, so that building costs n log n in all."""


class Nearby:
    """Rows [n, n_features], in the order in which they were added.

    radius  Euclidean; rows that far apart or nearer are neighbours, give or take rounding
    """

    def __init__(self, radius: float) -> None:
        self.limit = radius**2 + 1e-9
        self._trees: list[_Tree] = []
        """At most two: most rows, and those added since it was built."""

    def __len__(self) -> int:
        return sum(len(tree.rows) for tree in self._trees)

    def add(self, rows: Floats) -> None:
        if not len(rows):
            return
        if len(self._trees) == 2:
            rows = np.concatenate((self._trees.pop().rows, rows))
        if self._trees and len(rows) > RECENT * len(self):
            rows = np.concatenate((self._trees.pop().rows, rows))
        self._trees.append(_Tree(rows))

    def within(self, rows: Floats) -> list[tuple[Ints, Floats]]:
        """For each of ``rows`` the indices of its neighbours, nearest first, and their squared distances."""
        parts, first = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))], 0
        for tree in self._trees:
            i, j, distance = tree.pairs(rows, self.limit)
            parts.append((i, j + first, distance))
            first += len(tree.rows)
        i, j, distance = (np.concatenate([part[k] for part in parts]) for k in range(3))
        order = np.lexsort((j, distance, i))
        i, j, distance = i[order], j[order], distance[order]
        cuts = np.searchsorted(i, np.arange(1, len(rows)))
        return list(zip(np.split(j, cuts), np.split(distance, cuts), strict=True))


class _Tree:
    """Rows and a k-d tree of them along their principal axes."""

    def __init__(self, rows: Floats) -> None:
        from scipy.spatial import cKDTree

        self.rows = rows
        centred = rows - rows.mean(axis=0)
        self.axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :AXES]
        self.tree = cKDTree(rows @ self.axes, leafsize=LEAF)

    def pairs(self, rows: Floats, limit: float) -> tuple[Ints, Ints, Floats]:
        """Indices (of ``rows``, of the tree's) whose squared distance is at most ``limit``, and that distance."""
        near = self.tree.query_ball_point(rows @ self.axes, np.sqrt(limit))
        i = np.repeat(np.arange(len(rows)), [len(found) for found in near])
        j = np.fromiter((index for found in near for index in found), np.int64, len(i))
        distance: Floats = ((rows[i] - self.rows[j]) ** 2).sum(axis=1)
        keep = distance <= limit
        return i[keep], j[keep], distance[keep]
