"""Structures as FairChem's networks see them: the same edges as its own on-the-fly graph, found in linear time.

FairChem compares all pairs of atoms of a batch with all images that any structure in it needs. Here each structure has
its neighbour list by cells, in float64, with the network's own cutoff and largest number of neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlpath_core.backends.fairchem.architecture import Network
from rlpath_core.geometry.neighbours import image_vectors, neighbour_images
from rlpath_core.structure import Structure

SAME_ATOM = 1e-4
"""Å²: FairChem takes what is closer for the atom itself."""
DEGENERATE = 0.01
"""Å²: neighbours as far as the last one that is kept are kept too, where the number is not enforced strictly."""


@dataclass(frozen=True)
class Reach:
    """Which neighbours a network sees: within ``cutoff`` Å, at most ``max_neighbors`` of them."""

    cutoff: float
    max_neighbors: int
    strictly: bool

    @classmethod
    def of(cls, backbone: Any, network: Network) -> Reach:
        """GemNet-OC selects its smaller graphs from the largest one by itself."""
        wide = any(
            getattr(backbone, name, False)
            for name in ("atom_edge_interaction", "edge_atom_interaction", "atom_interaction")
        )
        cutoff = backbone.cutoff_aint if wide else backbone.cutoff
        most = backbone.max_neighbors_aint if wide else backbone.max_neighbors
        return cls(float(cutoff), int(most), bool(backbone.enforce_max_neighbors_strictly))


@dataclass(frozen=True, eq=False)
class Graph:
    """One structure and its edges, sorted by the atom that they end at.

    numbers  [n_atoms], tags [n_atoms] int64
    edges    [2, n_edges] int64: from, to
    vectors  [n_edges, 3] float64, Å, from the atom at the end to the (image of the) atom at the start
    images   [n_edges, 3] int64: the cell that the start lies in
    """

    numbers: NDArray[np.int64]
    tags: NDArray[np.int64]
    cell: NDArray[np.float64]
    edges: NDArray[np.int64]
    vectors: NDArray[np.float64]
    images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def n_edges(self) -> int:
        return self.edges.shape[1]


def build_graph(structure: Structure, reach: Reach) -> Graph:
    """The graph of a structure, with no more neighbours than the network takes, the nearest ones."""
    pairs, images = neighbour_images(structure, reach.cutoff * (1 + 1e-9))
    ends, starts = pairs
    vectors = image_vectors(structure, pairs, images)
    squares = (vectors**2).sum(axis=1)
    kept = np.flatnonzero((squares <= reach.cutoff**2) & (squares > SAME_ATOM))
    ends, squares = ends[kept], squares[kept]
    counts = np.bincount(ends, minlength=len(structure))
    if counts.max(initial=0) > reach.max_neighbors > 0:
        order = np.lexsort((squares, ends))
        firsts = np.cumsum(counts) - counts
        rank = np.arange(len(ends)) - firsts[ends[order]]
        chosen = rank < reach.max_neighbors
        if not reach.strictly:
            limit = np.full(len(structure), np.inf)
            next_one = order[rank == reach.max_neighbors]
            limit[ends[next_one]] = squares[next_one] + DEGENERATE
            chosen = squares[order] <= limit[ends[order]]
        kept, ends = kept[np.sort(order[chosen])], ends[np.sort(order[chosen])]
    return Graph(
        structure.numbers, structure.tags, structure.cell, np.stack((starts[kept], ends)), vectors[kept], images[kept]
    )


GHOST = Graph(
    np.array([1, 1]),
    np.zeros(2, np.int64),
    np.eye(3),
    np.array([[1, 0], [0, 1]]),
    np.array([[0.8, 0.0, 0.0], [-0.8, 0.0, 0.0]]),
    np.zeros((2, 3), np.int64),
)
"""Two atoms that go along where a batch has no edge at all, which the networks cannot take; left out of the answer."""


class Batch:
    """Several graphs with the attributes that FairChem's networks read of its own batches.

    ``pos`` are displacements, all zero, in which forces are derivatives: the edges' vectors are known already.
    """

    def __init__(self, graphs: Sequence[Graph], dtype: torch.dtype, device: torch.device | str, grad: bool) -> None:
        sizes = np.array([len(g) for g in graphs])
        n_edges = np.array([g.n_edges for g in graphs])
        shift = np.repeat(np.cumsum(sizes) - sizes, n_edges)

        def tensor(parts: list[NDArray[Any]], kind: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device=device, dtype=kind)

        self.natoms = torch.from_numpy(sizes).to(device)
        self.batch = torch.from_numpy(np.repeat(np.arange(len(graphs)), sizes)).to(device)
        self.atomic_numbers = tensor([g.numbers for g in graphs])
        self.tags = tensor([g.tags for g in graphs])
        self.cell = tensor([g.cell[None] for g in graphs], dtype)
        self.pos = torch.zeros((int(sizes.sum()), 3), dtype=dtype, device=device, requires_grad=grad)
        self._edges = torch.from_numpy(np.concatenate([g.edges for g in graphs], axis=1) + shift).to(device)
        self._vectors = tensor([g.vectors for g in graphs], dtype)
        self._images = tensor([g.images for g in graphs])
        self._n_edges = torch.from_numpy(n_edges).to(device)

    def __getitem__(self, images: torch.Tensor) -> str:
        """For FairChem's warnings alone."""
        return f"{int(images.sum())} structures"

    def graph(self) -> Any:
        """What a network's own ``generate_graph`` gives."""
        from fairchem.core.models.base import GraphData

        starts, ends = self._edges
        vectors = self._vectors
        if self.pos.requires_grad:
            vectors = vectors + self.pos[starts] - self.pos[ends]
        return GraphData(
            edge_index=self._edges,
            edge_distance=vectors.norm(dim=-1),
            edge_distance_vec=vectors,
            cell_offsets=self._images,
            offset_distances=torch.zeros_like(vectors),
            neighbors=self._n_edges,
            batch_full=self.batch,
            atomic_numbers_full=self.atomic_numbers,
        )
