"""Engine ``tblite``: extended tight binding, the embedded default.

GFN1-xTB, doi:10.1021/acs.jctc.7b00118; GFN2-xTB, doi:10.1021/acs.jctc.8b01176; https://github.com/tblite/tblite.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from rlpath_core.config import Section
from rlpath_core.dft.engines.ase_calculator import single_point
from rlpath_core.dft.engines.base import Calculation, PythonEngine
from rlpath_core.dft.engines.periodic import boxed, charged_box, little_vacuum, unboxed
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

LAST_ELEMENT = 86
METAL_SLAB = (
    "xTB without k-points does not describe metal slabs (Cu(111) with CO, atoms rattled by 0.05 Å: forces up to "
    "18 eV/Å): use a DFT engine for them, or set `allow_metals: true`"
)
STEP = 100.0
"""Å: a cell around what is periodic in one or two directions is a whole multiple of it long, so that all structures
of a campaign are calculated in the same: tblite's energies depend on it, if little."""
GFN2_HINT = "GFN2-xTB seldom converges in periodic cells: use method GFN1-xTB"


class TbliteSettings(Section):
    method: Literal["GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"] = "GFN1-xTB"
    """The xTB method; GFN2-xTB seldom converges in periodic cells."""
    accuracy: float = Field(1.0, gt=0)
    """The numerical accuracy; smaller is tighter."""
    max_iterations: int = Field(250, ge=1)
    """The largest number of SCF cycles."""
    electronic_temperature: float = Field(300.0, ge=0)
    """The electronic temperature, in K."""
    charge: int = 0
    """The total charge, in e."""
    allow_metals: bool = False
    """Calculate periodic structures that are mostly transition metal, which xTB without k-points does not describe."""
    multiplicity: int | None = Field(None, ge=1)
    """The spin multiplicity 2S+1; null takes the lowest, smeared by the temperature. xTB takes no moments per atom."""
    vacuum: float = Field(300.0, ge=5)
    """The least vacuum between the atoms and their images along a direction that is not periodic, if another is, in Å.
    docs/engines.md has the errors of smaller ones. Molecules are calculated without a box."""


class TbliteEngine(PythonEngine):
    name: ClassVar[str] = "tblite"
    Settings: ClassVar[type[Section]] = TbliteSettings

    def require(self) -> None:
        if find_spec("tblite") is None:
            raise InputError("engine tblite is not installed: pip install 'rlpath[tblite]'")

    def refuse(self, structure: Structure) -> str | None:
        if structure.numbers.max() > LAST_ELEMENT:
            return f"{self.settings.method} knows elements up to radon (86), not {structure.numbers.max()}"
        if structure.pbc.any() and _metals(structure) and not self.settings.allow_metals:
            return METAL_SLAB
        if structure.magmoms.any() and self.settings.multiplicity is None:
            return (
                "has magnetic moments, and xTB takes none per atom: set `multiplicity` to 2S+1 of the whole, or leave "
                "the moments out"
            )
        if self.settings.charge and structure.pbc.any() and not structure.pbc.all():
            return charged_box(f"charge: {self.settings.charge}")
        return None

    def remark(self, structure: Structure) -> str | None:
        return little_vacuum(structure)

    def safer(self) -> dict[str, Any]:
        return self.resolved() | {"max_iterations": 4 * self.settings.max_iterations}

    def calculate(self, structures: Sequence[Structure]) -> list[Calculation]:
        return [self._one(structure) for structure in structures]

    def _one(self, structure: Structure) -> Calculation:
        from tblite.ase import TBLite

        # A new calculator each time: the old one's wave function as a guess would make labels depend on their order.
        # It prints its SCF cycles, which become the evidence in output.log.
        calculator: Any = TBLite(verbosity=1, **self.settings.model_dump(exclude={"allow_metals", "vacuum"}))
        box = structure
        if structure.pbc.any():  # tblite repeats in three directions whatever is periodic in one
            box = boxed(structure, self.settings.vacuum, STEP)
        # tblite would take the sum of the moments for the number of unpaired electrons.
        done = unboxed(single_point(replace(box, magmoms=np.zeros(len(box))), calculator), structure, box)
        done = replace(done, versions={**done.versions, "tblite": importlib.metadata.version("tblite")})
        if "SCF not converged" in (done.reason or ""):
            done = replace(done, failure="scf")
        if not done.converged and self.settings.method == "GFN2-xTB" and structure.pbc.any():
            return replace(done, reason=f"{done.reason}. {GFN2_HINT}")
        return done


def _metals(structure: Structure) -> bool:
    """Whether at least half of the atoms are Al or metals of the d and f blocks."""
    z = structure.numbers
    metal = ((z >= 21) & (z <= 31)) | ((z >= 39) & (z <= 50)) | ((z >= 57) & (z <= 83)) | (z == 13)
    return bool(metal.mean() >= 0.5)
