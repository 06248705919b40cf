"""A structure with its reference energy and forces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.structure import Structure


@dataclass(frozen=True, eq=False)
class Labelled:
    """A structure and what the reference method says of it.

    energy  total energy, eV
    forces  [n_atoms, 3], eV/Å, read-only
    sid     where it came from: a job id, a frame, the id in a data set
    """

    structure: Structure
    energy: float
    forces: NDArray[np.float64]
    sid: str = ""

    def __post_init__(self) -> None:
        try:
            energy = float(self.energy)
            forces = np.array(self.forces, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"energy or forces are not numbers ({error})") from error
        if not np.isfinite(energy):
            raise InputError(f"the energy is not a finite number, got {energy}")
        if forces.shape != (len(self.structure), 3):
            raise InputError(f"forces have shape {forces.shape}, expected {(len(self.structure), 3)}")
        if not np.isfinite(forces).all():
            raise InputError("forces hold a value that is not a finite number")
        forces.setflags(write=False)
        object.__setattr__(self, "energy", energy)
        object.__setattr__(self, "forces", forces)
