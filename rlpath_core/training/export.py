"""Task ``export``: standard artifacts from a checkpoint, a bundle or a foreign model, of any backend."""

from __future__ import annotations

import logging
from pathlib import Path

from rlpath_core.backends.manifest import MANIFEST, manifest_path, read_manifest
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.training.checkpoint import checkpoint_to_export
from rlpath_core.training.options import RunSpec
from rlpath_core.training.predicting import write_task
from rlpath_core.training.result import TrainResult

MODEL_FILE = "mace.model"
log = logging.getLogger("rlpath.training")


def export(spec: RunSpec) -> TrainResult:
    """A bundle in ``run_dir/artifacts``, and beside it the same model as the backend's own programs read it:
    ``mace.model`` or ``fairchem.pt``."""
    artifacts = spec.run_dir / "artifacts"
    if (artifacts / MANIFEST).is_file() and read_manifest(artifacts).config.get("task") != "export":
        raise InputError("holds the artifacts of a training run: choose another run_dir", spec.run_dir, "run_dir")
    written, digest = (_export_mace if spec.backend == "mace" else _export_fairchem)(spec, artifacts)
    write_task(spec)
    return TrainResult(written, digest)


def _export_fairchem(spec: RunSpec, artifacts: Path) -> tuple[Path, str]:
    """The bundle, and a ``fairchem.pt`` beside it that OCPCalculator loads."""
    from rlpath_core.backends.fairchem.convert import imported

    given = Path(spec.starting_model)
    return imported(
        checkpoint_to_export(given) or manifest_path(given),
        artifacts,
        backend=spec.backend,
        weights=spec.model.weights,
        config={"task": "export"},
        file=True,
        python=spec.backend_python,
    )


def _export_mace(spec: RunSpec, artifacts: Path) -> tuple[Path, str]:
    """The bundle, and a ``mace.model`` beside it that MACECalculator loads."""
    from rlpath_core.backends.mace.architecture import choose_head
    from rlpath_core.backends.mace.bundle import own_head, read_bundle, weights_dtype, write_bundle
    from rlpath_core.backends.mace.export import write_model_file
    from rlpath_core.training.bundles import weights_of
    from rlpath_core.training.checkpoint import load_checkpoint
    from rlpath_core.training.setup import given_model

    given = Path(spec.starting_model)
    checkpoint = checkpoint_to_export(given)
    if checkpoint is not None:
        found = load_checkpoint(checkpoint)
        own, dtype, parent = found["head"], found["fixed"]["dtype"], found["parent"]
        architecture, state = weights_of(found)
    else:
        path = manifest_path(given_model(spec))
        manifest = read_manifest(path)
        architecture, state = read_bundle(path, manifest, spec.model.weights)
        own, parent = own_head(manifest, architecture), sha256_of(path)
        dtype = weights_dtype(manifest, state, spec.model.weights)
    head = choose_head(architecture, spec.train.given_head, own, "train.head_key")
    if len(architecture.heads) > 1:
        log.info("%s: head %s of %s (%s)", given, head.name, ", ".join(architecture.heads), head.why)
    written, digest = write_bundle(
        artifacts, architecture, state, head=head.name, dtype=dtype, parent=parent, config={"task": "export"}
    )
    write_model_file(artifacts / MODEL_FILE, architecture, state)
    return written, digest
