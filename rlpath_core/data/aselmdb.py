"""Reading ASE-LMDB files (``.aselmdb``): zlib-compressed JSON rows of an ASE database, no pickle."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from rlpath_core.data.labelled import Labelled
from rlpath_core.data.lmdb import open_for_reading
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure


def read_aselmdb(path: Path) -> list[Labelled]:
    """All rows with an energy and forces, in the order of their ids; InputError names the row that has none."""
    from ase.db.row import AtomsRow
    from ase.io.jsonio import decode

    env = open_for_reading(path)
    found = []
    with env.begin() as transaction:
        stored = transaction.get(b"deleted_ids")
        deleted = set(json.loads(zlib.decompress(stored))) if stored else set()
        ids = sorted(int(key) for key, _ in transaction.cursor() if key.isdigit())
        for n in ids:
            if n in deleted:
                continue
            try:
                value = decode(zlib.decompress(transaction.get(str(n).encode()) or b"").decode())
                row = AtomsRow(value)
                atoms = row.toatoms()
                energy, forces = value["energy"], value["forces"]
                found.append(Labelled(Structure.from_ase(atoms, will_move=False), energy, forces, str(n)))
            except InputError as error:
                raise InputError(error.what, path, f"row {n}") from error
            except KeyError as error:
                raise InputError(f"has no {error}", path, f"row {n}") from error
            except Exception as error:  # zlib, JSON and ASE each raise their own
                raise InputError(f"not a row of an ASE database ({error})", path, f"row {n}") from error
    if not found:
        raise InputError("holds no row", path)
    return found
