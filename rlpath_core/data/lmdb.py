"""LMDB files in the OC20/OC22 S2EF form.

Values are pickles of PyTorch Geometric ``Data`` with pos, cell [1, 3, 3], atomic_numbers, natoms, tags, fixed, y (eV),
force (eV/Å), sid and fid; keys are the ASCII numbers "0" to "N-1" and ``length``, a pickled integer. Ours also hold pbc
[1, 3], by which FairChem 1.10 goes: a batch then has a row for each structure, and one of several kinds is refused
there. Readers of that form look at nothing else, so our own facts (keys for idempotence, string ids) have keys of
their own: ``key:<key>`` -> index, ``meta:<index>`` -> JSON and ``rlpath`` -> JSON with the version of these; files
without it, such as published ones, are read as well. See doi:10.1021/acscatal.0c04525.
"""

from __future__ import annotations

import json
import os
import pickle
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from rlpath_core.data.fields import (
    CHARGES,
    SPINS,
    UNUSED,
    USUAL_KEYS,
    LabelKeys,
    Remarks,
    labelled_of,
    say_charged,
    text_of,
)
from rlpath_core.data.labelled import Labelled, LabelName
from rlpath_core.data.lazy import LazySequence
from rlpath_core.data.unpickle import load_data, load_int
from rlpath_core.errors import InputError, TransientError
from rlpath_core.geometry.cell import complete_cell
from rlpath_core.structure import Structure

SCHEMA_VERSION = 1
FIRST_MAP_SIZE = 1 << 24
MAX_KEY_BYTES = 500
"""LMDB's own limit is 511 bytes."""

_open: weakref.WeakValueDictionary[tuple[int, int, int], lmdb.Environment] = weakref.WeakValueDictionary()
"""Environments for reading, by process, device and inode: LMDB forbids opening a file twice in one process."""


def _check_whole(path: Path, env: lmdb.Environment) -> None:
    """A truncated LMDB is a bus error at the first missing page, so its size is checked before anything is read."""
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if path.stat().st_size < needed:
        env.close()
        raise InputError(f"is truncated: {path.stat().st_size} of {needed} bytes are there", path)


def open_for_reading(path: Path) -> lmdb.Environment:
    """A read-only environment without lock file, shared by all readers of the file in this process."""
    try:
        at = path.stat()
    except OSError as error:
        raise InputError("no such file", path) from error
    key = (os.getpid(), at.st_dev, at.st_ino)
    for inherited in [old for old in _open if old[0] != os.getpid()]:
        # A fork copies LMDB's list of open files: let go of the parent's before opening our own.
        _open.pop(inherited).close()
    env = _open.get(key)
    if env is None:
        try:
            env = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False, max_readers=1
            )
        except lmdb.Error as error:
            raise InputError(f"not a readable LMDB ({error})", path) from error
        _check_whole(path, env)
        _open[key] = env
    return env


def _integer(value: Any) -> NDArray[np.int64]:
    return np.asarray(value).astype(np.int64).reshape(-1)


USUAL: dict[LabelName, tuple[str, ...]] = {"energy": ("y", "energy"), "forces": ("force", "forces")}
"""Names of the labels: those of published files, and those that FairChem 1 and later give them."""
READ = frozenset(
    ("pos", "cell", "pbc", "atomic_numbers", "natoms", "tags", "fixed", "y", "energy", "force", "forces", "sid", "fid")
)
"""Fields of a ``Data`` that are read."""
OF_NO_CONCERN = frozenset(
    ("edge_index", "edge_attr", "cell_offsets", "distances", "neighbors", "nedges", "edge_distance_vec", "num_nodes")
    + ("id", "oc22", "nads", "free_energy", *UNUSED, *CHARGES, *SPINS)
)
"""Fields of which nothing is to be said here: graphs, which every model finds by itself, marks of where an entry came
from, and what is looked at with the labels."""
UNIT_VECTOR = 1e-5
"""Å: how near to 1 Å the length of a lattice vector is that FairChem's converter made up for an open direction."""
COARSE = 1e-3
"""eV: steps between float32 energies that are worth a word."""


def _structure_of(fields: dict[str, Any], pbc: Sequence[bool] | None, remark: Callable[[str], None]) -> Structure:
    missing = [name for name in ("pos", "atomic_numbers") if name not in fields]
    if missing:
        raise InputError(f"has no {' and no '.join(missing)}")
    cell = np.asarray(fields["cell"], dtype=float).reshape(3, 3) if "cell" in fields else np.zeros((3, 3))
    structure = Structure(
        numbers=_integer(fields["atomic_numbers"]),
        positions=np.asarray(fields["pos"], dtype=float),
        cell=cell,
        pbc=_periodic(fields.get("pbc"), pbc, cell, remark),
        tags=_integer(fields["tags"]) if "tags" in fields else None,  # type: ignore[arg-type]
        fixed=_integer(fields["fixed"]).astype(bool) if "fixed" in fields else None,  # type: ignore[arg-type]
    )
    if "natoms" in fields and (n := int(_integer(fields["natoms"])[0])) != len(structure):
        raise InputError(f"natoms is {n}, and there are {len(structure)} atoms")
    return structure


def _periodic(
    field: Any, meta: Sequence[bool] | None, cell: NDArray[np.float64], remark: Callable[[str], None]
) -> NDArray[np.bool_]:
    """What the entry says (``data.pbc``, which FairChem 1.10 goes by), what rlpath 0.2 wrote beside it, or a guess."""
    if field is not None or meta is not None:
        given = np.asarray(meta if field is None else field).reshape(-1)
        if given.size not in (1, 3):
            raise InputError(f"pbc has {given.size} values, expected 3")
        return np.broadcast_to(given.astype(bool), 3)
    if not cell.any():
        return np.zeros(3, bool)
    lengths = np.linalg.norm(cell, axis=1)
    made_up = np.abs(lengths - 1) < UNIT_VECTOR
    if made_up.any():
        remark(
            "has no pbc: directions with a lattice vector of 1 Å, with which FairChem fills cells up, are taken as open"
        )
    else:
        remark("has no pbc: all directions are taken as periodic, as FairChem takes them")
    return ~made_up & (lengths > 0) if made_up.any() else np.ones(3, bool)


def from_fields(
    fields: dict[str, Any],
    sid: str,
    pbc: Sequence[bool] | None = None,
    keys: LabelKeys = USUAL_KEYS,
    remark: Callable[[str], None] = lambda what: None,
) -> Labelled:
    """A labelled structure from the fields of an S2EF ``Data``.

    Parameters
    ----------
    fields
        The fields of the entry.
    sid
        Where it came from.
    pbc
        Periodic directions where the entry does not say any; None: all, where there is a cell.
    keys
        The names of the labels, if they are not the usual ones.
    remark
        Takes what is to be said of the entry.
    """
    structure = _structure_of(fields, pbc, remark)
    out = labelled_of(structure, fields, sid, keys, USUAL, remark)
    say_charged(fields, remark)
    energy = fields.get(keys.energy or "y", fields.get("energy"))
    step = float(np.spacing(np.float32(abs(out.energy or 0.0))))
    if step > COARSE and str(getattr(energy, "dtype", "")).endswith("float32"):
        remark(f"energies are float32, which is exact to {step:.1g} eV here")
    unknown = sorted(set(fields) - READ - OF_NO_CONCERN - {keys.energy, keys.forces})
    if unknown:
        remark(f"fields that are not used: {', '.join(unknown)}")
    return out


class S2EFReader(LazySequence[Labelled]):
    """The entries of one LMDB file, read when asked for.

    Opened lazily and again after a fork; a pickled reader reopens where it is unpickled. No lock is taken, so a file
    on read-only media can be read, and a writer is not waited for.
    """

    def __init__(self, path: str | Path, keys: LabelKeys = USUAL_KEYS) -> None:
        self.path, self.keys = Path(path), keys
        self._remarks = Remarks(self.path, at_once=True)
        self._env: lmdb.Environment | None = None
        self._pid = -1
        self._length: int | None = None

    def __enter__(self) -> S2EFReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self._env = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None, "_pid": -1}

    def _get(self, key: str) -> bytes | None:
        if self._env is None or self._pid != os.getpid():
            self._env, self._pid = open_for_reading(self.path), os.getpid()
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(key.encode("ascii"))
            return value

    def __len__(self) -> int:
        if self._length is None:
            stored = self._get("length")
            self._check_version()
            try:
                if stored is not None:
                    self._length = load_int(stored)
                else:  # as FairChem does where a file has no length
                    assert self._env is not None
                    self._length = self._env.stat()["entries"]
            except InputError as error:
                raise InputError(error.what, self.path, "length") from error
            if stored is not None:
                self._check_length(self._length)
        return self._length

    def _check_version(self) -> None:
        try:
            version = json.loads(self._get("rlpath") or b"{}").get("schema_version", SCHEMA_VERSION)
        except (ValueError, AttributeError) as error:
            raise InputError(f"is not JSON ({error})", self.path, "rlpath") from error
        if version != SCHEMA_VERSION:
            raise InputError(f"is of schema version {version}; this rlpath reads {SCHEMA_VERSION}", self.path, "rlpath")

    def _check_length(self, length: int) -> None:
        if length > 0 and self._get(str(length - 1)) is None:
            raise InputError(f"there is no such entry, though length says {length}", self.path, f"entry {length - 1}")
        if self._get(str(length)) is not None:
            raise InputError(f"says {length}, and there is an entry {length} all the same", self.path, "length")

    def entry(self, n: int) -> Labelled:
        data = self._get(str(n))
        if data is None:
            raise InputError(f"there is no such entry, though length says {len(self)}", self.path, f"entry {n}")
        try:
            fields = load_data(data)
            meta = json.loads(self._get(f"meta:{n}") or b"{}")
            sid = meta.get("sid") or "_".join(text_of(fields[k]) for k in ("sid", "fid") if k in fields)
            remark = partial(self._remarks.add, n)
            found = from_fields(fields, sid or str(n), meta.get("pbc"), self.keys, remark)
            return (
                replace(found, structure=_with_meta(found.structure, meta))
                if {"no_vector", "magmoms"} & meta.keys()
                else found
            )
        except (InputError, ValueError) as error:
            raise InputError(getattr(error, "what", str(error)), self.path, f"entry {n}") from error

    def __iter__(self) -> Iterator[Labelled]:
        return (self[i] for i in range(len(self)))


class S2EFWriter:
    """Appends to one LMDB file. Each ``add`` is one durable transaction; a kill leaves whole entries only.

    pos, cell and force are written as float32, as OC20 and OC22 have them; y is a Python float, so that total
    energies keep their digits.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._env: lmdb.Environment | None = None

    def __enter__(self) -> S2EFWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            size = max(FIRST_MAP_SIZE, 2 * self.path.stat().st_size if self.path.exists() else 0)
            self._env = lmdb.open(str(self.path), subdir=False, map_size=size, meminit=False)
        except lmdb.Error as error:
            raise InputError(f"cannot be opened for writing ({error})", self.path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def add(self, labelled: Labelled, key: str) -> int:
        """Append one entry under ``key`` and return its index; a key that is there already returns its first index."""
        if self._env is None:
            raise RuntimeError("S2EFWriter is used as a context manager: with S2EFWriter(path) as writer")
        if labelled.energy is None or labelled.forces is None:
            raise InputError("an entry needs energy and forces, as FairChem reads it", self.path, key)
        name = f"key:{key}".encode()
        if len(name) > MAX_KEY_BYTES:
            raise InputError(f"a key has at most {MAX_KEY_BYTES - 4} bytes", self.path, key[:40] + "...")
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    known = transaction.get(name)
                    if known is not None:
                        return int(known)
                    stored = transaction.get(b"length")
                    n = 0 if stored is None else load_int(stored)
                    structure = labelled.structure
                    meta = {"sid": labelled.sid, "pbc": structure.pbc.tolist(), **_beside_the_form(structure)}
                    transaction.put(str(n).encode("ascii"), pickle.dumps(_to_pyg(labelled, n), protocol=-1))
                    transaction.put(f"meta:{n}".encode("ascii"), json.dumps(meta).encode())
                    transaction.put(name, str(n).encode("ascii"))
                    transaction.put(b"length", pickle.dumps(n + 1, protocol=-1))
                    if stored is None:
                        transaction.put(b"rlpath", json.dumps({"schema_version": SCHEMA_VERSION}).encode())
                return n
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.DiskError as error:
                raise TransientError(f"{self.path}: cannot be written ({error})") from error


def _beside_the_form(structure: Structure) -> dict[str, Any]:
    """What a ``Data`` has no field for: open directions without a vector, and magnetic moments."""
    out: dict[str, Any] = {}
    if structure.pbc.any() and (without := np.flatnonzero(~structure.cell.any(axis=1))).size:
        out["no_vector"] = without.tolist()
    if structure.magmoms.any():
        out["magmoms"] = structure.magmoms.tolist()
    return out


def _with_meta(structure: Structure, meta: dict[str, Any]) -> Structure:
    cell = np.array(structure.cell)
    cell[meta.get("no_vector", [])] = 0
    return replace(structure, cell=cell, magmoms=np.array(meta.get("magmoms", structure.magmoms)))


def _to_pyg(labelled: Labelled, n: int) -> Any:
    import torch
    from torch_geometric.data import Data

    structure = labelled.structure
    cell = structure.cell
    if structure.pbc.any():  # FairChem divides by the volume
        cell = np.where((cell != 0).any(axis=1, keepdims=True), cell, complete_cell(cell, structure.pbc))
    return Data(
        pos=torch.tensor(structure.positions, dtype=torch.float32),
        cell=torch.tensor(cell, dtype=torch.float32).reshape(1, 3, 3),
        pbc=torch.tensor(structure.pbc, dtype=torch.bool).reshape(1, 3),
        atomic_numbers=torch.tensor(structure.numbers, dtype=torch.int64),
        natoms=len(structure),
        tags=torch.tensor(structure.tags, dtype=torch.int64),
        fixed=torch.tensor(structure.fixed, dtype=torch.float32),
        y=labelled.energy,
        force=torch.tensor(labelled.forces, dtype=torch.float32),
        sid=n,
        fid=0,
    )


def write_lmdb(path: str | Path, labelled: Sequence[Labelled]) -> None:
    """A whole new file: written beside ``path`` and renamed, so that it is there complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    with S2EFWriter(temporary) as writer:
        for n, one in enumerate(labelled):
            writer.add(one, str(n))
    temporary.with_name(f"{temporary.name}-lock").unlink(missing_ok=True)
    os.replace(temporary, path)
