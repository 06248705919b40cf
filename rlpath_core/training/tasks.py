"""The tasks of a run.yaml: from a checked spec to artifacts on disk."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rlpath_core.backends.device import resolve_device
from rlpath_core.backends.mace.bundle import MANIFEST
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, sha256_of, write_json
from rlpath_core.spec.load import check, read_mapping
from rlpath_core.spec.run import RunSpec, resolved
from rlpath_core.training.checkpoint import checkpoint_of, load_checkpoint
from rlpath_core.training.distributed import Team, team
from rlpath_core.training.loop import Progress, Trainer
from rlpath_core.training.start import CONVERTED, given_model, prepare, prepare_from_checkpoint

RESULT = "result.json"
RUN_YAML = "run.yaml"


@dataclass(frozen=True)
class TrainResult:
    """manifest and its digest, validation metrics of the weights that were kept, training seconds."""

    manifest: Path
    digest: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@contextmanager
def _checkpoint_on_sigterm(trainer: Trainer) -> Iterator[None]:
    """Asked to end, the trainer writes a checkpoint after the update step it is in; then the signal is sent again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals; epochs and cycles are checkpointed all the same
        return

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if trainer.stop_requested:
            os.kill(os.getpid(), signal.SIGTERM)


def train(spec: RunSpec, *, progress: Progress | None = None, resume_if_possible: bool = True) -> TrainResult:
    """Train from scratch, fine-tune, or resume, as ``spec.task`` says, into ``spec.run_dir``.

    With ``resume_if_possible``, a run_dir that already holds this very run is taken up where it was left, or, when it
    is finished, its result is returned at once. Task ``resume`` insists on a checkpoint; its run_dir is the run's own.
    Raises InputError for bad input, and for a run_dir that holds another run.
    """
    if spec.backend != "mace":
        raise InputError(f"backend {spec.backend} has no core trainer here", key="backend")
    if spec.task not in ("train", "finetune", "resume"):
        raise InputError(f"task {spec.task} does not train", key="task")
    with team(resolve_device(spec.device)) as members:
        if spec.task == "resume":
            return _resume(spec, members, progress)
        # A dot file is what a kill in the middle of an atomic write leaves; a converted model is made by us.
        if spec.run_dir.exists() and any(
            not p.name.startswith(".") for p in spec.run_dir.iterdir() if p.name != CONVERTED
        ):
            done = _same_run(spec, resume_if_possible)
            if done is not None:
                return done
        members.wait()  # all have looked before one writes
        if members.leads and spec.task == "finetune":
            given_model(spec)  # a foreign model is converted by one process
        members.wait()
        trainer = prepare(spec, members.device, members, progress)
        if members.leads:
            _write_spec(spec)
        members.wait()
        return _run(trainer)


def _write_spec(spec: RunSpec) -> None:
    with atomic_write(spec.run_dir / RUN_YAML) as stream:
        stream.write(resolved(spec))


def _same_run(spec: RunSpec, resume_if_possible: bool) -> TrainResult | None:
    """The result of a finished run in run_dir, None for one to go on with; InputError for another run."""
    there = spec.run_dir / RUN_YAML
    if not there.is_file():
        raise InputError("run_dir is not empty and holds no run of ours: choose another", spec.run_dir)
    if not resume_if_possible:
        raise InputError("run_dir holds a run already: choose another, or task: resume", spec.run_dir)
    # Compared as checked, so that a run of an older version, whose run.yaml lacks newer keys, goes on.
    if check(RunSpec, read_mapping(there), there) != spec:
        raise InputError(
            "run_dir holds a run with other settings (see its run.yaml): choose another run_dir, or task: resume",
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


def _resume(spec: RunSpec, members: Team, progress: Progress | None) -> TrainResult:
    """Task ``resume``: architecture and weights come from the checkpoint, the rest from the spec."""
    given = spec.model.manifest or spec.model_in
    assert given is not None
    path = checkpoint_of(given)
    if path is None:
        raise InputError(
            "task resume needs a checkpoint.pt, or the run_dir that holds checkpoints/checkpoint.pt", given
        )
    trainer = prepare_from_checkpoint(spec, load_checkpoint(path), members.device, members, progress)
    own = trainer.checkpoint_path
    if own.is_file() and path.resolve() != own.resolve():
        raise InputError(
            "run_dir has a checkpoint of its own: resume that one, or choose another run_dir", spec.run_dir
        )
    load_checkpoint(path, trainer.fixed)  # what does not fit is said before anything is written
    members.wait()
    if members.leads:
        _write_spec(spec)
        if not own.is_file():
            own.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(own, "wb") as stream:
                stream.write(path.read_bytes())
        (spec.run_dir / RESULT).unlink(missing_ok=True)
    members.wait()
    return _run(trainer)


def _run(trainer: Trainer) -> TrainResult:
    run_dir = trainer.spec.run_dir
    if trainer.checkpoint_path.is_file():
        trainer.load()
    elif trainer.team.leads and trainer.log_path.exists():
        trainer.log_path.unlink()  # of a run that was killed before its first checkpoint
    with _checkpoint_on_sigterm(trainer):
        reason = trainer.run()
    manifest = trainer.artifacts / MANIFEST
    if reason == "stopped":
        raise InterruptedError(f"{run_dir}: stopped at update step {trainer.at.global_step}; run it again to go on")
    trainer.team.wait()
    metrics = {**trainer.best_metrics, "stop_reason": reason, "global_step": trainer.at.global_step}
    result = TrainResult(manifest, sha256_of(manifest), metrics, round(trainer.at.seconds, 3))
    if trainer.team.leads:
        write_json(run_dir / RESULT, {"digest": result.digest, "metrics": result.metrics, "seconds": result.seconds})
    return result


def run(spec: RunSpec, *, progress: Progress | None = None) -> Any:
    """What ``spec.task`` says: a TrainResult, metrics, or the path of the predictions."""
    if spec.backend != "mace":
        raise InputError(f"backend {spec.backend} cannot run in this environment", key="backend")
    if spec.task in ("train", "finetune", "resume"):
        return train(spec, progress=progress)
    from rlpath_core.training.reading import export, run_evaluate, run_infer

    tasks: dict[str, Callable[[RunSpec], Any]] = {"export": export, "evaluate": run_evaluate, "infer": run_infer}
    return tasks[spec.task](spec)
