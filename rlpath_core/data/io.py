"""Labelled structures read from LMDB files, folders of shards, ASE databases, extxyz and what ASE reads, and written to
files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.data.ase_rows import AseLmdbReader, holds_ase_rows, labelled_of_atoms, read_database
from rlpath_core.data.fields import LabelKeys, Remarks
from rlpath_core.data.labelled import BOTH, Labelled, LabelName, check_labels
from rlpath_core.data.lazy import LazySequence
from rlpath_core.data.lmdb import S2EFReader
from rlpath_core.errors import InputError
from rlpath_core.structure.constraints import say_ignored
from rlpath_core.structure.io import existing_file, read_images, read_structures
from rlpath_core.structure.xyz import info_text

log = logging.getLogger("rlpath.data")

LMDB_SUFFIXES = (".lmdb", ".aselmdb", ".mdb")
IN_A_FOLDER = "data.mdb"
"""The file of an LMDB that is a folder."""


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


def open_labelled(
    path: str | Path, *, energy_key: str | None = None, forces_key: str | None = None
) -> Sequence[Labelled]:
    """The structures of a file or folder, with the labels that are there.

    Entries of LMDBs are read when they are asked for, so that a few of a data set of millions cost a few.

    Parameters
    ----------
    path
        An LMDB, a folder of them, an ASE database, or any file that ASE reads.
    energy_key, forces_key
        The names of the labels in the file; None takes the usual ones, such as ``energy`` or ``REF_energy``.

    Returns
    -------
    sequence of Labelled
        A label that an entry lacks is None.

    Raises
    ------
    InputError
        The file cannot be read; the message names it and the entry.
    """
    return _open(Path(path), LabelKeys(energy_key, forces_key))


def _open(path: Path, keys: LabelKeys) -> Sequence[Labelled]:
    if path.is_dir():
        parts = [_lmdb(shard, keys) for shard in _shards(path)]
        found = parts[0] if len(parts) == 1 else _Chain(parts)
        _say_opened(len(found), path, len(parts))
        return found
    path = existing_file(path)
    if path.suffix in LMDB_SUFFIXES:
        found = _lmdb(path, keys)
        _say_opened(len(found), path)
        return found
    if path.suffix == ".db" or (path.suffix == ".json" and _is_database(path)):
        return read_database(path, keys)
    if path.suffix == ".json":
        return [Labelled(one, None, None, str(n)) for n, one in enumerate(read_structures(path, will_move=False))]
    return _read_with_ase(path, keys)


def _shards(folder: Path) -> list[Path]:
    """The LMDB files of a folder, or of the folders in it, in the order of their names."""
    if (folder / IN_A_FOLDER).is_file():
        return [folder / IN_A_FOLDER]
    inside = (p / IN_A_FOLDER if (p / IN_A_FOLDER).is_file() else p for p in sorted(folder.iterdir()))
    shards = [p for p in inside if p.is_file() and p.suffix in LMDB_SUFFIXES and p.name != "lock.mdb"]
    if not shards:
        raise InputError("the folder holds no *.lmdb or *.aselmdb file, and no data.mdb", folder)
    return shards


def _lmdb(path: Path, keys: LabelKeys) -> Sequence[Labelled]:
    reader = AseLmdbReader(path, keys) if holds_ase_rows(path) else S2EFReader(path, keys)
    len(reader)  # whether all entries are there is checked at once
    return reader


def _say_opened(n: int, path: Path, n_files: int = 1) -> None:
    files = f" in {n_files} files" if n_files > 1 else ""
    log.info("opened %s: %d structure%s%s", path, n, "" if n == 1 else "s", files)


def _is_database(path: Path) -> bool:
    """Whether a JSON file is an ASE database, and no structure."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it as structures says what is wrong
    return isinstance(value, dict) and "numbers" not in value and ("nextid" in value or "1" in value)


def read_labelled(
    path: str | Path,
    needs: Iterable[LabelName] = BOTH,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> list[Labelled]:
    """All labelled structures of an LMDB, a folder of LMDBs, an ASE database, or a file with labels that ASE reads.

    Parameters
    ----------
    path
        What to read. Files of a folder are read in the order of their names.
    needs
        The labels that every structure must have; others are None where they are not there.
    energy_key, forces_key
        The names of the labels in the file; None takes the usual ones, such as ``energy`` or ``REF_energy``.

    Raises
    ------
    InputError
        The file cannot be read, or a structure lacks a label that is needed; the message names file and entry, and how
        many there are.
    """
    found = list(open_labelled(path, energy_key=energy_key, forces_key=forces_key))
    check_labels(found, needs, path)
    return found


def _read_with_ase(path: Path, keys: LabelKeys) -> list[Labelled]:
    remarks = Remarks(path)
    found: list[Labelled] = []
    images = read_images(path)
    for n, atoms in enumerate(images):
        try:
            found.append(labelled_of_atoms(atoms, str(n), keys, remarks, n))
        except InputError as error:
            raise InputError(error.what, path, f"frame {n}") from error
    say_ignored(images, path)
    remarks.say(len(found))
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
    known = {name: value for name in BOTH if (value := getattr(one, name)) is not None}
    if known:
        atoms.calc = SinglePointCalculator(atoms, **known)
    if one.sid:
        atoms.info["sid"] = info_text(one.sid)
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
