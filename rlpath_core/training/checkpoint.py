"""checkpoint.pt: everything a run needs to go on as if it had never stopped. Tensors and plain containers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlpath_core.backends.tensors import load_tensors, save_tensors
from rlpath_core.errors import InputError

SCHEMA_VERSION = 1
FIXED = ("batch_size", "accum_steps", "drop_last", "n_train", "n_replay", "seed", "optimizer", "dtype")
"""What must not change between a run and its resumption: the batches would be others."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    save_tensors(path, {"schema_version": SCHEMA_VERSION, **state})


def load_checkpoint(path: Path, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
    """A checkpoint; InputError where it is damaged, of another version, or was made with another ``fixed``."""
    state = load_tensors(path)
    if not isinstance(state, dict) or state.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"not a checkpoint of schema {SCHEMA_VERSION}", path)
    for key, value in (fixed or {}).items():
        if state["fixed"].get(key) != value:
            raise InputError(
                f"cannot resume: it was {state['fixed'].get(key)!r} and is {value!r} now; "
                "give the old value, or another run_dir",
                path,
                key,
            )
    return state


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
