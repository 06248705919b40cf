"""Engine ``espresso``: pw.x of Quantum ESPRESSO.

https://www.quantum-espresso.org, doi:10.1088/1361-648X/aa8f79. Tested with Debian's 6.7. Inputs by ASE; the answer is
read from pw.x's own XML, whose numbers have all digits (the printed ones would not show whether atoms have moved).
"JOB DONE." is printed after an SCF that ran out of steps too, and says nothing.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from pydantic import AfterValidator, Field, field_validator

from rlpath_core.dft.engines.base import Calculation
from rlpath_core.dft.engines.periodic import charged_box, gap_along, same_image, slab_axis
from rlpath_core.dft.engines.program import Ended, PeriodicEngine, PeriodicSettings, home, last_words, tail
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, sha256_of
from rlpath_core.structure import Structure

INPUT, PREFIX = "pw.in", "pwscf"
NOT_CONVERGED = "convergence NOT achieved"
MOST_SPECIES = 10
"""ntypx of pw.x."""
DIPOLE_WIDTH = 0.05
"""Fraction of the cell over which the saw-tooth falls back, in the middle of the vacuum."""


class EspressoSettings(PeriodicSettings):
    command: list[str] = ["pw.x"]
    """pw.x, with the command that starts it in parallel: `mpirun -n 4 pw.x`."""
    pseudo_dir: Annotated[Path, AfterValidator(home)] = Path("/usr/share/espresso/pseudo")
    """The folder of the pseudopotentials."""
    pseudopotentials: dict[str, str] = {}
    """The file of each element's pseudopotential."""
    ecutwfc: float = Field(50.0, gt=0)
    """The cutoff of the wave functions, in Ry."""
    ecutrho: float | None = Field(None, gt=0)
    """The cutoff of the density, in Ry; null takes 8 x ecutwfc, as ultrasoft and PAW pseudopotentials need."""
    magnetization: dict[str, float] = {}
    """starting_magnetization of each element, from -1 to 1 (a fraction of the valence electrons); if there is any, the
    calculation is spin-polarised (nspin = 2). Moments of the structure's atoms take precedence."""
    hubbard_u: dict[str, float] = {}
    """U of each element, in eV, for pw.x before 7.1; later versions need a HUBBARD card."""
    dipole: bool = True
    """Apply a dipole correction in the vacuum of a slab (tefield, dipfield), unless `input` has assume_isolated."""
    input: dict[str, dict[str, Any]] = {}
    """Any other key of the input, by namelist: control, system, electrons."""
    cards: list[str] = []
    """Any other card, as it stands in the input."""

    @field_validator("pseudopotentials")
    @classmethod
    def _elements(cls, files: dict[str, str]) -> dict[str, str]:
        for symbol in files:
            if symbol not in atomic_numbers:
                raise ValueError(f"{symbol!r} is no element")
        return files


class EspressoEngine(PeriodicEngine):
    name: ClassVar[str] = "espresso"
    Settings: ClassVar[type[PeriodicSettings]] = EspressoSettings
    machine: ClassVar[frozenset[str]] = PeriodicEngine.machine | {"pseudo_dir"}
    outputs: ClassVar[tuple[str, ...]] = ("out", "pw.out", "CRASH")
    scratch: ClassVar[tuple[str, ...]] = (f"out/{PREFIX}.save", f"out/{PREFIX}.wfc*", f"out/{PREFIX}.mix*")
    log: ClassVar[str] = "pw.out"
    install: ClassVar[str] = "apt-get install quantum-espresso"

    def identity(self) -> dict[str, Any]:
        """The pseudopotentials' digests in place of their names."""
        found = {symbol: self._file(symbol) for symbol in self.settings.pseudopotentials}
        digests = {symbol: sha256_of(path) if path.is_file() else path.name for symbol, path in found.items()}
        return super().identity() | {"pseudopotentials": digests}

    def require(self) -> None:
        super().require()
        if not self.settings.pseudo_dir.is_dir():
            raise InputError("no such folder of pseudopotentials", self.settings.pseudo_dir, "pseudo_dir")
        if not self.settings.pseudopotentials:
            raise InputError("give a file by element, or `preset: debian`", "espresso", "pseudopotentials")
        for symbol in self.settings.pseudopotentials:
            if not self._file(symbol).is_file():
                raise InputError(f"no such pseudopotential of {symbol}", self._file(symbol), "pseudopotentials")

    def refuse(self, structure: Structure) -> str | None:
        symbols = {chemical_symbols[z] for z in structure.numbers}
        if missing := sorted(symbols - set(self.settings.pseudopotentials)):
            return f"no pseudopotential for {', '.join(missing)}: add them to `pseudopotentials`"
        system = {str(key).lower(): value for key, value in self._given("system").items() if value is not None}
        if structure.magmoms.any():
            if system.get("nspin") not in (None, 2) or system.get("noncolin"):
                key = "noncolin" if system.get("noncolin") else "nspin"
                return (
                    f"has magnetic moments along z, and `input: {{system: {{{key}: {system[key]}}}}}` is at odds with "
                    "them: leave one out"
                )
            if numbered := sorted(key for key in system if "(" in key):
                return (
                    f"has magnetic moments, which split elements into species, and {', '.join(numbered)} in "
                    "`input: {system: ...}` count the species themselves: leave one out"
                )
            if (beyond := self._beyond(structure)) is not None:
                return beyond
        if system.get("tot_charge") and "assume_isolated" not in system and not structure.pbc.all():
            return charged_box(f"input: {{system: {{tot_charge: {system['tot_charge']}}}}}")
        return None

    def _beyond(self, structure: Structure) -> str | None:
        """Why pw.x cannot start from these moments, or None."""
        species = species_of(structure)
        if len(set(species)) > MOST_SPECIES:
            return (
                f"has {len(set(species))} species of element and magnetic moment, and pw.x takes {MOST_SPECIES}: round "
                "the moments"
            )
        for symbol, moment in set(species):
            try:
                valence = valence_of(self._file(symbol))
            except InputError as error:
                return str(error)
            if abs(moment) > valence:
                return f"has a magnetic moment of {moment:g} on {symbol}, which has {valence:g} valence electrons"
        return None

    def _given(self, namelist: str) -> dict[str, Any]:
        return {k: v for name, keys in self.settings.input.items() if name.lower() == namelist for k, v in keys.items()}

    def _file(self, symbol: str) -> Path:
        return Path(self.settings.pseudo_dir / self.settings.pseudopotentials[symbol])

    def program(self, folder: Path) -> list[str]:
        return [*self.settings.command, "-in", INPUT]

    def inputs(self, folder: Path, structure: Structure) -> None:
        from ase.io.espresso import write_espresso_in

        s = self.settings
        atoms = structure.to_ase()
        atoms.set_constraint()  # pw.x would print no forces on fixed atoms
        species = species_of(structure)
        if structure.magmoms.any():  # in pw.x's unit: the fraction of the valence electrons
            start = [moment / valence_of(self._file(symbol)) for symbol, moment in species]
        else:
            start = [s.magnetization.get(symbol, 0.0) for symbol, _ in species]
        atoms.set_initial_magnetic_moments(start)
        grid = self.kpoints(structure)
        text = io.StringIO()
        write_espresso_in(
            text,
            atoms,
            input_data=self._namelists(structure, [symbol for symbol, _ in dict.fromkeys(species)]),
            pseudopotentials=s.pseudopotentials,
            kpts=None if tuple(grid) == (1, 1, 1) else tuple(grid),
            additional_cards=s.cards or None,
        )
        with atomic_write(folder / INPUT) as stream:
            stream.write(text.getvalue())

    def _namelists(self, structure: Structure, species: list[str]) -> dict[str, dict[str, Any]]:
        s = self.settings
        control: dict[str, Any] = {
            "calculation": "scf",
            "tprnfor": True,
            "outdir": "./out",
            "prefix": PREFIX,
            "pseudo_dir": str(s.pseudo_dir),
            "disk_io": "low",
        }
        system: dict[str, Any] = {"ecutwfc": s.ecutwfc, "ecutrho": s.ecutrho or 8 * s.ecutwfc}
        if any(s.hubbard_u.get(symbol) for symbol in species):
            system["lda_plus_u"] = True
            system |= {f"Hubbard_U({k})": s.hubbard_u.get(symbol, 0.0) for k, symbol in enumerate(species, start=1)}
        axis = slab_axis(structure)
        if s.dipole and axis is not None and "assume_isolated" not in map(str.lower, self._given("system")):
            control |= {"tefield": True, "dipfield": True}
            middle = gap_along(structure, axis).middle
            begin = (middle - DIPOLE_WIDTH / 2) % 1.0
            system |= {"edir": axis + 1, "emaxpos": begin, "eopreg": DIPOLE_WIDTH, "eamp": 0.0}
        out: dict[str, dict[str, Any]] = {"control": control, "system": system, "electrons": {}}
        for name, keys in s.input.items():
            out[name.lower()] = out.get(name.lower(), {}) | {k: v for k, v in keys.items() if v is not None}
        return out

    def outcome(self, folder: Path, structure: Structure, ended: Ended) -> Calculation:
        printed = tail(ended.log, 1 << 20)
        path = folder / "out" / f"{PREFIX}.xml"
        if NOT_CONVERGED in printed:
            steps = re.search(rf"{NOT_CONVERGED} after\s+(\d+) iterations", printed)
            reason = f"pw.x: convergence not achieved after {steps[1] if steps else '?'} iterations"
            return Calculation(False, reason, "scf")
        if not path.is_file():
            raise InputError(
                f"pw.x ended with exit code {ended.code} and no XML{_error(printed) or last_words(ended.log)}"
            )
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            raise InputError(f"pw.x's XML is cut off ({error}){_error(printed)}") from error
        return _answer(root, structure, "JOB DONE." in printed)


def species_of(structure: Structure) -> list[tuple[str, float]]:
    """The element and magnetic moment of each atom: atoms that differ in either are another species to pw.x."""
    pairs = zip(structure.numbers.tolist(), structure.magmoms.tolist(), strict=True)
    return [(chemical_symbols[z], moment + 0.0) for z, moment in pairs]


def valence_of(path: Path) -> float:
    """The valence electrons of a UPF pseudopotential, of either version. Raises InputError where it does not say."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        head = stream.read(1 << 20)
    found = re.search(r"z_valence\s*=\s*[\"']?\s*([-+.\deEdD]+)|([-+.\deEdD]+)\s+Z valence", head)
    if found is None:
        raise InputError("does not say its valence (z_valence), which magnetic moments need", path)
    return float((found[1] or found[2]).replace("D", "E").replace("d", "e"))


def _error(printed: str) -> str:
    """What pw.x says in its box of per cent signs."""
    found = re.search(r"Error in routine\s+(.*?)\n\s*%{10}", printed, re.DOTALL)
    return f": {' '.join(found[1].split())[:300]}" if found else ""


def _answer(root: ElementTree.Element, structure: Structure, done: bool) -> Calculation:
    """From the XML, in Hartree atomic units. Raises InputError for what is missing."""
    from ase.io.espresso import label_to_symbol
    from ase.units import Bohr, Hartree

    def find(path: str) -> ElementTree.Element:
        element = root.find(path)
        if element is None:
            raise InputError(f"pw.x's XML has no {path}: it did not come to its end")
        return element

    def numbers(element: ElementTree.Element) -> Any:
        return np.array((element.text or "").split(), float)

    achieved = find("output/convergence_info/scf_conv/convergence_achieved").text == "true"
    status = root.findtext("status") or root.findtext("exit_status") or "0"
    atoms = sorted(find("output/atomic_structure/atomic_positions"), key=lambda atom: int(atom.get("index", 0)))
    cell = [numbers(find(f"output/atomic_structure/cell/{name}")) for name in ("a1", "a2", "a3")]
    positions = np.array([numbers(atom) for atom in atoms]) * Bohr
    symbols = [label_to_symbol(str(atom.get("name"))) for atom in atoms]
    whole = positions.shape == structure.positions.shape
    converged = achieved and done and status.strip() == "0"
    creator = find("general_info/creator")
    return Calculation(
        converged=converged,
        reason=None if converged else "pw.x did not come to its end" if achieved else "pw.x's SCF did not converge",
        failure=None if achieved else "scf",
        energy=float(find("output/total_energy/etot").text or "nan") * Hartree,
        forces=numbers(find("output/forces")).reshape(-1, 3) * Hartree / Bohr,
        numbers=np.array([atomic_numbers[symbol] for symbol in symbols], np.int64),
        positions=same_image(structure, positions) if whole else positions,
        cell=np.array(cell) * Bohr,
        evidence={
            "convergence_achieved": achieved,
            "scf_steps": int(find("output/convergence_info/scf_conv/n_scf_steps").text or -1),
            "scf_error": float(find("output/convergence_info/scf_conv/scf_error").text or "nan"),
            "job_done": done,
        },
        versions={"pw.x": str(creator.get("VERSION"))},
    )
