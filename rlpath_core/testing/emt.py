"""Effective medium theory as a ``Model``: real physics without a download, for tests of everything above a model.

EMT (doi:10.1016/0039-6028(96)00816-3) as implemented in ASE; it knows H, C, N, O, Al, Ni, Cu, Pd, Ag, Pt and Au.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from ase.calculators.emt import EMT

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.geometry.cell import closed_cell
from rlpath_core.structure import Structure


class EMTModel(Model):
    """ASE's EMT behind the interface of a backend. ASE has no batches: this is a loop, and for tests only.

    ``batches`` keeps the sizes of the batches asked for.
    """

    backend = "emt"
    has_embeddings = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256(b"ase-emt").hexdigest()
        self.elements = frozenset({1, 6, 7, 8, 13, 28, 29, 46, 47, 78, 79})
        self.device = "cpu"
        self.batches: list[int] = []

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        self.batches.append(len(structures))
        out = []
        for structure in structures:
            atoms = structure.to_ase()
            atoms.set_constraint()
            atoms.cell = closed_cell(structure)
            atoms.calc = EMT()
            energy = float(atoms.get_potential_energy())
            out.append(Prediction(energy, np.array(atoms.get_forces()) if forces else None))
        return out
