"""Reading structures: the documented JSON (numbers/positions/cell/fixed/tags/magmoms) and whatever ASE reads."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.errors import InputError, nearest
from rlpath_core.structure import constraints, formats
from rlpath_core.structure.poscar import read_poscar
from rlpath_core.structure.structure import Structure
from rlpath_core.structure.xyz import read_extxyz

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.structure")
JSON_KEYS = ("numbers", "positions", "cell", "pbc", "fixed", "tags", "magmoms")
MASS_TOLERANCE = 0.5
"""u; larger differences from the elements' masses are isotopes."""


def from_mapping(value: dict[str, Any], where: str | Path = "structure", will_move: bool = True) -> Structure:
    """A structure from the documented JSON mapping.

    ``numbers`` and ``positions`` are required. ``cell`` may be [3, 3], [1, 3, 3] (as in OC20 data) or three lengths.
    ``pbc`` defaults to true in all directions where there is a cell. ``fixed`` is a mask of n_atoms 0/1 values, or
    of [n_atoms, 3] values; rows that are neither all 0 nor all 1 are refused unless the structure does not move
    (``will_move``). ``magmoms`` are n_atoms initial magnetic moments in Bohr magnetons.
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
    fixed = value.get("fixed")
    try:
        if isinstance(fixed, list) and any(isinstance(row, list) for row in fixed):
            fixed, rest = constraints.whole_rows(fixed)
            if will_move:
                constraints.refuse(rest)
        return Structure(
            numbers=value["numbers"],
            positions=value["positions"],
            cell=cell,
            pbc=np.broadcast_to(bool(cell.any()) if pbc is None else pbc, 3),
            fixed=fixed,  # type: ignore[arg-type]
            **{key: value[key] for key in ("tags", "magmoms") if value.get(key) is not None},
        )
    except InputError as error:
        raise InputError(error.what, where) from error


def read_images(path: str | Path) -> list[Atoms]:
    """Every image in a file that ASE reads, with what ASE found in it; one line of the log says how many.

    The number is compared with the file, as far as its format tells it. What a file holds and nothing uses (charges,
    isotopes) is logged. Constraints are left as they are; see `Structure.from_ase`.

    Parameters
    ----------
    path
        Any format that ASE reads, compressed or not; an ``@`` in the name is a part of the name.

    Raises
    ------
    InputError
        There is no such file, ASE cannot read it or not all of it, it holds no structure, or it changes while it is
        read. The message names the file, and the line where that is known.
    """
    from ase.io.formats import filetype

    path = existing_file(path)
    stamp = _stamp(path)
    try:
        name = str(path.absolute())  # a relative name could begin like the address of a database server
        kind = filetype(name)
        if kind == "extxyz":
            images = read_extxyz(path)
        elif kind == "vasp":
            images = [read_poscar(path)]
        else:
            images = _read_with_ase(path, name, kind)
    except InputError:
        raise
    except Exception as error:  # ASE's readers raise whatever their parsers do
        raise InputError(f"ASE cannot read it ({type(error).__name__}: {error})", path) from error
    if _stamp(path) != stamp:
        raise InputError("changed while it was read: wait until the program that writes it has ended", path)
    if not images:
        stopped = "" if formats.ended(path, kind) else ": the calculation has not ended"
        raise InputError(f"holds no structure{stopped}", path)
    _refuse_disorder(images, path)
    log.info("read %d structure%s from %s", len(images), "" if len(images) == 1 else "s", path)
    _say_unused(images, path)
    return images


def _read_with_ase(path: Path, name: str, kind: str) -> list[Atoms]:
    from ase.io import read

    formats.before(path, kind)
    try:
        images = list(read(name, index=":", format=kind, do_not_split_by_at_sign=True))
    except Exception as error:
        if formats.ended(path, kind):
            raise
        raise InputError(f"ends in the middle of a structure ({type(error).__name__}: {error})", path) from error
    formats.after(path, kind, images)
    return images


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _refuse_disorder(images: list[Atoms], path: Path) -> None:
    """A site that two species share, or that is empty in some cells, is no structure; ASE takes the first species."""
    for image in images:
        for site in (image.info.get("occupancy") or {}).values():
            if len(site) > 1 or any(share < 0.999 for share in site.values()):
                shares = ", ".join(f"{share:g} {symbol}" for symbol, share in site.items())
                raise InputError(f"has a site that is occupied in part ({shares}): give an ordered structure", path)


def _say_unused(images: list[Atoms], path: Path) -> None:
    """One line on what a file holds and nothing here reads."""
    from ase.data import atomic_masses

    found: dict[str, None] = {}
    for image in images:
        for keys, usual in ((("charge", "total_charge"), ("0", "0.0")), (("spin", "multiplicity"), ("0", "1"))):
            found |= {key: None for key in keys if str(image.info.get(key, 0)) not in usual}
        if "initial_charges" in image.arrays and image.get_initial_charges().any():
            found["initial charges"] = None
        if "masses" in image.arrays:
            usual = atomic_masses[image.numbers]
            if (np.abs(image.get_masses() - usual) > MASS_TOLERANCE).any():
                found["masses"] = None
        if image.arrays.get("initial_magmoms", image.numbers).ndim == 2:
            found["magnetic moments of three components"] = None
        results = getattr(image.calc, "results", {})
        if "magmoms" in results and not image.has("initial_magmoms"):
            found["calculated magnetic moments (initial ones are named initial_magmoms)"] = None
    if found:
        log.info("%s: not used here: %s", path, ", ".join(found))


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


def read_structures(path: str | Path, will_move: bool = True) -> list[Structure]:
    """Every structure in a file.

    Parameters
    ----------
    path
        JSON with ``numbers``, ``positions``, ``cell``, ``pbc``, ``tags``, ``fixed`` and ``magmoms`` (one mapping or a
        list of them), or any format that ASE reads.
    will_move
        False for structures that are only calculated: constraints other than whole fixed atoms, which are refused
        otherwise, do not matter to them.

    Raises
    ------
    InputError
        The file cannot be read; the message names it.
    """
    path = existing_file(path)
    if path.suffix == ".json" and (values := _mappings(path)) is not None:
        several = len(values) > 1
        found = [
            from_mapping(value, f"{path}: entry {n}" if several else path, will_move) for n, value in enumerate(values)
        ]
        log.info("read %d structure%s from %s", len(found), "" if len(found) == 1 else "s", path)
        return found
    images = read_images(path)
    found = []
    for n, image in enumerate(images):
        try:
            found.append(Structure.from_ase(image, will_move))
        except InputError as error:
            raise InputError(error.what, path, f"frame {n}" if len(images) > 1 else None) from error
    if not will_move:
        constraints.say_ignored(images, path)
    return found


def _mappings(path: Path) -> list[dict[str, Any]] | None:
    """The documented mappings in a JSON file; None if it is a database of ASE."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", path, error.lineno) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON in UTF-8: {error}", path) from error
    if isinstance(value, dict) and "1" in value:  # the first row of a database
        return None
    if value == []:
        raise InputError("holds no structure", path)
    return value if isinstance(value, list) else [value]


def read_structure(path: str | Path) -> Structure:
    """The last structure of a file, as ASE's ``read`` returns it; see `read_structures`."""
    return read_structures(path)[-1]
