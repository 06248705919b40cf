"""How the LMDBs in this folder were made: Cu(111) with O, H or OH by ASE's EMT, written by FairChem 1.10's own classes.

Run in an environment with fairchem-core 1.10.0: ``python make.py``. ``train/data.0000.lmdb`` and ``val.lmdb`` have the
field names of OC20 and OC22 (y, force), ``train/data.0001.lmdb`` the newer ones that AtomsToGraphs writes (energy,
forces).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from fairchem.core.preprocessing import AtomsToGraphs
from fairchem.core.scripts.preprocess_ef import write_images_to_lmdb

HERE = Path(__file__).parent


class OC22Names(AtomsToGraphs):
    """Energy and forces under the names that the published OC20 and OC22 LMDBs have."""

    def convert(self, atoms, sid=None):
        data = super().convert(atoms, sid)
        data.y, data.force = data.energy, data.forces
        del data.energy, data.forces
        return data


def images(n: int, seed: int) -> list[Atoms]:
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0)
        adsorbate = [Atoms("O"), Atoms("H"), Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])][i % 3]
        add_adsorbate(atoms, adsorbate, height=generator.uniform(1.2, 1.9), position="fcc")
        atoms.set_tags([0] * 4 + [1] * 4 + [2] * len(adsorbate))
        atoms.set_constraint(FixAtoms(range(4)))
        atoms.pbc = True
        moved = np.arange(4, len(atoms))
        atoms.positions[moved] += generator.normal(0, 0.08, (len(moved), 3))
        labelled = atoms.copy()
        labelled.set_constraint()
        labelled.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=labelled.get_potential_energy(), forces=labelled.get_forces())
        found.append(atoms)
    return found


def write_lmdb(path: Path, converter: type[AtomsToGraphs], n: int, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    settings = {"r_energy": True, "r_forces": True, "r_fixed": True, "r_edges": False, "r_distances": False}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "0.extxyz", images(n, seed))
        log = Path(folder) / "0.txt"
        log.write_text("".join(f"random{seed},frame{i},0.0\n" for i in range(n)))
        options = argparse.Namespace(data_path=folder, ref_energy=False, test_data=False)
        write_images_to_lmdb((converter(**settings), str(path), [str(log)], [], 0, 0, options))
    Path(f"{path}-lock").unlink(missing_ok=True)


if __name__ == "__main__":
    write_lmdb(HERE / "train" / "data.0000.lmdb", OC22Names, 24, seed=1)
    write_lmdb(HERE / "train" / "data.0001.lmdb", AtomsToGraphs, 12, seed=2)
    write_lmdb(HERE / "val.lmdb", OC22Names, 12, seed=3)
