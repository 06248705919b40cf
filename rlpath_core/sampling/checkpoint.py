"""Checkpoints: a run's state in, the same state out.

A state is a tree of dicts, lists and plain values in which arrays and ``WalkState`` may stand anywhere. Its arrays go
into a file of their own beside the run's other files, ``checkpoint-<number>.npz``, everything else into the database.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.sampling.attempt import WalkState
from rlpath_core.structure import Structure

FORMAT = 4
"""Of a run's state: another number for every change of it. A run of another format is not resumed."""
ARRAY, WALK_STATE = "array", "walk_state"
"""What stands in the database for an array, and for a ``WalkState``."""


def save(run_dir: Path, number: int, state: dict[str, Any]) -> dict[str, Any]:
    """Write the arrays of checkpoint ``number``; returns the JSON-able rest.

    The file of the checkpoint before stays until ``tidy``.
    """
    arrays: dict[str, np.ndarray] = {}
    encoded = _encoded(state, arrays)
    with atomic_write(run_dir / f"checkpoint-{number}.npz", "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    return {"format": FORMAT, "number": number, "state": encoded}


def load(run_dir: Path, saved: dict[str, Any], starts: Sequence[Structure]) -> dict[str, Any]:
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
        state: dict[str, Any] = _decoded(saved["state"], arrays, starts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        what = f"is needed to resume and cannot be read ({type(error).__name__}: {error}); restore it or start anew"
        raise InputError(what, path) from error
    return state


def tidy(run_dir: Path, number: int) -> None:
    """Remove the arrays of all checkpoints but ``number``."""
    for path in run_dir.glob("checkpoint-*.npz"):
        if path.name != f"checkpoint-{number}.npz":
            path.unlink(missing_ok=True)


def walk_states(state: Any) -> Iterator[WalkState]:
    """All of a state, at any depth."""
    if isinstance(state, WalkState):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from walk_states(value)


def _encoded(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, WalkState):
        positions = _encoded(value.structure.positions, arrays)
        return {WALK_STATE: [positions, value.origin, value.energy, value.basin]}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or {ARRAY, WALK_STATE} & set(value):
            raise TypeError(f"keys of a state are strings other than {ARRAY!r} and {WALK_STATE!r}, got {list(value)}")
        return {key: _encoded(entry, arrays) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(entry, arrays) for entry in value]
    if isinstance(value, np.ndarray):
        arrays[f"a{len(arrays)}"] = value
        return {ARRAY: f"a{len(arrays) - 1}"}
    return value.item() if isinstance(value, np.generic) else value


def _decoded(value: Any, arrays: dict[str, np.ndarray], starts: Sequence[Structure]) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, arrays, starts) for entry in value]
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return arrays[value[ARRAY]]
    if WALK_STATE in value:
        positions, origin, energy, basin = value[WALK_STATE]
        return WalkState(starts[origin].moved(_decoded(positions, arrays, starts)), origin, energy, basin)
    return {key: _decoded(entry, arrays, starts) for key, entry in value.items()}
