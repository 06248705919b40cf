"""checkpoint.pt: everything a run needs to go on as if it had never stopped. Tensors and plain containers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlpath_core.backends.manifest import MANIFEST
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


OTHER_DATA = (
    "cannot resume on other data ({what}): fine-tune the model that was trained on the old ones (task: finetune, "
    "model_in: its run_dir, and a new run_dir)"
)


def same_settings(saved: dict[str, Any], now: dict[str, Any], path: str | Path) -> None:
    """Raises InputError if a checkpoint was made with other settings or data: its batches would not be repeated.

    What the checkpoint of an older version does not say is not compared.
    """
    saved = {key: saved.get(key, value) for key, value in now.items()}
    for key in ("n_train", "n_replay"):
        if key in now and saved[key] != now[key]:
            what = f"{saved[key]} structures then, {now[key]} now"
            raise InputError(OTHER_DATA.format(what=what), path, "data.train" if key == "n_train" else "data.replay")
    if None not in (saved.get("data"), now.get("data")) and saved["data"] != now["data"]:
        what = "as many, but their files or the choice of entries have changed"
        raise InputError(OTHER_DATA.format(what=what), path, "data.train")
    now = {key: value for key, value in now.items() if key != "data"}
    if change := first_change(saved, now, lambda key: key not in now):
        raise InputError(
            f"cannot resume: it was {change.old!r} and is {change.new!r} now; give the old value, or another run_dir",
            path,
            change.key,
        )


def checkpoint_of(given: Path) -> Path | None:
    """The checkpoint that a path means: the file itself, or that of a run_dir; None where it is something else."""
    path = next((p for p in (given, given / "checkpoints" / "checkpoint.pt") if p.is_file()), None)
    return path if path is not None and is_checkpoint(path) else None


def checkpoint_to_export(given: Path) -> Path | None:
    """The checkpoint whose weights are meant: a file, or that of a run_dir that has no artifacts yet. A run_dir with
    artifacts stands for these, its best weights, in every task."""
    return None if (given / "artifacts" / MANIFEST).is_file() else checkpoint_of(given)


def is_checkpoint(path: Path) -> bool:
    return path.suffix == ".pt" and path.is_file()


def artifacts_beside(checkpoint: Path) -> Path | None:
    """The weights that a run has kept, where its checkpoint is still in its run_dir."""
    folder = checkpoint.resolve().parents[1] / "artifacts"
    return folder if checkpoint.parent.name == "checkpoints" and (folder / MANIFEST).is_file() else None


def cpu_clone(value: Any) -> Any:
    """A copy of nested containers with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: cpu_clone(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cpu_clone(v) for v in value)
    return value
