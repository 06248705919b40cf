"""Neighbour lists against ASE's own, in every kind of periodicity."""

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list

from rlpath_core.data.batches import build_graph, collate
from rlpath_core.structure import Structure

TRICLINIC = np.array([[3.1, 0, 0], [1.2, 3.4, 0], [-0.8, 0.9, 3.9]])


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("spread", [1.0, 3.0], ids=["inside", "far outside the cell"])
def test_neighbours_equal_ase(pbc, spread):
    generator = np.random.default_rng(sum(pbc))
    positions = spread * generator.uniform(-1, 2, (40, 3)) @ TRICLINIC
    cell = TRICLINIC if any(pbc) else np.zeros((3, 3))
    structure = Structure(np.full(40, 29), positions, cell, np.array(pbc, bool))
    graph = build_graph(structure, 4.5, np.array([29]))
    edges, shifts = graph.edges, graph.shifts
    i, j, vectors = primitive_neighbor_list("ijD", np.array(pbc, bool), TRICLINIC, positions, 4.5)
    ours = positions[edges[1]] - positions[edges[0]] + shifts

    def rows(i, j, vectors):
        table = np.column_stack((i, j, np.round(vectors, 6) + 0.0))
        return table[np.lexsort(table.T[::-1])]

    assert len(i) > 0
    np.testing.assert_allclose(rows(*edges, ours), rows(i, j, vectors), atol=1e-5)


def test_collate_offsets_and_one_hot():
    import torch

    elements = np.array([1, 8])
    structures = [
        Structure(np.array([8, 1]), np.array([[0, 0, 0], [0, 0, 1.0]])),
        Structure(np.array([1]), np.zeros((1, 3))),
    ]
    structures.append(structures[0])
    batch = collate([build_graph(s, 2.0, elements) for s in structures], 2, torch.float64, "cpu", head=1)
    assert batch["edge_index"].tolist() == [[1, 0, 4, 3], [0, 1, 3, 4]]
    assert batch["batch"].tolist() == [0, 0, 1, 2, 2]
    assert batch["ptr"].tolist() == [0, 2, 3, 5]
    assert batch["head"].tolist() == [1, 1, 1]
    assert batch["node_attrs"].tolist() == [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]]
