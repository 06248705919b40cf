"""The tasks that read a model and write no weights, of any backend from any environment: evaluate, infer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlpath_core.backends import Model, load_model
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.config import is_path, yaml_of
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import InputError
from rlpath_core.evaluation import metrics_of, predict
from rlpath_core.evaluation.breakdown import breakdown
from rlpath_core.evaluation.metrics import check_measurable
from rlpath_core.evaluation.output import FORMATS, write_parity
from rlpath_core.files import atomic_write, write_json
from rlpath_core.training.dataset import Origin, check_elements, choose_indices, open_split
from rlpath_core.training.distances import check_structures
from rlpath_core.training.options import IndexSpec, RunSpec
from rlpath_core.training.result import CONVERTED


def write_task(spec: RunSpec) -> None:
    """Under the task's own name: run_dir may be that of the training run, whose run.yaml stays."""
    with atomic_write(spec.run_dir / f"{spec.task}.yaml") as stream:
        stream.write(yaml_of(spec))


def given_bundle(spec: RunSpec) -> Path:
    """What ``model.manifest`` or ``model_in`` names; a model of another form becomes a bundle in the run folder."""
    given = Path(spec.starting_model)
    if spec.backend == "mace":
        from rlpath_core.training.setup import given_model

        return given_model(spec)
    from rlpath_core.backends.fairchem.convert import imported, is_checkpoint

    if is_checkpoint(given):
        return imported(given, spec.run_dir / CONVERTED, backend=spec.backend, python=spec.backend_python)[0]
    return given


def _model(spec: RunSpec) -> Model:
    reference = spec.starting_model
    if is_path(reference):
        reference = str(manifest_path(given_bundle(spec)))
        if (found := read_manifest(reference).backend) != spec.backend:
            raise InputError(f"is of backend {found}, and the run is of {spec.backend}", reference, "backend")
    return load_model(
        reference,
        weights=spec.model.weights,
        device=spec.device,
        head=spec.train.given_head if spec.backend == "mace" else None,
        amp=spec.eval.amp,
        python=spec.backend_python,
    )


def _chosen(spec: RunSpec) -> tuple[Path, list[Labelled], list[int]]:
    """The entries of ``data.test`` (else ``data.val``) that the index controls choose, and their places in it."""
    path = spec.data.test or spec.data.val
    assert path is not None
    found = open_split(path, spec.data)
    chosen = choose_indices(len(found), spec.data, IndexSpec() if spec.data.test else spec.data.val_indices, True)
    return path, [found[i] for i in chosen], chosen


def _check_distances(spec: RunSpec, path: Path, data: Sequence[Labelled], places: list[int]) -> None:
    """InputError where two atoms lie in one place: what a network says of them depends on how it is computed."""
    origin = Origin("data.test" if spec.data.test else "data.val", path, places)
    check_structures((one.structure for one in data), origin)


def run_evaluate(spec: RunSpec) -> dict[str, Any]:
    """Task ``evaluate``: metrics on ``data.test`` (else ``data.val``), returned and written to ``metrics.json`` with
    their breakdown by tag, element and force; ``parity.png`` beside it."""
    model = _model(spec)
    path, data, places = _chosen(spec)
    _check_distances(spec, path, data, places)
    check_measurable(data, spec.eval.energy_only, path, places)
    check_elements(data, sorted(model.elements), path)
    predicted = predict(model, data, spec.eval.batch_size, spec.eval.energy_only, where=path, places=places)
    metrics = {**metrics_of(predicted), **breakdown(predicted)}
    write_json(spec.run_dir / "metrics.json", {**metrics, "model": model.digest})
    write_parity(spec.run_dir / "parity.png", predicted)
    write_task(spec)
    return metrics


def run_infer(spec: RunSpec) -> Path:
    """Task ``infer``: predictions for ``data.test`` (else ``data.val``) in run_dir, in every one of ``eval.formats``;
    returns the first. The structures need no labels. With ``eval.energy_only`` there are no forces in them."""
    model = _model(spec)
    path, data, places = _chosen(spec)
    _check_distances(spec, path, data, places)
    check_elements(data, sorted(model.elements), path)
    predicted = predict(model, data, spec.eval.batch_size, spec.eval.energy_only, where=path, places=places)
    written = []
    for name in spec.eval.formats:
        file, write = FORMATS[name]
        write(spec.run_dir / file, predicted)
        written.append(spec.run_dir / file)
    write_task(spec)
    return written[0]
