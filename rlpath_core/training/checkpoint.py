"""checkpoint.pt: everything a run needs to go on as if it had never stopped. Tensors and plain containers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlpath_core.backends.tensors import load_tensors, save_tensors
from rlpath_core.config import first_change
from rlpath_core.errors import InputError

SCHEMA_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    save_tensors(path, {"schema_version": SCHEMA_VERSION, **state})


def load_checkpoint(path: Path, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
    """A checkpoint; InputError where it is damaged, of another version, or was made with another ``fixed``."""
    state = load_tensors(path)
    if not isinstance(state, dict) or state.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"not a checkpoint of schema {SCHEMA_VERSION}", path)
    if fixed is not None:
        same_settings(state["fixed"], fixed, path)
    return state


def same_settings(saved: dict[str, Any], now: dict[str, Any], path: str | Path) -> None:
    """Raises InputError if a checkpoint was made with other settings: its batches would not be repeated."""
    if change := first_change(saved, now, lambda key: key not in now):
        raise InputError(
            f"cannot resume: it was {change.old!r} and is {change.new!r} now; give the old value, or another run_dir",
            path,
            change.key,
        )


def checkpoint_of(given: Path) -> Path | None:
    """The checkpoint that a path means: the file itself, or that of a run_dir; None where it is something else."""
    path = next((p for p in (given, given / "checkpoints" / "checkpoint.pt") if p.is_file()), None)
    return path if path is not None and path.suffix == ".pt" else None


def cpu_clone(value: Any) -> Any:
    """A copy of nested containers with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: cpu_clone(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cpu_clone(v) for v in value)
    return value
