"""Reading ASE databases: ``.db`` (SQLite), ``.json``, and ASE-LMDB files of zlib-compressed JSON rows; no pickle.

Labels stand in a row's own columns, or under a name among its ``key_value_pairs`` or its ``data``.
"""

from __future__ import annotations

import json
import logging
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpath_core.data.fields import USUAL_KEYS, LabelKeys, Remarks, labelled_of, say_charged, text_of
from rlpath_core.data.labelled import Labelled, LabelName
from rlpath_core.data.lazy import LazySequence
from rlpath_core.data.lmdb import open_for_reading
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.structure.constraints import fixed_atoms
from rlpath_core.structure.formats import check_database

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.data")

USUAL: dict[LabelName, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "free_energy"),
    "forces": ("REF_forces", "forces", "force"),
}
"""Names in files that ASE reads. Whoever writes REF_energy, as for mace_run_train, means the reference by it, while
``energy`` may be what the last calculator made of it. ``energy`` goes before ``free_energy``, as ASE, mace and FairChem
have it."""


def labelled_of_atoms(
    atoms: Atoms, sid: str, keys: LabelKeys, remarks: Remarks, n: int, more: dict[str, Any] | None = None
) -> Labelled:
    """Entry ``n`` of a file; ``more`` are values beside those of the atoms."""
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    own = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
    values = {**(more or {}), **atoms.info, **own, **{k: v for k, v in results.items() if v is not None}}
    sid = text_of(values.get("sid", sid))
    return labelled_of(Structure.from_ase(atoms, will_move=False), values, sid, keys, USUAL, partial(remarks.add, n))


def _labelled_of_row(row: Any, keys: LabelKeys, remarks: Remarks, n: int, sid: str) -> Labelled:
    data = row.get("data")
    more = {**(data if isinstance(data, dict) else {}), **row.key_value_pairs}
    atoms = row.toatoms()
    if fixed_atoms(atoms)[1]:
        remarks.add(n, "constraints other than whole fixed atoms are not used: nothing moves here")
    say_charged({**more, "charge": more.get("charge", row.get("charge", 0))}, partial(remarks.add, n))
    return labelled_of_atoms(atoms, sid, keys, remarks, n, more)


class AseLmdbReader(LazySequence[Labelled]):
    """The rows of an ASE-LMDB file in the order of their ids, each read when it is asked for."""

    def __init__(self, path: str | Path, keys: LabelKeys = USUAL_KEYS) -> None:
        self.path, self.keys = Path(path), keys
        self._remarks = Remarks(self.path, at_once=True)
        with open_for_reading(self.path).begin() as transaction:
            try:
                stored = transaction.get(b"deleted_ids")
                deleted = set(json.loads(zlib.decompress(stored))) if stored else set()
            except (zlib.error, ValueError, TypeError) as error:
                raise InputError(f"is not a list of row numbers ({error})", self.path, "deleted_ids") from error
            ids = sorted(int(key) for key in transaction.cursor().iternext(values=False) if key.isdigit())
        self._ids = [n for n in ids if n not in deleted]
        if not self._ids:
            raise InputError("holds no row", self.path)

    def __len__(self) -> int:
        return len(self._ids)

    def entry(self, n: int) -> Labelled:
        from ase.db.row import AtomsRow
        from ase.io.jsonio import decode

        row = self._ids[n]
        try:
            with open_for_reading(self.path).begin() as transaction:
                stored = transaction.get(str(row).encode())
            value = decode(zlib.decompress(stored or b"").decode())
            return _labelled_of_row(AtomsRow(value), self.keys, self._remarks, n, str(row))
        except InputError as error:
            raise InputError(error.what, self.path, f"row {row}") from error
        except Exception as error:  # zlib, JSON and ASE each raise their own
            raise InputError(f"not a row of an ASE database ({error})", self.path, f"row {row}") from error


def holds_ase_rows(path: Path) -> bool:
    """Whether an LMDB holds rows of ASE and not the pickles of FairChem: the file's name does not decide it."""
    with open_for_reading(path).begin() as transaction:
        first = transaction.get(b"0")
        return first is None and (transaction.get(b"nextid") is not None or transaction.get(b"1") is not None)


def read_database(path: Path, keys: LabelKeys = USUAL_KEYS) -> list[Labelled]:
    """All rows of an ASE database in SQLite or JSON."""
    from ase.db import connect

    remarks = Remarks(path)
    found: list[Labelled] = []
    row = 0
    check_database(path)
    try:
        for one in connect(path, use_lock_file=False).select():
            row = one.id
            found.append(_labelled_of_row(one, keys, remarks, len(found), str(row)))
    except InputError as error:
        raise InputError(error.what, path, f"row {row}") from error
    except Exception as error:  # SQLite, JSON and ASE each raise their own
        raise InputError(f"not an ASE database ({type(error).__name__}: {error})", path) from error
    if not found:
        raise InputError("holds no row", path)
    log.info("read %d structure%s from %s", len(found), "" if len(found) == 1 else "s", path)
    remarks.say(len(found))
    return found
