"""The tasks that read a model and train nothing: evaluate, infer, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlpath_core.backends import Model, load_model
from rlpath_core.backends.mace.architecture import Architecture
from rlpath_core.backends.mace.build import DTYPES, restore, state_of
from rlpath_core.backends.mace.bundle import MANIFEST, read_bundle, write_bundle
from rlpath_core.backends.mace.export import write_model_file
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.data.labelled import LMDB_SUFFIXES, Labelled, open_labelled
from rlpath_core.errors import InputError
from rlpath_core.evaluation import breakdown, metrics_of, predict
from rlpath_core.evaluation.output import FORMATS, write_parity
from rlpath_core.files import atomic_write, sha256_of, write_json
from rlpath_core.spec.run import IndexSpec, RunSpec, resolved
from rlpath_core.structure import Structure, read_structures
from rlpath_core.training.checkpoint import checkpoint_of, load_checkpoint
from rlpath_core.training.dataset import check_elements, choose_indices
from rlpath_core.training.start import given_model
from rlpath_core.training.tasks import TrainResult

MODEL_FILE = "mace.model"


def _write_spec(spec: RunSpec) -> None:
    """Under the task's own name: run_dir may be that of the training run, whose run.yaml stays."""
    with atomic_write(spec.run_dir / f"{spec.task}.yaml") as stream:
        stream.write(resolved(spec))


def export(spec: RunSpec) -> TrainResult:
    """Task ``export``: a bundle in ``run_dir/artifacts`` from a checkpoint, a bundle or a foreign model, and a
    ``mace.model`` beside it that MACECalculator loads."""
    given = spec.model.manifest or spec.model_in
    assert given is not None
    checkpoint = checkpoint_of(given)
    if checkpoint is not None:
        found = load_checkpoint(checkpoint)
        architecture = Architecture.model_validate(found["architecture"])
        head, dtype, parent = found["head"], found["fixed"]["dtype"], found["parent"]
        state = state_of(restore(architecture, found["model"], DTYPES[dtype]), architecture)
    else:
        path = manifest_path(given_model(spec))
        manifest = read_manifest(path)
        architecture, state = read_bundle(path, manifest, spec.model.weights)
        head, dtype, parent = manifest.head or architecture.heads[0], manifest.weights.dtype, sha256_of(path)
    artifacts = spec.run_dir / "artifacts"
    if (artifacts / MANIFEST).is_file() and read_manifest(artifacts).config.get("task") != "export":
        raise InputError("holds the artifacts of a training run: choose another run_dir", spec.run_dir, "run_dir")
    written, digest = write_bundle(
        artifacts, architecture, state, head=head, dtype=dtype, parent=parent, config={"task": "export"}
    )
    write_model_file(artifacts / MODEL_FILE, architecture, state)
    _write_spec(spec)
    return TrainResult(written, digest)


def _model(spec: RunSpec) -> Model:
    return load_model(
        given_model(spec),
        weights=spec.model.weights,
        device=spec.device,
        head=spec.train.head_key,
        amp=spec.eval.amp,
    )


def _chosen(spec: RunSpec, labels: bool) -> tuple[Path, Sequence[Labelled] | Sequence[Structure]]:
    """The entries of ``data.test`` (else ``data.val``) that the index controls choose."""
    path = spec.data.test or spec.data.val
    assert path is not None
    sampling = IndexSpec() if spec.data.test else spec.data.val_indices
    try:
        found: Sequence[Labelled] | Sequence[Structure] = open_labelled(path)
    except InputError:
        if labels or path.suffix in LMDB_SUFFIXES or not path.is_file():
            raise
        found = read_structures(path)
    chosen: Any = [found[i] for i in choose_indices(len(found), spec.data, sampling, True)]
    return path, chosen


def run_evaluate(spec: RunSpec) -> dict[str, Any]:
    """Task ``evaluate``: metrics on ``data.test`` (else ``data.val``), returned and written to ``metrics.json`` with
    their breakdown by tag, element and force; ``parity.png`` beside it."""
    model = _model(spec)
    path, data = _chosen(spec, labels=True)
    check_elements(data, sorted(model.elements), path)
    predicted = predict(model, data, spec.eval.batch_size, spec.eval.energy_only)
    metrics = {**metrics_of(predicted), **breakdown(predicted)}
    write_json(spec.run_dir / "metrics.json", {**metrics, "model": model.digest})
    write_parity(spec.run_dir / "parity.png", predicted)
    _write_spec(spec)
    return metrics


def run_infer(spec: RunSpec) -> Path:
    """Task ``infer``: predictions for ``data.test`` (else ``data.val``) in run_dir, in every one of ``eval.formats``;
    returns the first. The structures need no labels. With ``eval.energy_only`` there are no forces in them."""
    model = _model(spec)
    path, data = _chosen(spec, labels=False)
    check_elements(data, sorted(model.elements), path)
    predicted = predict(model, data, spec.eval.batch_size, spec.eval.energy_only)
    written = []
    for name in spec.eval.formats:
        file, write = FORMATS[name]
        write(spec.run_dir / file, predicted)
        written.append(spec.run_dir / file)
    _write_spec(spec)
    return written[0]
