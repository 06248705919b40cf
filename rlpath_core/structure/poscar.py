"""POSCAR files before ASE reads them: species that are missing or guessed, flags as Fortran writes them, lost lines."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rlpath_core.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.structure")
FLAG = re.compile(r"\.?([TF])", re.IGNORECASE)


def read_poscar(path: Path) -> Atoms:
    """The structure of a POSCAR or CONTCAR.

    A file of VASP 4, without a line of species, is read if its title is that line or a POTCAR or OUTCAR lies beside
    it; which was taken is logged.

    Raises
    ------
    InputError
        Names the line: no species, other numbers of species than of counts, lines too few or too many.
    """
    from ase.io.formats import open_with_compression
    from ase.io.vasp import read_vasp

    with open_with_compression(str(path), "r") as stream:
        lines = stream.read().splitlines()
    if len(lines) < 8:
        raise InputError("ends before its first atom", path, len(lines))
    words = _words(lines[5])
    if words and all(word.isdigit() for word in words):
        lines.insert(5, " ".join(_species(path, lines[0], words)))
        offset = 1
    else:
        offset = 0
    species, counts = _words(lines[5]), _words(lines[6])
    if not counts or not all(count.isdigit() for count in counts) or len(species) != len(counts):
        what = f"{len(species)} species ({' '.join(species)}) and {len(counts)} numbers of atoms ({' '.join(counts)})"
        raise InputError(f"there are {what}: one number belongs to each species", path, 7 - offset)
    _check_atoms(lines, sum(map(int, counts)), path, offset)
    return read_vasp(io.StringIO("\n".join(lines) + "\n"))


def _words(line: str) -> list[str]:
    return line.split("!")[0].split("#")[0].split()


def _species(path: Path, title: str, counts: list[str]) -> list[str]:
    from ase.data import chemical_symbols
    from ase.io.vasp import atomtypes_outpot

    words = title.split()
    if len(words) == len(counts) and all(word in chemical_symbols[1:] for word in words):
        log.info("%s: has no line of species; its title was taken for it: %s", path, " ".join(words))
        return words
    try:
        words = atomtypes_outpot(str(path), len(counts))
    except Exception as error:  # no POTCAR or OUTCAR beside it, or one of another system
        raise InputError(
            f"has numbers of atoms ({' '.join(counts)}) where the species belong: add a line above it with one element "
            "for each number, such as 'Mg O'",
            path,
            6,
        ) from error
    log.info("%s: has no line of species; they were taken from the POTCAR or OUTCAR beside it: %s", path, words)
    return words


def _check_atoms(lines: list[str], n_atoms: int, path: Path, offset: int) -> None:
    """Selective-dynamics flags become T and F, as Fortran reads them (ASE takes all but ``F`` for free)."""
    selective = lines[7].strip()[:1].lower() == "s"
    start = 9 if selective else 8
    atoms = lines[start : start + n_atoms]
    if len(atoms) < n_atoms or not all(line.strip() for line in atoms):
        raise InputError(f"holds fewer than the {n_atoms} atoms that it announces", path)
    following = lines[start + n_atoms : start + n_atoms + 1]
    if following and _is_position(following[0]):
        raise InputError(f"holds more than the {n_atoms} atoms that it announces", path, start + n_atoms + 1 - offset)
    if not selective:
        if all(len(row := line.split()) >= 6 and all(map(FLAG.match, row[3:6])) for line in atoms):
            log.info("%s: its flags T and F do not count without a line 'Selective dynamics', as in VASP", path)
        return
    for n, line in enumerate(atoms, start=start):
        row = line.split()
        flags = [FLAG.match(word) for word in row[3:6]]
        if len(flags) < 3 or None in flags:
            raise InputError("takes three flags, T or F, after the position", path, n + 1 - offset)
        lines[n] = " ".join([*row[:3], *(flag[1].upper() for flag in flags if flag)])


def _is_position(line: str) -> bool:
    try:
        return len([float(word) for word in line.split()[:3]]) == 3
    except ValueError:
        return False
