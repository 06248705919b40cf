"""Labelled structures read from LMDB files, folders of shards, extxyz and what ASE reads, and written to files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.data.labelled import Labelled
from rlpath_core.data.lazy import LazySequence
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure, read_images
from rlpath_core.structure.constraints import say_ignored

LMDB_SUFFIXES = (".lmdb", ".aselmdb")


class _Chain(LazySequence[Labelled]):
    """Several sequences as one, each entry read when it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Labelled]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def entry(self, n: int) -> Labelled:
        part = int(np.searchsorted(self._ends, n, side="right"))
        return self._parts[part][n - (int(self._ends[part - 1]) if part else 0)]


def open_labelled(path: str | Path) -> Sequence[Labelled]:
    """What ``read_labelled`` reads; entries of LMDBs are read when they are asked for, so that a few of a data set of
    millions cost a few."""
    path = Path(path)
    if path.is_dir():
        shards = sorted(p for p in path.iterdir() if p.suffix in LMDB_SUFFIXES)
        if not shards:
            raise InputError("the folder holds no *.lmdb or *.aselmdb file", path)
        return _Chain([open_labelled(shard) for shard in shards])
    if not path.is_file():
        raise InputError("no such file", path)
    if path.suffix == ".lmdb":
        from rlpath_core.data.lmdb import S2EFReader

        return S2EFReader(path)
    if path.suffix == ".aselmdb":
        from rlpath_core.data.aselmdb import read_aselmdb

        return read_aselmdb(path)
    return _read_with_ase(path)


def read_labelled(path: str | Path) -> list[Labelled]:
    """All labelled structures of an LMDB, a folder of ``*.lmdb`` shards, or a file with energies and forces for ASE.

    Shards are read in the order of their names. Raises InputError, naming file and frame, for what has no label.
    """
    return list(open_labelled(path))


def _read_with_ase(path: Path) -> list[Labelled]:
    from ase.calculators.calculator import PropertyNotImplementedError

    found = []
    images = read_images(path)
    for n, atoms in enumerate(images):
        try:
            if atoms.calc is None:
                raise InputError("has no energy and forces")
            energy = atoms.get_potential_energy(apply_constraint=False)
            forces = atoms.get_forces(apply_constraint=False)
            found.append(
                Labelled(Structure.from_ase(atoms, will_move=False), energy, forces, str(atoms.info.get("sid", n)))
            )
        except (PropertyNotImplementedError, InputError) as error:
            raise InputError(getattr(error, "what", str(error)), path, f"frame {n}") from error
    say_ignored(images, path)
    return found


def write_extxyz(path: str | Path, labelled: Iterable[Labelled]) -> None:
    """Write extended XYZ, atomically; energies eV, forces eV/Å as ASE names them."""
    from ase.io import write

    from rlpath_core.files import atomic_write

    images = [_to_ase(one) for one in labelled]
    with atomic_write(path) as stream:
        write(stream, images, format="extxyz")


def _to_ase(one: Labelled) -> Any:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = one.structure.to_ase()
    atoms.calc = SinglePointCalculator(atoms, energy=one.energy, forces=one.forces)
    if one.sid:
        atoms.info["sid"] = one.sid
    return atoms


def write_labelled(path: str | Path, labelled: Iterable[Labelled]) -> int:
    """Write a new file: ``.lmdb`` in the S2EF form, ``.db`` as an ASE database, anything else as extended XYZ.

    Returns how many were written. Raises InputError where the file is there already.
    """
    path = Path(path)
    if path.exists():
        raise InputError("is there already: choose another name", path)
    found = list(labelled)
    if path.suffix == ".lmdb":
        from rlpath_core.data.lmdb import write_lmdb

        write_lmdb(path, found)
    elif path.suffix == ".db":
        _write_ase_database(path, found)
    else:
        write_extxyz(path, found)
    return len(found)


def _write_ase_database(path: Path, labelled: Sequence[Labelled]) -> None:
    from ase.db import connect

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part.db")
    temporary.unlink(missing_ok=True)
    with connect(temporary) as database:
        for one in labelled:
            database.write(_to_ase(one), data={"sid": one.sid})
    temporary.rename(path)
