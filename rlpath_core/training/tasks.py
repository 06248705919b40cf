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

import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.device import resolve_device
from rlpath_core.backends.mace.architecture import Architecture, read_architecture
from rlpath_core.backends.mace.build import DTYPES, build, restore, state_of, with_statistics
from rlpath_core.backends.mace.bundle import MANIFEST, read_bundle, write_bundle
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import InputError
from rlpath_core.evaluation.metrics import evaluate
from rlpath_core.files import atomic_write, sha256_of, write_json
from rlpath_core.spec.run import IndexSpec, RunSpec, resolved
from rlpath_core.training.checkpoint import load_checkpoint
from rlpath_core.training.dataset import TrainingSet, check_labelled, read_split
from rlpath_core.training.loop import Progress, Trainer

RESULT = "result.json"
RUN_YAML = "run.yaml"


@dataclass(frozen=True)
class TrainResult:
    """manifest and its digest, validation metrics of the weights that were kept, training seconds."""

    manifest: Path
    digest: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Start:
    """Where training begins: an architecture, weights where there are any, and which bundle they came from."""

    architecture: Architecture
    state: dict[str, torch.Tensor] | None
    head: str
    parent: str | None


def _start(spec: RunSpec) -> _Start:
    train = spec.train
    if spec.task == "train":
        assert train.input_json is not None  # RunSpec has seen to it
        architecture = read_architecture(train.input_json)
        return _Start(architecture, None, architecture.heads[architecture.head_index(train.head_key)], None)
    path = manifest_path(_given_model(spec))
    manifest = read_manifest(path)
    if manifest.backend != spec.backend:
        raise InputError(f"is of backend {manifest.backend}, and the run is of {spec.backend}", path, "backend")
    architecture, state = read_bundle(path, manifest, spec.model.weights)
    return _Start(architecture, state, architecture.heads[architecture.head_index(train.head_key)], sha256_of(path))


def _given_model(spec: RunSpec) -> Path:
    given = spec.model.manifest or spec.model_in
    assert given is not None
    return given


def _prepare(spec: RunSpec, progress: Progress | None) -> Trainer:
    device = resolve_device(spec.device)
    start = _start(spec)
    architecture = start.architecture
    elements = architecture.z_table

    def split(path: Path, sampling: IndexSpec, active: bool) -> list[Labelled]:
        labelled = read_split(path, spec.data, sampling, active)
        check_labelled(labelled, elements, path)
        return labelled

    assert spec.data.train is not None
    new = split(spec.data.train, spec.data.train_indices, True)
    older = split(spec.data.replay, IndexSpec(), False) if spec.data.replay else []
    val = split(spec.data.val, spec.data.val_indices, False) if spec.data.val else []
    if not val and spec.train.scheduler == "plateau":
        raise InputError("plateau follows the validation loss: give data.val", key="train.scheduler")
    train_set = TrainingSet.build(new + older, architecture.cutoff, elements)
    e0s = spec.train.e0s or ("model" if start.state else "given" if architecture.e0_values is not None else "lstsq")
    if e0s == "model" and start.state is None:
        raise InputError("model: there is none to take them from; choose given or lstsq", key="train.e0s")
    if not (e0s == "model" or (e0s == "given" and start.state is not None)):
        architecture = with_statistics(architecture, train_set.graphs, train_set.energies, train_set.forces, e0s)
    dtype = DTYPES[spec.train.dtype]
    if start.state is None:
        net = build(architecture, dtype, spec.train.seed)
    else:
        state = start.state if e0s == "model" else _with_e0s(start.state, architecture)
        net = restore(architecture, state, dtype)
    table = architecture.e0_table[architecture.head_index(start.head)]
    validation = TrainingSet.build(val, architecture.cutoff, elements).without_free_atoms(table) if val else None
    return Trainer(
        spec,
        architecture,
        net,
        train_set.without_free_atoms(table),
        len(older),
        validation,
        device=device,
        head=start.head,
        parent=start.parent,
        progress=progress,
    )


def _with_e0s(state: dict[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    name = "atomic_energies_fn.atomic_energies"
    return {**state, name: torch.tensor(architecture.e0_table).reshape(state[name].shape)}


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
    if spec.task == "resume":
        return _resume(spec, progress)
    text = resolved(spec)
    # A dot file is what a kill in the middle of an atomic write leaves.
    if spec.run_dir.exists() and any(not p.name.startswith(".") for p in spec.run_dir.iterdir()):
        done = _same_run(spec, text, resume_if_possible)
        if done is not None:
            return done
    trainer = _prepare(spec, progress)
    with atomic_write(spec.run_dir / RUN_YAML) as stream:
        stream.write(text)
    return _run(trainer)


def _same_run(spec: RunSpec, text: str, resume_if_possible: bool) -> TrainResult | None:
    """The result of a finished run in run_dir, None for one to go on with; InputError for another run."""
    there = spec.run_dir / RUN_YAML
    if not there.is_file():
        raise InputError("run_dir is not empty and holds no run of ours: choose another", spec.run_dir)
    if not resume_if_possible:
        raise InputError("run_dir holds a run already: choose another, or task: resume", spec.run_dir)
    if there.read_text(encoding="utf-8") != text:
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


def _resume(spec: RunSpec, progress: Progress | None) -> TrainResult:
    """Task ``resume``: architecture and weights come from the checkpoint, the rest from the spec."""
    given = _given_model(spec)
    path = next((p for p in (given, given / "checkpoints" / "checkpoint.pt") if p.is_file()), None)
    if path is None or path.suffix == ".json":
        raise InputError(
            "task resume needs a checkpoint.pt, or the run_dir that holds checkpoints/checkpoint.pt", given
        )
    state = load_checkpoint(path)
    trainer = _prepare_from_checkpoint(spec, state, progress)
    with atomic_write(spec.run_dir / RUN_YAML) as stream:
        stream.write(resolved(spec))
    own = trainer.checkpoint_path
    if not own.is_file() or path.resolve() != own.resolve():
        if own.is_file():
            raise InputError(
                "run_dir has a checkpoint of its own: resume that one, or choose another run_dir", spec.run_dir
            )
        own.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(own, "wb") as stream:
            stream.write(path.read_bytes())
    (spec.run_dir / RESULT).unlink(missing_ok=True)
    return _run(trainer)


def _prepare_from_checkpoint(spec: RunSpec, state: dict[str, Any], progress: Progress | None) -> Trainer:
    architecture = Architecture.model_validate(state["architecture"])
    assert spec.data.train is not None
    new = read_split(spec.data.train, spec.data, spec.data.train_indices, True)
    older = read_split(spec.data.replay, spec.data, IndexSpec(), False) if spec.data.replay else []
    val = read_split(spec.data.val, spec.data, spec.data.val_indices, False) if spec.data.val else []
    check_labelled(new + older + val, architecture.z_table, spec.data.train)
    table = architecture.e0_table[architecture.head_index(state["head"])]

    def prepared(labelled: list[Labelled]) -> TrainingSet:
        return TrainingSet.build(labelled, architecture.cutoff, architecture.z_table).without_free_atoms(table)

    return Trainer(
        spec,
        architecture,
        build(architecture, DTYPES[spec.train.dtype], spec.train.seed),
        prepared(new + older),
        len(older),
        prepared(val) if val else None,
        device=resolve_device(spec.device),
        head=state["head"],
        parent=state["parent"],
        progress=progress,
    )


def _run(trainer: Trainer) -> TrainResult:
    run_dir = trainer.spec.run_dir
    if trainer.checkpoint_path.is_file():
        trainer.load()
    elif trainer.log_path.exists():
        trainer.log_path.unlink()  # of a run that was killed before its first checkpoint
    with _checkpoint_on_sigterm(trainer):
        reason = trainer.run()
    manifest = trainer.artifacts / MANIFEST
    if reason == "stopped":
        raise InterruptedError(f"{run_dir}: stopped at update step {trainer.at.global_step}; run it again to go on")
    metrics = {**trainer.best_metrics, "stop_reason": reason, "global_step": trainer.at.global_step}
    result = TrainResult(manifest, sha256_of(manifest), metrics, round(trainer.at.seconds, 3))
    write_json(run_dir / RESULT, {"digest": result.digest, "metrics": result.metrics, "seconds": result.seconds})
    return result


def export(spec: RunSpec) -> TrainResult:
    """Task ``export``: a bundle in ``run_dir/artifacts`` from a checkpoint or a bundle, and a ``.model`` beside it."""
    from rlpath_core.backends.mace.export import write_model_file

    given = _given_model(spec)
    checkpoint = next((p for p in (given, given / "checkpoints" / "checkpoint.pt") if p.is_file()), None)
    if checkpoint is not None and checkpoint.suffix == ".pt":
        found = load_checkpoint(checkpoint)
        architecture = Architecture.model_validate(found["architecture"])
        net = restore(architecture, found["model"], DTYPES[found["fixed"]["dtype"]])
        state, head, dtype, parent = (
            state_of(net, architecture),
            found["head"],
            found["fixed"]["dtype"],
            found["parent"],
        )
    else:
        path = manifest_path(given)
        manifest = read_manifest(path)
        architecture, state = read_bundle(path, manifest, spec.model.weights)
        head, dtype, parent = manifest.head or architecture.heads[0], manifest.weights.dtype, sha256_of(path)
    artifacts = spec.run_dir / "artifacts"
    written, digest = write_bundle(
        artifacts, architecture, state, head=head, dtype=dtype, parent=parent, config={"task": "export"}
    )
    write_model_file(artifacts / "mace.model", architecture, state)
    with atomic_write(spec.run_dir / RUN_YAML) as stream:
        stream.write(resolved(spec))
    return TrainResult(written, digest)


def _load_for_reading(spec: RunSpec) -> tuple[Any, list[Labelled]]:
    model = load_model(
        _given_model(spec),
        weights=spec.model.weights,
        device=spec.device,
        head=spec.train.head_key,
        amp=spec.eval.amp,
    )
    data = spec.data.test or spec.data.val
    assert data is not None
    labelled = read_split(data, spec.data, IndexSpec() if spec.data.test else spec.data.val_indices, True)
    check_labelled(labelled, sorted(model.elements), data)
    return model, labelled


def run_evaluate(spec: RunSpec) -> dict[str, Any]:
    """Task ``evaluate``: metrics on ``data.test`` (else ``data.val``), returned and written to ``metrics.json``."""
    model, labelled = _load_for_reading(spec)
    metrics = evaluate(model, labelled, spec.eval.batch_size, spec.eval.energy_only)
    write_json(spec.run_dir / "metrics.json", {**metrics, "model": model.digest})
    return metrics


def run_infer(spec: RunSpec) -> Path:
    """Task ``infer``: predictions for ``data.test`` (else ``data.val``) as ``predictions.extxyz`` in run_dir.

    With ``eval.energy_only`` there are no forces in it.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    model, labelled = _load_for_reading(spec)
    images = []
    for first in range(0, len(labelled), spec.eval.batch_size):
        batch = labelled[first : first + spec.eval.batch_size]
        predictions = model.predict([one.structure for one in batch], forces=not spec.eval.energy_only)
        for one, prediction in zip(batch, predictions, strict=True):
            atoms = one.structure.to_ase()
            results = {"energy": prediction.energy, "forces": prediction.forces}
            atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
            atoms.info["sid"] = one.sid
            images.append(atoms)
    path = spec.run_dir / "predictions.extxyz"
    with atomic_write(path) as stream:
        write(stream, images, format="extxyz")
    return path


def run(spec: RunSpec, *, progress: Progress | None = None) -> Any:
    """What ``spec.task`` says: a TrainResult, metrics, or the path of the predictions."""
    if spec.backend != "mace":
        raise InputError(f"backend {spec.backend} cannot run in this environment", key="backend")
    if spec.task in ("train", "finetune", "resume"):
        return train(spec, progress=progress)
    tasks: dict[str, Callable[[RunSpec], Any]] = {"export": export, "evaluate": run_evaluate, "infer": run_infer}
    return tasks[spec.task](spec)
