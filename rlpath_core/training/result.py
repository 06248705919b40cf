"""What every training run leaves in its run_dir, whichever trainer ran: its settings, inputs, result and artifacts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlpath_core.backends.manifest import read_manifest
from rlpath_core.config import read_section, yaml_of
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, sha256_of, write_json
from rlpath_core.training.inputs import INPUTS, Inputs
from rlpath_core.training.options import RunSpec

RESULT = "result.json"
RUN_YAML = "run.yaml"
MANIFEST = "manifest.json"
CONVERTED = "model_in"
"""Folder in run_dir for the bundle made of a foreign model."""


@dataclass(frozen=True)
class TrainResult:
    """manifest and its digest, validation metrics of the weights that were kept, training seconds."""

    manifest: Path
    digest: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def write_spec(spec: RunSpec, inputs: Inputs) -> None:
    """run.yaml and inputs.json: the settings of a run and what its files hold."""
    inputs.write(spec.run_dir)
    with atomic_write(spec.run_dir / RUN_YAML) as stream:
        stream.write(yaml_of(spec))


def write_result(run_dir: Path, result: TrainResult) -> None:
    write_json(run_dir / RESULT, {"digest": result.digest, "metrics": result.metrics, "seconds": result.seconds})


def holds_something(run_dir: Path) -> bool:
    """A dot file is what a kill in the middle of an atomic write leaves; a converted model is made by us."""
    return run_dir.exists() and any(not p.name.startswith(".") for p in run_dir.iterdir() if p.name != CONVERTED)


def same_run(spec: RunSpec, resume_if_possible: bool, inputs: Inputs) -> TrainResult | None:
    """The result of a finished run in run_dir, None for one to go on with; InputError for another run.

    A run is the same if its settings are and its files hold what they held.
    """
    there = spec.run_dir / RUN_YAML
    if not there.is_file():
        raise InputError("run_dir is not empty and holds no run of ours: choose another", spec.run_dir)
    if not resume_if_possible:
        raise InputError("run_dir holds a run already: choose another, or task: resume", spec.run_dir)
    # Compared as checked, so that a run of an older version, whose run.yaml lacks newer keys, goes on.
    if read_section(there, RunSpec) != spec:
        raise InputError(
            "run_dir holds a run with other settings (see its run.yaml): choose another run_dir, or task: resume",
            spec.run_dir,
        )
    if key := inputs.changed(spec.run_dir):
        raise InputError(
            f"{key} holds something else than when the run in run_dir began (see its {INPUTS}): put it back, or choose "
            "another run_dir" + ("" if key == "data.val" else ", where task: finetune may start from this run's model"),
            spec.run_dir,
        )
    return finished_result(spec.run_dir)


def finished_result(run_dir: Path) -> TrainResult | None:
    """The result of a run that is finished and whose artifacts are whole."""
    path = run_dir / RESULT
    manifest = run_dir / "artifacts" / MANIFEST
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    read_manifest(manifest)
    if sha256_of(manifest) != found["digest"]:
        raise InputError("is not the manifest that the finished run wrote", manifest)
    return TrainResult(manifest, found["digest"], found["metrics"], found["seconds"])
