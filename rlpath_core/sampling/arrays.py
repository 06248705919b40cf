"""Arrays that a checkpoint keeps in a file of its own beside the run's other files, ``NAME-<number>.npz``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write


def write_arrays(run_dir: Path, name: str, number: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Those of checkpoint ``number``; the file of the one before stays until ``tidy``."""
    with atomic_write(run_dir / f"{name}-{number}.npz", "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


@contextmanager
def reading_arrays(run_dir: Path, name: str, number: int) -> Iterator[NpzFile]:
    """Those of checkpoint ``number``. Raises InputError, which names the file, where it is missing or damaged."""
    path = run_dir / f"{name}-{number}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        what = f"is needed to resume and cannot be read ({type(error).__name__}: {error}); restore it or start anew"
        raise InputError(what, path) from error


def tidy(run_dir: Path, name: str, keep: int | None) -> None:
    """Remove the files of all checkpoints but ``keep``."""
    for path in run_dir.glob(f"{name}-*.npz"):
        if path.name != f"{name}-{keep}.npz":
            path.unlink(missing_ok=True)
