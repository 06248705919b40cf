"""Where a run begins: its network, its data, and the free-atom energies and statistics that join the two."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rlpath_core.backends.mace.architecture import Architecture, ChosenHead, choose_head, read_architecture
from rlpath_core.backends.mace.build import DTYPES, build, restore, with_statistics
from rlpath_core.backends.mace.bundle import own_head, read_bundle, weights_dtype
from rlpath_core.backends.mace.foreign import convert_model_file, is_foreign
from rlpath_core.backends.mace.heads import with_new_head
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.training.bundles import bundle_of_checkpoint
from rlpath_core.training.checkpoint import is_checkpoint
from rlpath_core.training.dataset import Origin, TrainingSet, check_elements, needed_labels, read_split
from rlpath_core.training.distances import check_distances
from rlpath_core.training.distributed import ProcessGroup
from rlpath_core.training.free_atoms import Trained, with_free_atoms
from rlpath_core.training.options import IndexSpec, MaceTraining, RunSpec
from rlpath_core.training.prepared import Prepared
from rlpath_core.training.result import CONVERTED

log = logging.getLogger("rlpath.training")


@dataclass(frozen=True)
class InitialState:
    """Where training begins: an architecture, weights where there are any, and which bundle they came from.

    dtype  of the weights; None where there are none
    """

    architecture: Architecture
    state: dict[str, torch.Tensor] | None
    head: str
    parent: str | None
    dtype: str | None = None


@dataclass(frozen=True)
class Splits:
    """Labelled structures of a run, as chosen by the index controls."""

    new: list[Labelled]
    replay: list[Labelled]
    val: list[Labelled]
    origins: dict[str, Origin]
    """Of ``train``, ``replay`` and ``val``, as far as there are any."""


def given_model(spec: RunSpec) -> Path:
    """What ``model.manifest`` or ``model_in`` names; a foreign model or a checkpoint is first converted into the run
    folder."""
    given = Path(spec.starting_model)
    if is_checkpoint(given):
        return bundle_of_checkpoint(given, spec.run_dir / CONVERTED)
    if is_foreign(given):
        return convert_model_file(given, spec.run_dir / CONVERTED, trust_pickle=spec.model.trust_pickle)[0]
    return given


def initial_state(spec: RunSpec[MaceTraining]) -> InitialState:
    train = spec.train
    if spec.task == "train":
        assert train.input_json is not None
        architecture = read_architecture(train.input_json)
        chosen = choose_head(architecture, train.given_head, None, "train.head_key")
        _say_head(train.input_json, architecture, chosen)
        return InitialState(architecture, None, chosen.name, None)
    path = manifest_path(given_model(spec))
    manifest = read_manifest(path)
    if manifest.backend != spec.backend:
        raise InputError(f"is of backend {manifest.backend}, and the run is of {spec.backend}", path, "backend")
    architecture, state = read_bundle(path, manifest, spec.model.weights)
    chosen = choose_head(architecture, train.given_head, own_head(manifest, architecture), "train.head_key")
    _say_head(path, architecture, chosen)
    head = chosen.name
    if train.new_head is not None:
        architecture, state = with_new_head(architecture, state, train.new_head, head)
        head = train.new_head
    return InitialState(architecture, state, head, sha256_of(path), weights_dtype(manifest, state, spec.model.weights))


def _say_head(path: Path, architecture: Architecture, chosen: ChosenHead) -> None:
    if len(architecture.heads) > 1:
        log.info("%s: head %s of %s (%s)", path, chosen.name, ", ".join(architecture.heads), chosen.why)


def read_splits(spec: RunSpec[MaceTraining], elements: list[int]) -> Splits:
    """Every split of a training run; InputError for empty ones and for elements that the network lacks."""

    origins: dict[str, Origin] = {}

    def split(name: str, path: Path | None, sampling: IndexSpec, active: bool) -> list[Labelled]:
        if path is None:
            return []
        labelled, places = read_split(path, spec.data, sampling, active, needed_labels(spec.train))
        check_elements(labelled, elements, path)
        origins[name] = Origin(f"data.{name}", path, places)
        return labelled

    splits = Splits(
        split("train", spec.data.train, spec.data.train_indices, True),
        split("replay", spec.data.replay, IndexSpec(), False),
        split("val", spec.data.val, spec.data.val_indices, False),
        origins,
    )
    if not splits.val and spec.train.scheduler == "plateau":
        raise InputError("plateau follows the validation loss: give data.val", key="train.scheduler")
    return splits


def prepare(spec: RunSpec[MaceTraining], processes: ProcessGroup | None = None) -> Prepared:
    """What tasks train and finetune train from their first step on."""
    initial = initial_state(spec)
    architecture = initial.architecture
    splits = read_splits(spec, architecture.z_table)
    train_set = _build(spec, splits.new + splits.replay, architecture, splits, "train", "replay")
    if spec.train.e0s == "lstsq" and train_set.energies is None:
        raise InputError("lstsq fits energies, and not all data have one", key="train.e0s")
    dtype = dtype_of_run(spec.train, initial.dtype)
    if initial.state is not None:
        model = Trained(architecture, initial.state, initial.head, dtype)
        model = with_free_atoms(spec, model, train_set, len(splits.replay), processes or ProcessGroup())
        net = restore(model.architecture, model.state, DTYPES[dtype])
        return _prepared(spec, model.architecture, net, train_set, splits, initial.head, initial.parent, dtype)
    e0s = spec.train.e0s or ("given" if architecture.e0_values is not None else "lstsq")
    if e0s == "model":
        raise InputError("model: there is none to take them from; choose given or lstsq", key="train.e0s")
    architecture = with_statistics(architecture, train_set.graphs, train_set.energies, train_set.forces, e0s)
    net = build(architecture, DTYPES[dtype], spec.train.seed)
    return _prepared(spec, architecture, net, train_set, splits, initial.head, initial.parent, dtype)


def dtype_of_run(train: MaceTraining, own: str | None) -> Literal["float32", "float64"]:
    """The precision that is given, else that of the model or checkpoint, else the default."""
    if "dtype" in train.model_fields_set or own is None or own == train.dtype:
        return train.dtype
    log.info("the weights are of %s and are trained in it; train.dtype: %s would change that", own, train.dtype)
    return "float64" if own == "float64" else "float32"


def prepare_from_checkpoint(spec: RunSpec[MaceTraining], state: dict[str, Any]) -> Prepared:
    """The same for the run that ``state`` was saved by; the trainer then loads the checkpoint."""
    architecture = Architecture.model_validate(state["architecture"])
    dtype = dtype_of_run(spec.train, state["fixed"]["dtype"])
    splits = read_splits(spec, architecture.z_table)
    net = build(architecture, DTYPES[dtype], spec.train.seed)
    train_set = _build(spec, splits.new + splits.replay, architecture, splits, "train", "replay")
    return _prepared(spec, architecture, net, train_set, splits, state["head"], state["parent"], dtype)


def _build(
    spec: RunSpec[MaceTraining], labelled: list[Labelled], architecture: Architecture, splits: Splits, *names: str
) -> TrainingSet:
    """The graphs of some splits; InputError where two atoms of a structure lie in one place."""
    origins = [splits.origins[name] for name in names if name in splits.origins]
    built = TrainingSet.build(labelled, architecture.cutoff, architecture.z_table, spec.data.cache, origins)
    check_distances(built)
    return built


def _prepared(
    spec: RunSpec[MaceTraining],
    architecture: Architecture,
    net: torch.nn.Module,
    train_set: TrainingSet,
    splits: Splits,
    head: str,
    parent: str | None,
    dtype: str,
) -> Prepared:
    table, index = architecture.e0_table, architecture.head_index(head)
    prepared = train_set.without_free_atoms(table[index])
    if splits.replay and spec.data.replay_head is not None:
        replayed = choose_head(architecture, spec.data.replay_head, None, "data.replay_head")
        if len(architecture.heads) > 1:
            heads = np.full(len(train_set), index)
            heads[len(splits.new) :] = architecture.head_index(replayed.name)
            prepared = train_set.of_heads(heads).without_free_atoms(table)
    validation = None
    if splits.val:
        validation = _build(spec, splits.val, architecture, splits, "val").without_free_atoms(table[index])
    return Prepared(architecture, net, prepared, len(splits.replay), validation, head, parent, dtype)
