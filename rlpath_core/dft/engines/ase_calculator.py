"""Engine ``ase``: any ASE calculator, by import path and keyword arguments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from rlpath_core.config import Section
from rlpath_core.dft.engines.base import Calculation, PythonEngine
from rlpath_core.registry import import_name
from rlpath_core.structure import Structure


class AseSettings(Section):
    calculator: str
    """The class of the calculator as `package.module:Class`, such as ase.calculators.emt:EMT."""
    kwargs: dict[str, Any] = {}
    """The keyword arguments of the calculator."""
    force_consistent: bool = False
    """Take the free energy, whose gradient the forces are, if it differs from the energy."""


def single_point(structure: Structure, calculator: Any, force_consistent: bool = False) -> Calculation:
    """Energy and forces of ``structure``, no constraints. A calculator that raises is an unconverged calculation."""
    import ase

    atoms = structure.to_ase()
    atoms.set_constraint()
    atoms.calc = calculator
    began = time.monotonic()
    versions = {"ase": ase.__version__}
    evidence: dict[str, Any] = {"calculator": type(calculator).__name__}
    try:
        forces = np.array(atoms.get_forces(), dtype=float)
        energy = float(atoms.get_potential_energy(force_consistent=force_consistent))
        converged = getattr(calculator, "converged", None)
        converged = converged() if callable(converged) else converged
    except Exception as error:  # calculators raise whatever their programs do
        evidence["error"] = type(error).__name__
        return Calculation(False, f"{error}", evidence=evidence, versions=versions, seconds=time.monotonic() - began)
    evidence["converged"] = converged
    return Calculation(
        converged=converged is None or bool(converged),
        reason=None if converged is None or converged else "the calculator says that it did not converge",
        failure=None if converged is None or converged else "scf",
        energy=energy,
        forces=forces,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        evidence=evidence,
        versions=versions,
        seconds=time.monotonic() - began,
    )


class AseEngine(PythonEngine):
    """A fresh calculator for every structure, so that no label depends on what was calculated before it."""

    name: ClassVar[str] = "ase"
    Settings: ClassVar[type[Section]] = AseSettings

    def require(self) -> None:
        import_name(self.settings.calculator, "ASE calculator")

    def remark(self, structure: Structure) -> str | None:
        if structure.pbc.any() and not structure.pbc.all():
            return (
                "is not periodic in all directions, and what the calculator makes of that is its own affair; many "
                "repeat the given cell in all three"
            )
        return None

    def calculate(self, structures: Sequence[Structure]) -> list[Calculation]:
        make: Any = import_name(self.settings.calculator, "ASE calculator")
        return [single_point(s, make(**self.settings.kwargs), self.settings.force_consistent) for s in structures]
