"""What ASE's readers pass over in silence, per format: frames that are missing, elements and constraints not read."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.structure.constraints import UnreadConstraint

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.structure")

MARKS: dict[str, bytes] = {
    "vasp-xdatcar": b"Direct configuration=",
    "lammps-dump-text": b"ITEM: TIMESTEP",
    "proteindatabank": b"MODEL ",
    "xsf": b"PRIMCOORD",
    "sdf": b"$$$$",
}
"""What stands once in each structure of a file."""

ENDS = {"vasp-out": b"General timing and accounting", "vasp-xml": b"</modeling>", "espresso-out": b"JOB DONE"}
"""How programs end their output. What one was calculating when it was stopped is not read, which is said."""

UNREAD = {"xsd": b"RestrictedProperties=", "abinit-in": b"natfix", "cp2k-restart": b"&FIXED_ATOMS"}
"""How a format holds atoms where ASE's reader does not look."""


def before(path: Path, kind: str) -> None:
    """Refuse what ASE would read as something else, or change by reading.

    Raises
    ------
    InputError
        Elements are not named, or a database is not one of ASE or is cut off.
    """
    if kind == "db":
        check_database(path)
    elif kind == "lammps-dump-text":
        header = next((line for line in _lines(path) if line.startswith(b"ITEM: ATOMS")), b"").split()
        if header and not {b"element", b"mass"} & set(header):
            raise InputError(
                "names types of atoms and no elements: write the dump with a column element (dump_modify element)", path
            )
    elif kind == "lammps-data" and not any(
        line.split(b"#")[0].strip() in (b"Masses", b"Atom Type Labels") for line in _lines(path)
    ):
        raise InputError("names types of atoms and no elements: add a section Masses", path)


def after(path: Path, kind: str, images: list[Atoms]) -> None:
    """Compare with the file what ASE read from it, and add what its readers leave out.

    Raises
    ------
    InputError
        Some structures of the file were not read.
    """
    if not images:
        return
    found, n = _marked(path, kind), len(images)
    if found - n > (kind in ENDS):
        raise InputError(f"holds {found} structures, and only {n} of them can be read: is a line damaged?", path)
    if not ended(path, kind):
        what = "its last structure was not read" if found > n else "all structures that it holds were read"
        log.info("%s: the calculation has not ended (%s)", path, what)
    if mark := UNREAD.get(kind):
        if any(mark in line for line in _lines(path)):
            for image in images:
                image.constraints.append(UnreadConstraint(mark.decode().strip("=&")))
    elif kind == "espresso-out":
        _if_pos(path, images)
    elif kind == "espresso-in":
        _starting_magnetization(path, images[0])


def ended(path: Path, kind: str) -> bool:
    """False for the output of a program that was stopped, or that is running."""
    mark = ENDS.get(kind)
    return mark is None or any(mark in line for line in _lines(path))


def _lines(path: Path) -> Iterator[bytes]:
    from ase.io.formats import open_with_compression

    with open_with_compression(str(path), "rb") as stream:
        yield from stream


def _marked(path: Path, kind: str) -> int:
    """How many structures the file seems to hold; 0 where that cannot be told."""
    if kind == "vasp-out":
        begun = re.compile(rb"Iteration\s+(\d+)\(\s*1\)")
        return len({m[1] for line in _lines(path) if b"Iteration" in line and (m := begun.search(line))})
    if kind == "vasp-xml":
        return sum(b"<calculation>" in line for line in _lines(path))
    if kind == "espresso-out":
        marks = {b"Program PWSCF": 1, b"ATOMIC_POSITIONS": 1, b"Begin final coordinates": -1}
        return sum(n for line in _lines(path) for mark, n in marks.items() if mark in line)
    mark = MARKS.get(kind)
    return 0 if mark is None else sum(line.startswith(mark) or mark in line[:80] for line in _lines(path))


def check_database(path: Path) -> None:
    """ASE creates its tables in any SQLite file that it opens; another program's database must stay as it is."""
    header = path.open("rb").read(100)
    if not header.startswith(b"SQLite format 3\0"):
        return
    page, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    if path.stat().st_size < (65536 if page == 1 else page) * pages:
        raise InputError("is shorter than the database says: copy the file again", path)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        except sqlite3.Error as error:
            raise InputError(f"cannot be read as a database ({error})", path) from error
    if "systems" not in tables:
        raise InputError("is an SQLite database, but not one of ASE: it has no table 'systems'", path)


def _if_pos(path: Path, images: list[Atoms]) -> None:
    """Zeros behind the positions in pw.x's output, which ASE's reader of outputs drops."""
    from ase.io.espresso import convert_constraint_flags

    flags: list[tuple[int, ...] | None] = []
    n_atoms = len(images[0])
    cards = iter(_lines(path))
    for line in cards:
        if line.startswith(b"ATOMIC_POSITIONS"):
            rows = [next(cards, b"").split() for _ in range(n_atoms)]
            flags = [tuple(map(int, row[4:7])) if len(row) >= 7 and row[6].isdigit() else None for row in rows]
            break
    if any(flag is not None for flag in flags):
        for image in images:
            if len(image) == n_atoms:
                image.set_constraint(convert_constraint_flags(flags))


def _starting_magnetization(path: Path, atoms: Atoms) -> None:
    """Moments of the species of a pw.x input, by label: ASE gives Ni1 and Ni2 the moment of the last of them."""
    from ase.io.espresso import get_atomic_positions, get_atomic_species, read_fortran_namelist

    with path.open(encoding="utf-8") as stream:
        namelists, cards = read_fortran_namelist(stream)
    system = namelists["system"]
    if charge := system.get("tot_charge", 0):
        log.info("%s: tot_charge = %g is not read: a charge is a setting of the engine", path, charge)
    labels = [label for label, *_ in get_atomic_species(cards, system["ntyp"])]
    moment = {label: float(system.get(f"starting_magnetization({n})", 0)) for n, label in enumerate(labels, start=1)}
    if any(0 < abs(value) < 1 for value in moment.values()):
        log.info(
            "%s: starting_magnetization below 1 is a share of the valence electrons and is not read: set the engine's "
            "key, or give moments in Bohr magnetons as initial_magmoms of an extended XYZ file",
            path,
        )
        moment = dict.fromkeys(moment, 0.0)
    rows = get_atomic_positions(cards, n_atoms=system["nat"], cell=np.eye(3), alat=1.0)
    atoms.set_initial_magnetic_moments([moment.get(row[0], 0.0) for row in rows])
