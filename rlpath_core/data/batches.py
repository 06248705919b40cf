"""Structures as graphs, and lists of graphs as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.neighbours import neighbour_images, periodic_vectors
from rlpath_core.structure import Structure

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Graph:
    """One structure with its periodic neighbour list.

    species    [n_atoms] int64, index into the model's list of elements
    positions  [n_atoms, 3], Å
    cell       [3, 3], Å
    edges      [2, n_edges] int64, sender and receiver, sorted by receiver; each pair is there in both directions
    shifts     [n_edges, 3], Å: vector of an edge = positions[receiver] - positions[sender] + shift
    """

    species: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    edges: NDArray[np.int64]
    shifts: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.species)

    @property
    def n_edges(self) -> int:
        return self.edges.shape[1]


def edges_and_images(structure: Structure, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The edges of ``Graph``, and the multiples of the lattice vectors that their shifts are made of: [n_edges, 3]."""
    pairs, images = neighbour_images(structure, cutoff)
    return pairs[::-1].copy(), -images


def build_graph(structure: Structure, cutoff: float, elements: NDArray[np.int64]) -> Graph:
    """The graph of a structure whose elements are all in ``elements`` (sorted atomic numbers)."""
    edges, images = edges_and_images(structure, cutoff)
    shifts = images @ periodic_vectors(structure)
    species = np.searchsorted(elements, structure.numbers)
    return Graph(species, structure.positions, structure.cell, edges, shifts)


def collate(
    graphs: Sequence[Graph], n_species: int, dtype: torch.dtype, device: torch.device | str, head: int = 0
) -> dict[str, Any]:
    """One batch as the mapping of tensors that MACE's ``forward`` takes; floats in ``dtype`` on ``device``."""
    import torch

    def tensor(array: NDArray[Any], kind: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(array).to(device=device, dtype=kind)

    sizes = np.array([len(g) for g in graphs])
    n_edges = np.array([g.n_edges for g in graphs])
    first = np.concatenate(([0], np.cumsum(sizes)))
    species = np.concatenate([g.species for g in graphs])
    node_attrs = np.zeros((len(species), n_species), np.float32)
    node_attrs[np.arange(len(species)), species] = 1
    edges = np.concatenate([g.edges for g in graphs], axis=1) + np.repeat(first[:-1], n_edges)
    return {
        "positions": tensor(np.concatenate([g.positions for g in graphs]), dtype),
        "cell": tensor(np.concatenate([g.cell for g in graphs]), dtype),
        "shifts": tensor(np.concatenate([g.shifts for g in graphs]), dtype),
        "node_attrs": tensor(node_attrs, dtype),
        "edge_index": tensor(edges, torch.int64),
        "batch": tensor(np.repeat(np.arange(len(graphs)), sizes), torch.int64),
        "ptr": tensor(first, torch.int64),
        "head": torch.full((len(graphs),), head, dtype=torch.int64, device=device),
    }
