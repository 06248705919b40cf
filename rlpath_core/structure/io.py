"""Reading structures: the documented JSON (numbers/positions/cell/fixed/tags/magmoms) and whatever ASE reads."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.errors import InputError, nearest
from rlpath_core.structure.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.structure")
JSON_KEYS = ("numbers", "positions", "cell", "pbc", "fixed", "tags", "magmoms")


def from_mapping(value: dict[str, Any], where: str | Path = "structure") -> Structure:
    """A structure from the documented JSON mapping.

    ``numbers`` and ``positions`` are required. ``cell`` may be [3, 3], [1, 3, 3] (as in OC20 data) or three lengths.
    ``pbc`` defaults to true in all directions where there is a cell. ``fixed`` is a mask of n_atoms 0/1 values,
    ``magmoms`` are n_atoms initial magnetic moments in Bohr magnetons.
    """
    if not isinstance(value, dict):
        raise InputError("expected a JSON object with numbers, positions, cell, fixed, tags", where)
    for key in value:
        if key not in JSON_KEYS:
            raise InputError(f"unknown key.{nearest(key, JSON_KEYS)} Known: {', '.join(JSON_KEYS)}", where, key)
    for key in ("numbers", "positions"):
        if key not in value:
            raise InputError("is missing", where, key)
    try:
        cell = np.array(value.get("cell") if value.get("cell") is not None else np.zeros((3, 3)), dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"is not a 3x3 matrix in Å ({error})", where, "cell") from error
    if cell.shape == (1, 3, 3):
        cell = cell[0]
    elif cell.shape == (3,):
        cell = np.diag(cell)
    pbc = value.get("pbc")
    if isinstance(pbc, list) and len(pbc) != 3:
        raise InputError(f"takes one value or three, got {len(pbc)}", where, "pbc")
    try:
        return Structure(
            numbers=value["numbers"],
            positions=value["positions"],
            cell=cell,
            pbc=np.broadcast_to(bool(cell.any()) if pbc is None else pbc, 3),
            **{key: value[key] for key in ("tags", "fixed", "magmoms") if value.get(key) is not None},
        )
    except InputError as error:
        raise InputError(error.what, where) from error


def read_images(path: str | Path) -> list[Atoms]:
    """Every image in a file that ASE reads, with whatever ASE found in it; the number of them is logged.

    Parameters
    ----------
    path
        Any format that ASE reads; an ``@`` in the name is a part of the name.

    Raises
    ------
    InputError
        There is no such file, ASE cannot read it, or it holds no structure; the message names it.
    """
    from ase.io import read

    path = existing_file(path)
    try:
        images = read(path, index=":", do_not_split_by_at_sign=True)
    except Exception as error:  # ASE's readers raise whatever their parsers do
        raise InputError(f"ASE cannot read it ({type(error).__name__}: {error})", path) from error
    if not images:
        raise InputError("holds no structure", path)
    say_count(len(images), path)
    return list(images)


def existing_file(path: str | Path) -> Path:
    """``path``, or an InputError that says what is wrong with it."""
    path = Path(path)
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(f"cannot be read: {error}", path) from error
    if not path.is_file():
        raise InputError("is not a file" if there else "no such file", path)
    return path


def say_count(n: int, path: str | Path) -> None:
    """One line of the log for every reading: a file that was read in part is seen."""
    log.info("read %d structure%s from %s", n, "" if n == 1 else "s", path)


def read_structures(path: str | Path) -> list[Structure]:
    """Every structure in a file.

    Parameters
    ----------
    path
        JSON with ``numbers``, ``positions``, ``cell``, ``pbc``, ``tags``, ``fixed`` and ``magmoms`` (one mapping or a
        list of them), or any format that ASE reads.

    Raises
    ------
    InputError
        The file cannot be read; the message names it.
    """
    path = existing_file(path)
    if path.suffix == ".json":
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error.msg}", path, error.lineno) from error
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"cannot be read as JSON in UTF-8: {error}", path) from error
        if isinstance(value, list) or (isinstance(value, dict) and "numbers" in value and "1" not in value):
            found = [from_mapping(v, path) for v in (value if isinstance(value, list) else [value])]
            if not found:
                raise InputError("holds no structure", path)
            say_count(len(found), path)
            return found
        if not (isinstance(value, dict) and "1" in value):  # "1": the first row of an ASE database
            return [from_mapping(value, path)]
    images = read_images(path)
    try:
        return [Structure.from_ase(image) for image in images]
    except InputError as error:
        raise InputError(error.what, path) from error


def read_structure(path: str | Path) -> Structure:
    """The last structure of a file, as ASE's ``read`` returns it; see `read_structures`."""
    return read_structures(path)[-1]
