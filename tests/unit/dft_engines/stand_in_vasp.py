"""Stands in for VASP, which is not free: reads VASP's inputs, refuses what VASP refuses, writes VASP's outputs.

The numbers are Lennard-Jones's with a pull that depends on the element, so that atoms in a wrong order give wrong
forces. The files are a real VASP 6.3 run's (from ASE's test data) with this calculation's values in them.

    python stand_in_vasp.py [unconverged | last_step | crashed | moved | relaxed | garbage | full | killed | mixed]
"""

from __future__ import annotations

import os
import signal
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import ase
import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import read

REAL = Path(ase.__file__).parent / "test" / "testdata" / "vasp"
MIXED = ("converged", "unconverged", "crashed", "moved", "garbage")
PULL = 0.01
"""eV/Å along z per unit of atomic number."""


def single_point(atoms: Atoms) -> tuple[float, np.ndarray]:
    atoms = atoms.copy()
    atoms.pbc = True
    atoms.calc = LennardJones(sigma=0.9, epsilon=0.1, rc=4.0)
    pull = np.zeros((len(atoms), 3))
    pull[:, 2] = PULL * atoms.numbers
    fractional = atoms.get_scaled_positions(wrap=True)
    height = (fractional @ atoms.cell.array)[:, 2]
    return float(atoms.get_potential_energy() - (pull[:, 2] * height).sum()), atoms.get_forces() + pull


def incar() -> dict[str, list[str]]:
    lines = (line.split("=", 1) for line in Path("INCAR").read_text().splitlines() if "=" in line)
    return {key.strip(): value.split() for key, value in lines}


def count(words: list[str]) -> int:
    return sum(int(word.split("*")[0]) if "*" in word else 1 for word in words)


def check_inputs(atoms: Atoms, keys: dict[str, list[str]]) -> list[str]:
    """VASP ends with an error where these do not agree. Returns the POTCARs' titles."""
    titles = [line.split("=")[1] for line in Path("POTCAR").read_text().splitlines() if "TITEL" in line]
    species = list(dict.fromkeys(atoms.get_chemical_symbols()))
    of_potcar = [title.split()[1].split("_")[0] for title in titles]
    if species != of_potcar:
        sys.exit(f"ERROR: the type information on POSCAR and POTCAR files is incompatible {species} {of_potcar}")
    changes = 1 + sum(a != b for a, b in zip(atoms.numbers, atoms.numbers[1:], strict=False))
    for key, wanted in (("MAGMOM", len(atoms)), ("LDAUL", changes), ("LDAUU", changes), ("LDAUJ", changes)):
        if key in keys and count(keys[key]) != wanted:
            sys.exit(f"Error reading item '{key}' from file INCAR.")
    if keys.get("NSW") != ["0"] or len(Path("KPOINTS").read_text().split()) < 7:
        sys.exit("ERROR: this stand-in does single points only")
    return titles


def number(parent: ElementTree.Element, name: str, value: float) -> None:
    ElementTree.SubElement(parent, "i", name=name).text = f" {value:15.8f} "


def vectors(parent: ElementTree.Element, name: str, rows: np.ndarray) -> None:
    array = ElementTree.SubElement(parent, "varray", name=name)
    for row in rows:
        ElementTree.SubElement(array, "v").text = " " + " ".join(f"{x:16.8f}" for x in row) + " "


def structure(parent: ElementTree.Element, atoms: Atoms, **attributes: str) -> None:
    element = ElementTree.SubElement(parent, "structure", **attributes)
    crystal = ElementTree.SubElement(element, "crystal")
    vectors(crystal, "basis", atoms.cell.array)
    number(crystal, "volume", atoms.get_volume())
    vectors(crystal, "rec_basis", np.linalg.inv(atoms.cell.array).T)
    vectors(element, "positions", atoms.get_scaled_positions(wrap=True))  # VASP wraps


def calculation(root: ElementTree.Element, atoms: Atoms, steps: int) -> None:
    energy, forces = single_point(atoms)
    out = ElementTree.SubElement(root, "calculation")
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    for step in range(steps):
        one = ElementTree.SubElement(ElementTree.SubElement(out, "scstep"), "energy")
        for name in names:
            number(one, name, energy + (0.5**step if step < steps - 1 else 0.0))
    structure(out, atoms)
    vectors(out, "forces", forces)
    vectors(out, "stress", np.zeros((3, 3)))
    total = ElementTree.SubElement(out, "energy")
    for name in names:
        number(total, name, energy)


def vasprun(atoms: Atoms, titles: list[str], keys: dict[str, list[str]], steps: int, n_ionic: int) -> str:
    root = ElementTree.parse(REAL / "vasprun_pstress.xml").getroot()
    for name in ("calculation", "structure", "primitive_cell"):
        for element in root.findall(name):
            root.remove(element)
    block = root.find("incar")
    block.clear()
    for key, words in keys.items():
        if key in ("NELM", "ISPIN", "NSW"):
            ElementTree.SubElement(block, "i", type="int", name=key).text = f" {words[0]}"
    next(i for i in root.find("parameters").iter("i") if i.get("name") == "NELM").text = f"   {keys['NELM'][0]}"
    info = root.find("atominfo")
    info.find("atoms").text, info.find("types").text = f" {len(atoms)} ", f" {len(titles)} "
    sets = info.findall("array/set")
    for one in sets:
        one.clear()
    symbols = atoms.get_chemical_symbols()
    species = list(dict.fromkeys(symbols))
    for symbol in symbols:
        row = ElementTree.SubElement(sets[0], "rc")
        ElementTree.SubElement(row, "c").text = f"{symbol:2s}"
        ElementTree.SubElement(row, "c").text = f" {species.index(symbol) + 1}"
    for symbol, title in zip(species, titles, strict=True):
        row = ElementTree.SubElement(sets[1], "rc")
        for text in (f" {symbols.count(symbol)}", f"{symbol:2s}", " 1.0", " 1.0", f" {title} "):
            ElementTree.SubElement(row, "c").text = text
    structure(root, atoms, name="initialpos")
    for _ in range(n_ionic):
        calculation(root, atoms, steps)
    structure(root, atoms, name="finalpos")
    return ElementTree.tostring(root, encoding="unicode")


def outcar(reached: bool, finished: bool) -> str:
    """A real OUTCAR's beginning and end around the word on convergence."""
    real = (REAL / "OUTCAR_example_1").read_text().splitlines()
    end = next(k for k, line in enumerate(real) if "General timing" in line)
    ruler = "-" * 24
    word = "aborting loop because EDIFF is reached" if reached else "aborting loop EDIFF was not reached (unconverged)"
    return "\n".join([*real[:200], f"{ruler} {word} {ruler}", *(real[end - 2 :] if finished else [])]) + "\n"


def main() -> None:
    mode = sys.argv[1] if len(sys.argv) > 1 else "converged"
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    atoms, keys = read("POSCAR", format="vasp"), incar()
    if mode == "mixed":  # by the number of hydrogen atoms
        mode = MIXED[atoms.get_chemical_symbols().count("H")]
    titles = check_inputs(atoms, keys)
    if mode == "full":
        sys.exit("forrtl: No space left on device\nforrtl: severe (38): error during write, unit 12, file OUTCAR")
    if mode == "garbage":
        Path("vasprun.xml").write_bytes(bytes(range(256)) * 40)
        Path("OUTCAR").write_bytes(bytes(range(256)) * 40)
        return
    if mode == "moved":
        atoms.positions[0, 0] += 0.01
    nelm = int(keys["NELM"][0])
    steps = nelm if mode in ("unconverged", "last_step") else 7
    text = vasprun(atoms, titles, keys, steps, 2 if mode == "relaxed" else 1)
    if mode == "crashed":
        print(" VERY BAD NEWS! internal error in subroutine IBZKPT: Tetrahedron method fails")
        Path("vasprun.xml").write_text(text[: len(text) * 3 // 4])
        Path("OUTCAR").write_text(outcar(reached=False, finished=False))
        sys.exit(1)
    Path("vasprun.xml").write_text(text)
    Path("OUTCAR").write_text(outcar(reached=mode != "unconverged", finished=True))
    print(f"DAV: {steps:3d}    -0.1E+02\n   1 F= -.1E+02 E0= -.1E+02  d E =0.0")


if __name__ == "__main__":
    main()
