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

from rlpath_core.dft.engines.ase_calculator import single_point
from rlpath_core.dft.engines.base import Calculation, PythonEngine
from rlpath_core.errors import InputError
from rlpath_core.spec.load import Section
from rlpath_core.structure import Structure

LAST_ELEMENT = 86
OUT_OF_DEPTH = 50.0
"""eV/Å. Cu(111) gives 1000; the hardest collisions of light atoms that sampling lets through give below 50."""
METAL_HINT = "GFN1-xTB does not describe metal slabs (forces of 1000 eV/Å on Cu(111)): use a DFT engine for metals"
GFN2_HINT = "GFN2-xTB seldom converges in periodic cells: use method GFN1-xTB"


class TbliteSettings(Section):
    method: Literal["GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"] = "GFN1-xTB"
    accuracy: float = Field(1.0, gt=0, description="numerical accuracy; smaller is tighter")
    max_iterations: int = Field(250, ge=1, description="SCF cycles")
    electronic_temperature: float = Field(300.0, ge=0, description="K")
    charge: int = 0
    multiplicity: int | None = Field(None, ge=1, description="2S+1; null: lowest, smeared by the temperature")


class TbliteEngine(PythonEngine):
    name: ClassVar[str] = "tblite"
    Settings: ClassVar[type[Section]] = TbliteSettings

    def require(self) -> None:
        if find_spec("tblite") is None:
            raise InputError("engine tblite is not installed: pip install 'rlpath[tblite]'")

    def refuse(self, structure: Structure) -> str | None:
        if structure.numbers.max() > LAST_ELEMENT:
            return f"{self.settings.method} knows elements up to radon (86), not {structure.numbers.max()}"
        return None

    def calculate(self, structures: Sequence[Structure]) -> list[Calculation]:
        return [self._one(structure) for structure in structures]

    def _one(self, structure: Structure) -> Calculation:
        from tblite.ase import TBLite

        # A new calculator each time: the old one's wave function as a guess would make labels depend on their order.
        # It prints its SCF cycles, which become the evidence in output.log.
        calculator: Any = TBLite(verbosity=1, **self.settings.model_dump())
        done = single_point(structure, calculator)
        done = replace(done, versions={**done.versions, "tblite": importlib.metadata.version("tblite")})
        periodic, method = bool(structure.pbc.any()), self.settings.method
        hint = ""
        if done.converged and done.forces is not None:
            largest = float(np.linalg.norm(done.forces, axis=1).max())
            if not largest <= OUT_OF_DEPTH and periodic and _metals(structure):
                reason = f"forces of {largest:.0f} eV/Å are not chemistry. {METAL_HINT}"
                return replace(done, converged=False, reason=reason)
        elif not done.converged:
            hint = GFN2_HINT if method == "GFN2-xTB" and periodic else METAL_HINT if _metals(structure) else ""
            return replace(done, reason=f"{done.reason}{'. ' + hint if hint else ''}")
        return done


def _metals(structure: Structure) -> bool:
    """Whether transition metals or their neighbours make up at least half of the atoms."""
    z = structure.numbers
    metal = ((z >= 21) & (z <= 31)) | ((z >= 39) & (z <= 50)) | ((z >= 57) & (z <= 83)) | (z == 13)
    return bool(metal.mean() >= 0.5)
