"""``structures/<id>.npz``: one structure's arrays, written whole, its content id checked on the way back."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.structure import Structure
from rlpath_core.structure.structure import FIELDS

FORMAT = 2
"""1: without ``magmoms``, which is still how a structure without moments is written."""


def write_npz(path: Path, structure: Structure) -> None:
    """Write atomically; coordinates are kept as they are, unrounded."""
    arrays = structure.arrays()
    version = FORMAT if "magmoms" in arrays else 1
    with atomic_write(path, "wb") as stream:
        np.savez(stream, format=np.int64(version), **arrays)  # type: ignore[arg-type]  # savez takes any name


def read_npz(path: Path, content_id: str | None = None) -> Structure:
    """The structure in ``path``; pickled arrays are refused.

    Raises InputError, which names the file, if it is missing, damaged, or not the content that ``content_id``
    (or else the file's name) promises.
    """
    expected = content_id or path.stem
    try:
        with np.load(path, allow_pickle=False) as arrays:
            version = int(arrays["format"])
            if not 1 <= version <= FORMAT:
                raise InputError(
                    f"structure format {version} is not known here (this rlpath reads up to {FORMAT})", path
                )
            names = FIELDS if version == 1 else (*FIELDS, "magmoms")
            structure = Structure(**{name: arrays[name] for name in names})
    except FileNotFoundError:
        raise InputError("no such structure file", path) from None
    except InputError as error:
        raise InputError(error.what, path) from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"is damaged ({type(error).__name__}: {error}); restore it from a copy", path) from error
    if structure.id != expected:
        raise InputError(f"holds structure {structure.id[:12]}, not {expected[:12]}: it was changed", path)
    return structure
