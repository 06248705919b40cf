"""Structures as graphs, and lists of graphs as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


def neighbours(structure: Structure, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Edges [2, n_edges], sorted by receiver, and their shifts [n_edges, 3] (Å) within ``cutoff`` Å, images of an atom
    itself included."""
    edges, images = neighbour_images(structure, cutoff)
    return edges[::-1].copy(), -images @ (structure.cell * structure.pbc[:, None])


def neighbour_images(structure: Structure, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges [2, n_edges], sorted by sender, and the cell [n_edges, 3] that the receiver lies in.

    Open directions get a box around the atoms that is only used for binning; there are no images along them.
    """
    from matscipy.neighbours import neighbour_list

    positions, cell, pbc, origin = structure.positions, structure.cell, structure.pbc, np.zeros(3)
    if not pbc.all():
        from ase.geometry import complete_cell

        cell = np.array(complete_cell(cell * pbc[:, None]))
        along = positions @ cell[~pbc].T  # the completed vectors are orthonormal
        low = along.min(axis=0)
        # A few atoms far apart must not ask for millions of bins; what lies outside the box is still found.
        extent = np.clip(np.ptp(along, axis=0), 1.0, cutoff * (len(positions) + 1))
        origin = low @ cell[~pbc]
        cell[~pbc] *= extent[:, None]
    i, j, image = neighbour_list("ijS", positions=positions, cell=cell, pbc=pbc, cutoff=cutoff, cell_origin=origin)
    return np.stack((i, j)).astype(np.int64), image.astype(np.int64) * structure.pbc


def build_graph(structure: Structure, cutoff: float, elements: NDArray[np.int64]) -> Graph:
    """The graph of a structure whose elements are all in ``elements`` (sorted atomic numbers)."""
    edges, shifts = neighbours(structure, cutoff)
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
