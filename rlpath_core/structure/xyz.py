"""Extended XYZ, frame by frame, up to the end of the file: ASE's own reader takes an empty line for the end.

ASE parses each frame. Checked here is what it lets pass: a frame that is cut off, keys that differ from the known ones
by upper and lower case only, logical columns that are not T or F, and columns that hold no positions.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.structure")
KEYS = ("Lattice", "Properties", "pbc")
LOGICAL = {"T", "F", "True", "False"}
PBC = re.compile(r"""(?:^|\s)pbc\s*=\s*(?:"([^"]*)"|'([^']*)'|\[([^\]]*)\]|\{([^}]*)\}|(\S+))""")
YES_OR_NO = {"T", "F", "True", "False", "true", "false", "TRUE", "FALSE", "0", "1"}
PROPERTIES = re.compile(r'(?:^|\s)Properties\s*=\s*"?([^\s"]+)')


def frames(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each frame.

    Empty lines between frames are passed over: the number of atoms that must follow tells them from a damaged frame.
    Files that are compressed (gz, bz2, xz) are read too.

    Raises
    ------
    InputError
        A frame does not begin with its number of atoms, or the file ends within a frame; names the line.
    """
    from ase.io.formats import open_with_compression

    try:
        with (
            open_with_compression(str(path), "rb") as binary,
            io.TextIOWrapper(binary, encoding="utf-8-sig") as stream,  # type: ignore[arg-type]
        ):
            line, first = 1, stream.readline()
            while first:
                if not first.strip():
                    line, first = line + 1, stream.readline()
                    continue
                rest = _rest(stream, first, path, line)
                following = stream.readline()
                while following.lstrip().startswith("VEC"):  # lattice vectors written as pseudo atoms
                    rest.append(following)
                    following = stream.readline()
                yield line, "".join([first, *rest])
                line, first = line + 1 + len(rest), following
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path) from error


def _rest(stream: Any, first: str, path: Path, line: int) -> list[str]:
    """The comment and the atoms of the frame that ``first`` announces."""
    try:
        n = int(first)
    except ValueError:
        n = -1
    if n < 1:
        raise InputError(f"a frame begins with its number of atoms, found {first.strip()[:40]!r}", path, line)
    rest = [stream.readline() for _ in range(n + 1)]
    last = rest[-1]
    if not last:
        raise InputError(f"ends within the frame that begins here: {n} atoms are announced", path, line)
    if not last.endswith("\n") and n > 2:  # columns of one width, and the last row is shorter
        widths = {len(row.rstrip()) for row in rest[1:-1]}
        if len(widths) == 1 and len(last.rstrip()) < widths.pop():
            raise InputError("ends in the middle of a line: copy the file again", path, line + n + 1)
    return rest


def read_extxyz(path: Path) -> list[Atoms]:
    """Every frame of a file in extended or plain XYZ, as ASE reads it.

    Raises
    ------
    InputError
        Names the line on which the frame that cannot be read begins.
    """
    from ase.io.extxyz import read_xyz

    images = []
    told: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line, text in frames(path):
            _check_header(text, path, line)
            try:
                (atoms,) = read_xyz(io.StringIO(text), slice(0, 1))
            except Exception as error:  # ASE's parser raises whatever its pieces do
                raise InputError(f"not extended XYZ ({type(error).__name__}: {error})", path, line) from error
            _check_keys(atoms, path, line)
            _take_fixed_column(atoms, path, told)
            images.append(atoms)
    return images


def _check_header(text: str, path: Path, line: int) -> None:
    _, header, body = text.split("\n", 2)
    if found := PBC.search(header):
        words = "".join(group or "" for group in found.groups()).replace(",", " ").split()
        if len(words) not in (1, 3) or not set(words) <= YES_OR_NO:
            raise InputError(f'pbc is {" ".join(words)!r}: write it as pbc="T T F"', path, line + 1)
    found = PROPERTIES.search(header)
    if found is None:
        return
    try:
        names, kinds, widths = _columns(found[1])
    except InputError as error:
        raise InputError(error.what, path, line + 1) from error
    if "L" not in kinds:
        return
    total = sum(widths)
    words = body.split()
    if len(words) % total:  # more columns than are named, or pseudo atoms
        words = [word for row in body.split("\n") for word in row.split()[:total] if not row.lstrip().startswith("VEC")]
    for n, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        for column in range(sum(widths[:n]), sum(widths[: n + 1])) if kind == "L" else ():
            if wrong := set(words[column::total]) - LOGICAL:
                raise InputError(f"column {name} holds {sorted(wrong)[0]!r}, which is neither T nor F", path, line)


@lru_cache(maxsize=16)
def _columns(properties: str) -> tuple[list[str], list[str], list[int]]:
    """Names, kinds and widths of the columns; without positions or elements ASE takes zeros."""
    fields = properties.split(":")
    if not {"pos", "positions"} & set(fields[::3]):
        raise InputError("its Properties name no column 'pos' for the positions")
    if not {"species", "symbols", "Z", "numbers"} & set(fields[::3]):
        raise InputError("its Properties name no column 'species' for the elements")
    try:
        widths = [int(width) for width in fields[2::3]]
    except ValueError:
        widths = []
    if not len(fields[::3]) == len(fields[1::3]) == len(widths):
        raise InputError("its Properties are not NAME:TYPE:COLUMNS triples")
    return fields[::3], fields[1::3], widths


def _check_keys(atoms: Atoms, path: Path, line: int) -> None:
    for key in atoms.info:
        for known in KEYS:
            if key != known and str(key).lower() == known.lower():
                raise InputError(f"key {key!r} is not read: write {known!r}", path, line + 1)
    if not atoms.cell.any() and np.size(atoms.info.get("cell", ())) == 9:
        raise InputError("key 'cell' is not read: write 'Lattice'", path, line + 1)


def _take_fixed_column(atoms: Atoms, path: Path, told: set[str]) -> None:
    """A column ``fixed``, as the JSON form names it, counts where there is no move_mask."""
    from ase.constraints import FixAtoms, FixCartesian

    if "fixed" not in atoms.arrays or atoms.constraints:
        return
    mask = atoms.arrays["fixed"]
    if not np.isin(mask, (0, 1)).all():
        raise InputError("column 'fixed' holds a value that is neither 0 nor 1", path)
    mask = mask.astype(bool)
    if mask.ndim == 1:
        atoms.set_constraint(FixAtoms(mask=mask))
    else:
        atoms.set_constraint([FixCartesian(n, row) for n, row in enumerate(mask) if row.any()])
    if "fixed" not in told:
        told.add("fixed")
        log.info("%s: its column 'fixed' says which atoms do not move (1: fixed)", path)


def info_text(value: str) -> str:
    """A text for ``atoms.info`` that comes back from a comment line as it is: ``007`` would be read as a number."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    value = " ".join(value.splitlines())
    if not value:
        return value
    read = key_val_str_to_dict(key_val_dict_to_str({"key": value}))["key"]
    return value if str(read) == value else f"_JSON {json.dumps(value)}"
