"""Which of many rows lie within a radius of others: exact, and far cheaper than comparing all with all.

Rows are kept in leaves of a k-d tree (doi:10.1145/361002.361007) along their principal axes. A question looks only into
leaves whose box reaches into its ball, and there it is one matrix product, which is what processors are best at. What
came since the tree was last built is looked through as a whole; the tree is rebuilt when that has grown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAF = 512
TAIL = 2048
"""Rows that a tree must have before it pays."""
TAIL_FRACTION = 0.125
"""Part of all rows that may come before the tree is built anew, so that building costs n log n in all."""
BOX_AXES = 16
"""Principal axes along which boxes are compared; the others hardly differ."""


class Nearby:
    """Rows [n, n_features], in the order in which they were added.

    radius  Euclidean; rows that far apart or nearer are neighbours, give or take rounding
    """

    def __init__(self, radius: float) -> None:
        self.limit = radius**2 + 1e-9
        self._tail: list[Floats] = []
        self._n_tail = 0
        self._tree: _Tree | None = None

    def __len__(self) -> int:
        return self._n_tail + (0 if self._tree is None else len(self._tree.rows))

    def add(self, rows: Floats) -> None:
        if not len(rows):
            return
        self._tail.append(rows)
        self._n_tail += len(rows)
        if self._n_tail > max(TAIL, TAIL_FRACTION * len(self)):
            before = [] if self._tree is None else [self._tree.rows]
            self._tree = _Tree(np.concatenate(before + self._tail))
            self._tail, self._n_tail = [], 0

    def within(self, rows: Floats) -> list[tuple[Ints, Floats]]:
        """For each of ``rows`` the indices of its neighbours, nearest first, and their squared distances."""
        parts = [] if self._tree is None else self._tree.pairs(rows, self.limit)
        if self._tail:
            first = len(self) - self._n_tail
            self._tail = [np.concatenate(self._tail)]
            i, j, distance = pairs(rows, self._tail[0], self.limit)
            parts.append((i, j + first, distance))
        return _by_row(parts, len(rows))


class _Tree:
    """The rows of a finished tree, in their order and sorted into leaves."""

    def __init__(self, rows: Floats) -> None:
        from scipy.spatial import cKDTree

        self.rows = rows
        centred = rows - rows.mean(axis=0)
        self.axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
        turned = rows @ self.axes
        tree = cKDTree(turned, leafsize=LEAF)
        self.order: Ints = np.array(tree.indices, np.int64)
        self.leaves = sorted(_leaves(tree.tree))
        self.turned = turned[self.order]
        starts = [start for start, _ in self.leaves]
        self.low = np.minimum.reduceat(self.turned[:, :BOX_AXES], starts)
        self.high = np.maximum.reduceat(self.turned[:, :BOX_AXES], starts)

    def pairs(self, rows: Floats, limit: float) -> list[tuple[Ints, Ints, Floats]]:
        turned = rows @ self.axes
        along = turned[:, None, :BOX_AXES]
        off = np.maximum(np.maximum(self.low - along, along - self.high), 0.0)
        reached = np.einsum("ijk,ijk->ij", off, off) <= limit
        out = []
        for leaf in np.flatnonzero(reached.any(axis=0)).tolist():
            start, end = self.leaves[leaf]
            asking = np.flatnonzero(reached[:, leaf])
            i, j, distance = pairs(turned[asking], self.turned[start:end], limit)
            if len(i):
                out.append((asking[i], self.order[start + j], distance))
        return out


def _leaves(root: object) -> list[tuple[int, int]]:
    """(start, end) of every leaf that has rows."""
    out, stack = [], [root]
    while stack:
        node: object = stack.pop()
        if node.lesser is None:  # type: ignore[attr-defined]
            if node.end_idx > node.start_idx:  # type: ignore[attr-defined]
                out.append((int(node.start_idx), int(node.end_idx)))  # type: ignore[attr-defined]
        else:
            stack += [node.lesser, node.greater]  # type: ignore[attr-defined]
    return out


def pairs(first: Floats, second: Floats, limit: float) -> tuple[Ints, Ints, Floats]:
    """Indices of the pairs of rows whose squared distance is at most ``limit``, and that distance."""
    distance = squared(first, second)
    i, j = np.nonzero(distance <= limit)
    return i, j, distance[i, j]


def squared(first: Floats, second: Floats) -> Floats:
    """Squared distances [n_first, n_second] of rows."""
    out = first @ (-2.0 * second.T)
    out += np.einsum("ij,ij->i", first, first)[:, None]
    out += np.einsum("ij,ij->i", second, second)
    return np.maximum(out, 0.0, out=out)


def _by_row(parts: list[tuple[Ints, Ints, Floats]], n: int) -> list[tuple[Ints, Floats]]:
    if not parts:
        return [(np.zeros(0, np.int64), np.zeros(0))] * n
    i, j, distance = (np.concatenate([part[k] for part in parts]) for k in range(3))
    order = np.lexsort((j, distance, i))
    i, j, distance = i[order], j[order], distance[order]
    cuts = np.searchsorted(i, np.arange(1, n))
    return list(zip(np.split(j, cuts), np.split(distance, cuts), strict=True))
