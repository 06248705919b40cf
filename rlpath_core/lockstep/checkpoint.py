"""Checkpoints: a run's state in, the same state out.

A state is a tree of dicts, lists and plain values in which arrays may stand anywhere, and objects of the kinds that a
``Codec`` names. Its arrays go into a file of their own beside the run's other files, ``checkpoint-<number>.npz``;
everything else is plain and goes into the database.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write

ARRAY = "array"
"""What stands in the database for an array."""


@dataclass(frozen=True)
class Codec:
    """How objects of one kind are kept.

    Attributes
    ----------
    kind
        Their class.
    plain
        What is kept of one: a value that may have arrays inside.
    made
        The object again, from such a value.
    """

    kind: type
    plain: Callable[[Any], Any]
    made: Callable[[Any], Any]


Codecs = Mapping[str, Codec]
"""By the word that marks such an object in the database."""


def save(run_dir: Path, number: int, state: Mapping[str, Any], codecs: Codecs) -> dict[str, Any]:
    """Write the arrays of checkpoint ``number``; returns the JSON-able rest.

    The file of the checkpoint before stays until ``tidy``.
    """
    arrays: dict[str, np.ndarray] = {}
    encoded = _encoded(state, arrays, codecs)
    with atomic_write(run_dir / f"checkpoint-{number}.npz", "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    return {"number": number, "state": encoded}


def load(run_dir: Path, saved: Mapping[str, Any], codecs: Codecs) -> dict[str, Any]:
    """The state that ``save`` was given.

    Raises
    ------
    InputError
        The file of arrays is missing or damaged.
    """
    path = run_dir / f"checkpoint-{saved['number']}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state: dict[str, Any] = _decoded(saved["state"], arrays, codecs)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        what = f"is needed to resume and cannot be read ({type(error).__name__}: {error}); restore it or start anew"
        raise InputError(what, path) from error
    return state


def tidy(run_dir: Path, number: int) -> None:
    """Remove the arrays of all checkpoints but ``number``."""
    for path in run_dir.glob("checkpoint-*.npz"):
        if path.name != f"checkpoint-{number}.npz":
            path.unlink(missing_ok=True)


def _encoded(value: Any, arrays: dict[str, np.ndarray], codecs: Codecs) -> Any:
    for mark, codec in codecs.items():
        if isinstance(value, codec.kind):
            return {mark: _encoded(codec.plain(value), arrays, codecs)}
    if isinstance(value, dict):
        marks = {ARRAY, *codecs}
        if not all(isinstance(key, str) for key in value) or marks & set(value):
            raise TypeError(f"keys of a state are strings other than {sorted(marks)}, got {list(value)}")
        return {key: _encoded(entry, arrays, codecs) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(entry, arrays, codecs) for entry in value]
    if isinstance(value, np.ndarray):
        arrays[f"a{len(arrays)}"] = value
        return {ARRAY: f"a{len(arrays) - 1}"}
    return value.item() if isinstance(value, np.generic) else value


def _decoded(value: Any, arrays: Mapping[str, np.ndarray], codecs: Codecs) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, arrays, codecs) for entry in value]
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return arrays[value[ARRAY]]
    for mark, codec in codecs.items():
        if mark in value:
            return codec.made(_decoded(value[mark], arrays, codecs))
    return {key: _decoded(entry, arrays, codecs) for key, entry in value.items()}
