"""Periodic directions of LMDB entries: ours as FairChem reads them, FairChem's as we do."""

import pickle

import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list

from rlpath_core.data import Labelled, read_labelled, write_labelled
from rlpath_core.evaluation import evaluate
from rlpath_core.structure import Structure

CUTOFF = 4.5


def systems():
    """Molecules in a box that is too small for them, as a shake of the positions makes several of one."""
    generator = np.random.default_rng(5)
    found = []
    for _ in range(4):
        atoms = molecule("H2O", cell=[3.5, 3.5, 3.5], pbc=False)
        atoms.positions += 1.7 + generator.normal(0, 0.1, atoms.positions.shape)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def theirs(saved, tmp_path_factory):
    """An LMDB as FairChem's converter makes it, with pbc F F F; the labels are what FairChem's calculator says."""
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator
    from fairchem.core.preprocessing import AtomsToGraphs

    calculator = OCPCalculator(checkpoint_path=saved("gemnet"), cpu=True, seed=0)
    convert = AtomsToGraphs(r_edges=False, r_pbc=True, r_energy=True, r_forces=True).convert
    path = tmp_path_factory.mktemp("theirs") / "molecules.lmdb"
    env = lmdb.open(str(path), subdir=False, map_size=1 << 24)
    with env.begin(write=True) as transaction:
        for n, atoms in enumerate(systems()):
            calculator.calculate(atoms, ["energy", "forces"], [])
            atoms.calc = SinglePointCalculator(atoms, **calculator.results)
            transaction.put(str(n).encode(), pickle.dumps(convert(atoms, n), protocol=-1))
        transaction.put(b"length", pickle.dumps(n + 1))
    env.close()
    return path


def test_molecules_have_no_images(theirs, saved, loaded):
    """GemNet-OC on molecules in small boxes: our errors are those of FairChem's trainer on its own data set."""
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator
    from fairchem.core.datasets import LmdbDataset, data_list_collater

    labelled = read_labelled(theirs)
    assert not any(one.structure.pbc.any() for one in labelled)
    trainer = OCPCalculator(checkpoint_path=saved("gemnet"), cpu=True, seed=0).trainer
    data = LmdbDataset({"src": str(theirs)})
    answers = [
        trainer.predict(data_list_collater([data[n]], otf_graph=True), per_image=False, disable_tqdm=True)
        for n in range(len(data))
    ]
    energies = np.array([float(answer["energy"].flatten()[0]) for answer in answers])
    references = np.array([float(data[n].energy) for n in range(len(data))])
    expected = np.abs(energies - references).mean()
    found = evaluate(loaded("gemnet"), labelled)
    assert found["energy_mae"] == pytest.approx(expected, abs=5e-4)  # float32 there
    assert found["energy_mae"] < 1e-3
    assert found["force_mae"] < 1e-4
    crystals = [
        Labelled(Structure(s.numbers, s.positions, s.cell, [True] * 3), one.energy, one.forces)
        for one in labelled
        for s in [one.structure]
    ]
    assert evaluate(loaded("gemnet"), crystals)["energy_mae"] > 0.05  # what taking them as periodic would say


def test_fairchem_reads_ours(tmp_path):
    """One row of pbc for every structure of a batch, and the edges of ASE's neighbour list for each of them."""
    from fairchem.core.common.utils import radius_graph_pbc
    from fairchem.core.datasets import LmdbDataset, data_list_collater

    slab = Atoms("MgOMgO", [[0, 0, 5], [2.1, 0, 5], [2.1, 2.1, 5], [0, 2.1, 5]], cell=[4.2, 4.2, 0], pbc=(1, 1, 0))
    boxed, free = systems()[0], molecule("CH3OH")
    crystal = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    images = [slab, boxed, free, crystal]
    labelled = [Labelled(Structure.from_ase(a), -1.0, np.zeros((len(a), 3)), "x") for a in images]
    write_labelled(tmp_path / "ours.lmdb", labelled)
    data = LmdbDataset({"src": str(tmp_path / "ours.lmdb")})
    for n, atoms in enumerate(images):
        batch = data_list_collater([data[n], data[n]], otf_graph=True)
        assert batch.pbc.tolist() == [atoms.pbc.tolist()] * 2
        edges, offsets, _ = radius_graph_pbc(batch, CUTOFF, 1000)
        cells = torch.repeat_interleave(batch.cell, torch.bincount(batch.batch[edges[1]], minlength=2), dim=0)
        vectors = batch.pos[edges[0]] - batch.pos[edges[1]] + torch.einsum("ni,nij->nj", offsets, cells)
        found = np.sort(vectors.norm(dim=1).numpy())
        np.testing.assert_allclose(found, np.sort(np.tile(neighbor_list("d", atoms, CUTOFF), 2)), atol=1e-5)
    with pytest.raises(RuntimeError, match="different PBC"):
        radius_graph_pbc(data_list_collater([data[0], data[3]], otf_graph=True), CUTOFF, 1000)
