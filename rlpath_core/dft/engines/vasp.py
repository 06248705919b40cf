"""Engine ``vasp``: the Vienna Ab initio Simulation Package, inputs and their meaning; ``vasp_output.py`` reads answers.

https://www.vasp.at, doi:10.1103/PhysRevB.54.11169. VASP and its POTCARs are the user's own. Atoms go to VASP grouped by
species, in the order of ``potcar_symbols``; labels come back in the order of the structure.
"""

from __future__ import annotations

import gzip
import io
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, field_validator

from rlpath_core.config import Section
from rlpath_core.dft.engines.base import Calculation
from rlpath_core.dft.engines.periodic import centre_of_mass, charged_box, slab_axis
from rlpath_core.dft.engines.program import Ended, PeriodicEngine, PeriodicSettings, home
from rlpath_core.errors import InputError, nearest
from rlpath_core.files import atomic_write, sha256_of
from rlpath_core.structure import Structure


class Hubbard(Section):
    """On-site interaction of one element."""

    l: int = Field(2, ge=0, le=3)  # noqa: E741 - VASP's name
    """The angular momentum: 2 for d, 3 for f."""
    u: float
    """U, in eV."""
    j: float = 0.0
    """J, in eV."""


class VaspSettings(PeriodicSettings):
    preset: str = "oc22"
    """The name of a preset, or a YAML file of your own; keys given here take precedence over it."""
    command: list[str] = ["vasp_std"]
    """VASP, with the command that starts it in parallel: `mpirun -n 32 vasp_std`."""
    potcar_dir: Annotated[Path | None, AfterValidator(home)] = None
    """Your library of POTCARs: <symbol>/POTCAR as VASP ships it, or pymatgen's POTCAR.<symbol>.gz."""
    potcar_symbols: list[str] = []
    """The POTCARs, in the order of the species, such as [Mg_pv, O, H], or the path of a POTCAR.symbols file."""
    incar: dict[str, Any] = {}
    """INCAR keys; null removes one of the preset's."""
    hubbard: dict[str, Hubbard | None] = {}
    """LDAUL, LDAUU and LDAUJ of each element."""
    hubbard_anions: list[str] = []
    """Use U only if the most electronegative element is one of these; an empty list uses it always."""
    magmom: dict[str, float] = {}
    """The initial magnetic moment of each element, for structures whose atoms have none of their own."""
    default_magmom: float = 0.6
    """The initial magnetic moment of the other elements."""
    lmaxmix: bool = True
    """Set LMAXMIX to 4 with d elements and to 6 with f elements."""
    dipole: bool = True
    """Set LDIPOL, IDIPOL and DIPOL for slabs."""
    kpoint_centre: Literal["Gamma", "Monkhorst-Pack"] = "Gamma"
    """Where the grid of k-points is centred."""
    energy: Literal["free", "sigma0"] = "free"
    """free takes the energy whose gradient the forces are; sigma0 the one extrapolated to no smearing."""

    @field_validator("potcar_symbols", mode="before")
    @classmethod
    def _read_symbols(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return Path(value).expanduser().read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot be read ({error}): a list of POTCAR symbols, or a POTCAR.symbols file") from error

    @field_validator("potcar_symbols")
    @classmethod
    def _one_per_element(cls, symbols: list[str]) -> list[str]:
        for symbol in symbols:
            if element_of(symbol) not in atomic_numbers:
                raise ValueError(f"{symbol!r} begins with no element")
        elements = [element_of(symbol) for symbol in symbols]
        if twice := {element for element in elements if elements.count(element) > 1}:
            raise ValueError(f"two POTCARs for {', '.join(sorted(twice))}")
        return symbols

    @field_validator("incar")
    @classmethod
    def _single_point(cls, incar: dict[str, Any]) -> dict[str, Any]:
        for key, allowed in (("NSW", (0,)), ("IBRION", (-1,)), ("ISIF", (0, 1, 2))):
            if incar.get(key) is not None and incar[key] not in allowed:
                raise ValueError(f"{key} = {incar[key]}: labels are single points, so {key} is {allowed[0]}")
        for key in ("MAGMOM", "LDAUL", "LDAUU", "LDAUJ", "DIPOL"):
            if incar.get(key) is not None:
                where = {"MAGMOM": "magmom", "DIPOL": "dipole"}.get(key, "hubbard")
                raise ValueError(f"{key} is written from `{where}`, in the order of the species")
        return incar


class VaspEngine(PeriodicEngine):
    name: ClassVar[str] = "vasp"
    Settings: ClassVar[type[PeriodicSettings]] = VaspSettings
    machine: ClassVar[frozenset[str]] = PeriodicEngine.machine | {"potcar_dir"}
    outputs: ClassVar[tuple[str, ...]] = ("vasprun.xml", "OUTCAR", "OSZICAR", "CONTCAR", "vasp.out", "WAVECAR", "CHG*")
    scratch: ClassVar[tuple[str, ...]] = ("WAVECAR", "CHG", "CHGCAR", "PROCAR", "vaspwave.h5")
    log: ClassVar[str] = "vasp.out"

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        given = dict(settings or {})
        if isinstance(given.get("incar"), dict):  # before the preset's keys are laid under them
            given["incar"] = {str(key).upper(): value for key, value in given["incar"].items()}
        super().__init__(given)

    def identity(self) -> dict[str, Any]:
        """The POTCARs' digests beside their names: the same name means another file in another release."""
        found = {symbol: potcar(self.settings.potcar_dir, symbol) for symbol in self.settings.potcar_symbols}
        return super().identity() | {"potcars": {s: sha256_of(path) if path else None for s, path in found.items()}}

    def require(self) -> None:
        if find_spec("pymatgen") is None:
            raise InputError("engine vasp reads VASP's answers by pymatgen: pip install 'rlpath[vasp]'")
        if not self.settings.potcar_symbols:
            raise InputError("give the POTCARs of your elements, such as [Mg_pv, O, H]", "vasp", "potcar_symbols")
        for symbol in self.settings.potcar_symbols:
            self._potcar(symbol)
        super().require()

    def _potcar(self, symbol: str) -> Path:
        folder = self.settings.potcar_dir
        if folder is None:
            raise InputError("give the folder of your POTCAR library", "vasp", "potcar_dir")
        if not folder.is_dir():
            raise InputError("no such folder; it is your POTCAR library", folder, "potcar_dir")
        path = potcar(folder, symbol)
        if path is None:
            known = [entry.name for entry in folder.iterdir()]
            raise InputError(f"has no POTCAR of {symbol!r}.{nearest(symbol, known)}", folder, "potcar_dir")
        return path

    def refuse(self, structure: Structure) -> str | None:
        known = {element_of(symbol) for symbol in self.settings.potcar_symbols}
        if missing := sorted({chemical_symbols[z] for z in structure.numbers} - known):
            return f"no POTCAR for {', '.join(missing)}: add them to `potcar_symbols`"
        if np.linalg.det(self.boxed(structure).cell) < 0:
            return "VASP needs a right-handed cell: exchange two lattice vectors"
        incar = self.settings.incar
        if structure.magmoms.any():
            if incar.get("ISPIN") not in (None, 2):
                return f"has magnetic moments, and `incar: {{ISPIN: {incar['ISPIN']}}}` ignores them: leave one out"
            for key in ("LNONCOLLINEAR", "LSORBIT"):
                if incar.get(key):
                    return f"has one magnetic moment per atom, and `incar: {{{key}: true}}` needs three components"
        if incar.get("NELECT") is not None and not structure.pbc.all():
            return charged_box(f"incar: {{NELECT: {incar['NELECT']}}}")
        return None

    def order(self, structure: Structure) -> NDArray[np.int64]:
        """Indices of the structure's atoms in VASP's order: by species, as they came within each."""
        rank = {atomic_numbers[element_of(symbol)]: k for k, symbol in enumerate(self.settings.potcar_symbols)}
        return np.argsort([rank[z] for z in structure.numbers.tolist()], kind="stable")

    def inputs(self, folder: Path, structure: Structure) -> None:
        from ase.io.vasp import write_vasp

        s = self.settings
        sorted_atoms = structure.to_ase()[self.order(structure)]
        sorted_atoms.set_constraint()
        present = dict.fromkeys(sorted_atoms.get_chemical_symbols())
        symbols = [symbol for symbol in s.potcar_symbols if element_of(symbol) in present]
        poscar = io.StringIO()
        write_vasp(poscar, sorted_atoms, direct=False, vasp5=True)
        grid = self.kpoints(structure)
        texts = {
            "POSCAR": poscar.getvalue(),
            "INCAR": "".join(f"{key} = {incar_text(value)}\n" for key, value in self.incar(structure).items()),
            "KPOINTS": f"rlpath\n0\n{s.kpoint_centre}\n{' '.join(map(str, grid))}\n0 0 0\n",
            "POTCAR.symbols": "".join(f"{symbol}\n" for symbol in symbols),
        }
        for name, text in texts.items():
            with atomic_write(folder / name) as stream:
                stream.write(text)
        with atomic_write(folder / "POTCAR", "wb") as stream:
            for symbol in symbols:
                content = self._potcar(symbol).read_bytes()
                stream.write(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)

    def incar(self, structure: Structure) -> dict[str, Any]:
        """INCAR keys and values; those by atom and by species in VASP's order."""
        s = self.settings
        symbols = [chemical_symbols[z] for z in structure.numbers[self.order(structure)]]
        species = [symbol for symbol, _ in groupby(symbols)]
        out = {key: value for key, value in s.incar.items() if value is not None}
        if structure.magmoms.any():
            out |= {"ISPIN": 2, "MAGMOM": structure.magmoms[self.order(structure)].tolist()}
        elif out.get("ISPIN") == 2:
            out["MAGMOM"] = [s.magmom.get(symbol, s.default_magmom) for symbol in symbols]
        interacting = {symbol: s.hubbard[symbol] for symbol in species if s.hubbard.get(symbol) is not None}
        if any(u.u or u.j for u in interacting.values()) and self._has_anion(species):
            table = [interacting.get(symbol) or Hubbard(l=0, u=0.0) for symbol in species]
            out = {"LDAU": True, "LDAUTYPE": 2} | out
            out |= {"LDAUL": [u.l for u in table], "LDAUU": [u.u for u in table], "LDAUJ": [u.j for u in table]}
        else:
            out = {key: value for key, value in out.items() if not key.startswith("LDAU")}
        if s.lmaxmix and "LMAXMIX" not in out and structure.numbers.max() > 20:
            out["LMAXMIX"] = 6 if structure.numbers.max() > 56 else 4
        axis = slab_axis(structure)
        if s.dipole and axis is not None:
            out |= {"LDIPOL": True, "IDIPOL": axis + 1}
            out["DIPOL"] = np.round(centre_of_mass(structure), 6).tolist()
        return out

    def _has_anion(self, species: list[str]) -> bool:
        """Whether these elements' U values were meant for what they are bound to, as in the Materials Project."""
        anions = self.settings.hubbard_anions
        return not anions or max(species, key=lambda symbol: ELECTRONEGATIVITY.get(symbol, 0.0)) in anions

    def outcome(self, folder: Path, structure: Structure, ended: Ended) -> Calculation:
        from rlpath_core.dft.engines.vasp_output import read_vasprun

        return read_vasprun(folder, structure, self.order(structure), ended, self.settings.energy)


ELECTRONEGATIVITY = {
    "F": 3.98,
    "O": 3.44,
    "Cl": 3.16,
    "N": 3.04,
    "Br": 2.96,
    "I": 2.66,
    "S": 2.58,
    "C": 2.55,
    "Se": 2.55,
}
"""Pauling's, of what is more electronegative than any metal that takes a U."""


def element_of(symbol: str) -> str:
    """``Mg`` of ``Mg_pv``."""
    return symbol.split("_")[0].split(".")[0]


def potcar(library: Path | None, symbol: str) -> Path | None:
    """The POTCAR of ``symbol`` in a library, in any of the usual layouts."""
    if library is None:
        return None
    names = (f"{symbol}/POTCAR", f"{symbol}/POTCAR.gz", f"POTCAR.{symbol}", f"POTCAR.{symbol}.gz")
    return next((library / name for name in names if (library / name).is_file()), None)


def incar_text(value: Any) -> str:
    """As VASP reads it: Fortran's logicals, lists by spaces, equal neighbours as ``4*0.6``."""
    if isinstance(value, bool):
        return ".TRUE." if value else ".FALSE."
    if isinstance(value, list | tuple):
        runs = [(len(list(same)), incar_text(one)) for one, same in groupby(value)]
        return " ".join(f"{count}*{text}" if count > 1 else text for count, text in runs)
    return str(value)
