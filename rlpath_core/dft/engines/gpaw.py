"""Engine ``gpaw``: projector-augmented waves, in the Python that GPAW is installed in.

https://gpaw.readthedocs.io, doi:10.1063/5.0182685. Tested with Debian's package (22.8). ``gpaw_single_point.py`` is
copied into the job's folder and runs there beside ``gpaw.json``: the same calculation by hand is
``python3 gpaw_single_point.py`` in that folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from ase.data import chemical_symbols
from pydantic import Field

from rlpath_core.dft.engines.base import Calculation
from rlpath_core.dft.engines.periodic import charged_box, gap_along, slab_axis
from rlpath_core.dft.engines.program import Ended, PeriodicEngine, PeriodicSettings, last_words
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, write_json
from rlpath_core.geometry.cell import Floats, fractional
from rlpath_core.structure import Structure

SCRIPT = Path(__file__).with_name("gpaw_single_point.py")
INPUT, ANSWER, TEXT = "gpaw.json", "gpaw_answer.json", "gpaw.txt"
AXES = ("yz", "xz", "xy")


class GpawSettings(PeriodicSettings):
    command: list[str] = ["/usr/bin/python3"]
    """A Python that has gpaw, with the command that starts it in parallel: `mpiexec -n 4 gpaw python`."""
    mode: Literal["pw", "fd", "lcao"] = "pw"
    """The basis: plane waves, a real-space grid, or atomic orbitals."""
    ecut: float = Field(350.0, gt=0)
    """The plane-wave cutoff of mode pw, in eV."""
    h: float | None = Field(None, gt=0)
    """The grid spacing, in Å; null takes GPAW's own."""
    xc: str = "PBE"
    """The exchange-correlation functional."""
    smearing: float = Field(0.1, ge=0)
    """The Fermi-Dirac width, in eV."""
    magmom: dict[str, float] = {}
    """The initial magnetic moment of each element; if there is any, the calculation is spin-polarised. Moments of the
    structure's atoms take precedence."""
    setups: dict[str, str] = {}
    """The setup of each element, such as `Ni: ':d,6.0'` for a Hubbard U."""
    charge: float = 0.0
    """The total charge, in e."""
    dipole: bool = True
    """Apply a dipole layer in the vacuum of a slab."""
    max_iterations: int = Field(333, ge=1)
    """The largest number of SCF cycles."""
    convergence: dict[str, float] = {}
    """GPAW's convergence criteria by their names: energy, density, ..."""
    parameters: dict[str, Any] = {}
    """Any other keyword of GPAW."""


class GpawEngine(PeriodicEngine):
    name: ClassVar[str] = "gpaw"
    Settings: ClassVar[type[PeriodicSettings]] = GpawSettings
    outputs: ClassVar[tuple[str, ...]] = (ANSWER, TEXT)
    install: ClassVar[str] = "apt-get install gpaw gpaw-data"

    def program(self, folder: Path) -> list[str]:
        return [*self.settings.command, SCRIPT.name]

    def refuse(self, structure: Structure) -> str | None:
        s = self.settings
        if structure.magmoms.any():
            if s.parameters.get("spinpol") is False:
                return "has magnetic moments, and `parameters: {spinpol: false}` forbids them: leave one of the two out"
            if s.parameters.get("hund"):
                return "has magnetic moments, and `parameters: {hund: true}` sets others: leave one of the two out"
        if s.charge and not structure.pbc.all() and (s.mode == "pw" or structure.pbc.any()):
            return charged_box(f"charge: {s.charge:g}")
        return None

    def inputs(self, folder: Path, structure: Structure) -> None:
        s = self.settings
        axis = slab_axis(structure) if s.dipole and structure.pbc.any() else None
        # Plane waves repeat everything; on a grid and with orbitals an open direction is really open.
        pbc = np.ones(3, bool) if s.mode == "pw" else structure.pbc.copy()
        parameters: dict[str, Any] = {
            "mode": {"name": "pw", "ecut": s.ecut} if s.mode == "pw" else s.mode,
            "xc": s.xc,
            "charge": s.charge,
            "maxiter": s.max_iterations,
            "occupations": {"name": "fermi-dirac", "width": s.smearing},
            "symmetry": {"point_group": False},
        }
        grid = self.kpoints(structure)
        if structure.pbc.any():
            parameters["kpts"] = {"size": list(grid), "gamma": True}
        if axis is not None:  # GPAW's dipole layer lies at the boundary of a direction that is not periodic
            pbc[axis] = False
            parameters["poissonsolver"] = {"dipolelayer": AXES[axis]}
        optional = {"h": s.h, "setups": s.setups, "convergence": s.convergence}
        parameters |= {key: value for key, value in optional.items() if value}
        magmoms = structure.magmoms.tolist()
        if not any(magmoms):
            magmoms = [s.magmom.get(chemical_symbols[z], 0.0) for z in structure.numbers]
        value = {
            "numbers": structure.numbers.tolist(),
            "positions": (structure.positions + shift(structure, axis)).tolist(),
            "cell": structure.cell.tolist(),
            "pbc": pbc.tolist(),
            "magmoms": magmoms if any(magmoms) else None,
            "parameters": parameters | s.parameters,
        }
        write_json(folder / INPUT, value)
        with atomic_write(folder / SCRIPT.name, "wb") as stream, open(SCRIPT, "rb") as source:
            shutil.copyfileobj(source, stream)

    def outcome(self, folder: Path, structure: Structure, ended: Ended) -> Calculation:
        try:
            answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            said = last_words(ended.log, folder / TEXT)
            if "No module named 'gpaw'" in said:
                raise InputError(self.missing("gpaw")) from None
            raise InputError(f"GPAW ended with exit code {ended.code} and no answer{said}") from None
        versions, evidence = dict(answer["versions"]), {"iterations": answer.get("iterations")}
        if answer["error"] is not None:
            scf = answer["kind"] == "KohnShamConvergenceError"
            reason = f"GPAW: {answer['error']}"
            return Calculation(False, reason, "scf" if scf else None, evidence=evidence, versions=versions)
        axis = slab_axis(structure) if self.settings.dipole and structure.pbc.any() else None
        return Calculation(
            converged=answer["converged"] is True,
            reason=None if answer["converged"] is True else "GPAW's SCF did not converge",
            failure=None if answer["converged"] is True else "scf",
            energy=float(answer["energy"]),
            forces=np.array(answer["forces"], float),
            numbers=np.array(answer["numbers"], np.int64),
            positions=np.array(answer["positions"], float) - shift(structure, axis),
            cell=np.array(answer["cell"], float),
            evidence=evidence | {"converged": answer["converged"]},
            versions=versions,
        )


def shift(structure: Structure, axis: int | None) -> Floats:
    """[n_atoms, 3] Å: what makes a slab whole and centres it along a direction that GPAW must not repeat."""
    moved = np.zeros_like(structure.positions)
    if axis is not None:
        along = fractional(structure.positions, structure.cell)[:, axis]
        gap = gap_along(structure, axis)
        inside = (along - gap.middle) % 1.0  # 0 and 1 lie in the middle of the vacuum
        moved = (inside - along)[:, None] * structure.cell[axis]
    return moved
