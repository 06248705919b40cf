"""Training and evaluation: cached by the content of what goes in, and only as long as what came out is still there."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from rlpath_core.config import is_path
from rlpath_core.files import sha256_of
from rlpath_core.training.fairchem.config import read_config
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import RunSpec
from tasks.policy import RETRIES, key_of
from tasks.progress import Progress


def _train_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    spec: RunSpec = parameters["spec"]
    own = [value for value in dict(spec.train).values() if isinstance(value, Path)]
    model = None if spec.model.manifest is None else Path(spec.model.manifest)
    data = spec.data
    chosen = (data.indices_path, data.train_indices.indices_path, data.val_indices.indices_path)
    inputs = (data.train, data.val, data.replay, *chosen, *own, spec.model_in, model, spec.model.weights)
    given = [path for path in inputs if path is not None and path.exists()]
    # FairChem's configuration may include other files: the whole of it counts.
    train = spec.train
    config = [read_config(train.config_yml)] if isinstance(train, FairChemTraining) and train.config_yml else []
    return key_of("train", spec.model_dump(mode="json"), *given, *config)


@task(name="train", tags=["gpu"], cache_key_fn=_train_key, result_serializer="json", **RETRIES)
def train(spec: RunSpec) -> dict[str, Any]:
    """One training run; it goes on from its own checkpoint where it was ended before."""
    from rlpath_core.training import train as train_model

    # The trainer draws its own bar.
    with Progress("train", bar=False) as progress:
        return _plain(train_model(spec, progress=progress))


def trained_model_is_there(result: dict[str, Any]) -> bool:
    manifest = Path(result["manifest"])
    return manifest.is_file() and sha256_of(manifest) == result["digest"]


def _evaluate_key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    if not is_path(parameters["manifest"]):
        return None  # what a calculator answers is decided by more than the files that can be seen here
    manifest, weights = Path(parameters["manifest"]), parameters["weights"]
    rest = {k: v for k, v in parameters.items() if k not in ("manifest", "data", "weights")}
    return key_of("evaluate", manifest, Path(parameters["data"]), rest, *([Path(weights)] if weights else []))


@task(name="evaluate", tags=["gpu"], cache_key_fn=_evaluate_key, result_serializer="json", **RETRIES)
def evaluate(
    manifest: str,
    data: str,
    weights: str | None = None,
    device: str = "auto",
    head: str | None = None,
    batch_size: int = 32,
    energy_key: str | None = None,
    forces_key: str | None = None,
    energy_only: bool = False,
) -> dict[str, Any]:
    """Errors of a model on a labelled file, LMDB or folder of LMDBs."""
    from rlpath_core.backends import load_model
    from rlpath_core.data import read_labelled
    from rlpath_core.evaluation import check_measurable, metrics_of, predict

    model = load_model(manifest, weights=weights, device=device, head=head)
    labelled = read_labelled(data, needs=(), energy_key=energy_key, forces_key=forces_key)
    check_measurable(labelled, energy_only, data)
    return metrics_of(predict(model, labelled, batch_size, energy_only))


@task(name="run", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def run(spec: RunSpec) -> dict[str, Any]:
    """Whatever a run.yaml asks for: train, finetune, resume, evaluate, infer or export."""
    from rlpath_core.training import run as run_spec

    with Progress(spec.task, bar=False) as progress:
        return _plain(run_spec(spec, progress=progress))


def _plain(result: Any) -> dict[str, Any]:
    if is_dataclass(result) and not isinstance(result, type):
        result = asdict(result)
    if not isinstance(result, dict):
        return {"written": str(result)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in result.items()}
