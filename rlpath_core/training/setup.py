"""Where a run begins: its network, its data, and the free-atom energies and statistics that join the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpath_core.backends.mace.architecture import Architecture, read_architecture
from rlpath_core.backends.mace.build import DTYPES, build, restore, with_statistics
from rlpath_core.backends.mace.bundle import read_bundle
from rlpath_core.backends.mace.foreign import convert_model_file, is_foreign
from rlpath_core.backends.mace.heads import with_new_head
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.training.dataset import TrainingSet, check_elements, needed_labels, read_split
from rlpath_core.training.loop import Prepared
from rlpath_core.training.options import IndexSpec, MaceTraining, RunSpec
from rlpath_core.training.result import CONVERTED


@dataclass(frozen=True)
class InitialState:
    """Where training begins: an architecture, weights where there are any, and which bundle they came from."""

    architecture: Architecture
    state: dict[str, torch.Tensor] | None
    head: str
    parent: str | None


@dataclass(frozen=True)
class Splits:
    """Labelled structures of a run, as chosen by the index controls."""

    new: list[Labelled]
    replay: list[Labelled]
    val: list[Labelled]


def given_model(spec: RunSpec) -> Path:
    """What ``model.manifest`` or ``model_in`` names; a foreign model is converted into the run folder first."""
    given = Path(spec.starting_model)
    if is_foreign(given):
        return convert_model_file(given, spec.run_dir / CONVERTED, trust_pickle=spec.model.trust_pickle)[0]
    return given


def initial_state(spec: RunSpec[MaceTraining]) -> InitialState:
    train = spec.train
    if spec.task == "train":
        assert train.input_json is not None
        architecture = read_architecture(train.input_json)
        return InitialState(architecture, None, architecture.heads[architecture.head_index(train.head_key)], None)
    path = manifest_path(given_model(spec))
    manifest = read_manifest(path)
    if manifest.backend != spec.backend:
        raise InputError(f"is of backend {manifest.backend}, and the run is of {spec.backend}", path, "backend")
    architecture, state = read_bundle(path, manifest, spec.model.weights)
    head = architecture.heads[architecture.head_index(train.head_key)]
    if train.new_head is not None:
        architecture, state = with_new_head(architecture, state, train.new_head, head)
        head = train.new_head
    return InitialState(architecture, state, head, sha256_of(path))


def read_splits(spec: RunSpec[MaceTraining], elements: list[int]) -> Splits:
    """Every split of a training run; InputError for empty ones and for elements that the network lacks."""

    def split(path: Path | None, sampling: IndexSpec, active: bool) -> list[Labelled]:
        if path is None:
            return []
        labelled = read_split(path, spec.data, sampling, active, needed_labels(spec.train))
        check_elements(labelled, elements, path)
        return labelled

    splits = Splits(
        split(spec.data.train, spec.data.train_indices, True),
        split(spec.data.replay, IndexSpec(), False),
        split(spec.data.val, spec.data.val_indices, False),
    )
    if not splits.val and spec.train.scheduler == "plateau":
        raise InputError("plateau follows the validation loss: give data.val", key="train.scheduler")
    return splits


def prepare(spec: RunSpec[MaceTraining]) -> Prepared:
    """What tasks train and finetune train from their first step on."""
    initial = initial_state(spec)
    architecture = initial.architecture
    splits = read_splits(spec, architecture.z_table)
    train_set = _build(spec, splits.new + splits.replay, architecture)
    e0s = spec.train.e0s or ("model" if initial.state else "given" if architecture.e0_values is not None else "lstsq")
    if spec.train.e0s == "lstsq" and train_set.energies is None:
        raise InputError("lstsq fits energies, and not all data have one", key="train.e0s")
    if e0s == "model" and initial.state is None:
        raise InputError("model: there is none to take them from; choose given or lstsq", key="train.e0s")
    if not (e0s == "model" or (e0s == "given" and initial.state is not None)):
        architecture = _with_data(spec, initial, train_set, len(splits.replay), e0s)
    dtype = DTYPES[spec.train.dtype]
    if initial.state is None:
        net = build(architecture, dtype, spec.train.seed)
    else:
        state = initial.state if e0s == "model" else _with_e0s(initial.state, architecture)
        net = restore(architecture, state, dtype)
    return _prepared(spec, architecture, net, train_set, splits, initial.head, initial.parent)


def prepare_from_checkpoint(spec: RunSpec[MaceTraining], state: dict[str, Any]) -> Prepared:
    """The same for the run that ``state`` was saved by; the trainer then loads the checkpoint."""
    architecture = Architecture.model_validate(state["architecture"])
    splits = read_splits(spec, architecture.z_table)
    net = build(architecture, DTYPES[spec.train.dtype], spec.train.seed)
    train_set = _build(spec, splits.new + splits.replay, architecture)
    return _prepared(spec, architecture, net, train_set, splits, state["head"], state["parent"])


def _build(spec: RunSpec[MaceTraining], labelled: list[Labelled], architecture: Architecture) -> TrainingSet:
    return TrainingSet.build(labelled, architecture.cutoff, architecture.z_table, spec.data.cache)


def _prepared(
    spec: RunSpec[MaceTraining],
    architecture: Architecture,
    net: torch.nn.Module,
    train_set: TrainingSet,
    splits: Splits,
    head: str,
    parent: str | None,
) -> Prepared:
    table, index = architecture.e0_table, architecture.head_index(head)
    prepared = train_set.without_free_atoms(table[index])
    if splits.replay and spec.data.replay_head is not None and len(architecture.heads) > 1:
        heads = np.full(len(train_set), index)
        heads[len(splits.new) :] = architecture.head_index(spec.data.replay_head)
        prepared = train_set.of_heads(heads).without_free_atoms(table)
    validation = _build(spec, splits.val, architecture).without_free_atoms(table[index]) if splits.val else None
    return Prepared(architecture, net, prepared, len(splits.replay), validation, head, parent)


def _with_data(
    spec: RunSpec[MaceTraining], initial: InitialState, train_set: TrainingSet, n_replay: int, e0s: str
) -> Architecture:
    """The architecture with what the data say. Of a trained network with several heads only the one at work changes."""
    architecture, heads = initial.architecture, initial.architecture.heads
    if initial.state is None or len(heads) == 1:
        return with_statistics(architecture, train_set.graphs, train_set.energies, train_set.forces, e0s)
    own = len(train_set) - (n_replay if spec.data.replay_head is not None else 0)
    table, index = architecture.e0_table, architecture.head_index(initial.head)
    single = architecture.model_copy(update={"heads": [initial.head], "e0_values": table[index].tolist()})
    energies = None if train_set.energies is None else train_set.energies[:own]
    forces = None if train_set.forces is None else train_set.forces[:own]
    found = with_statistics(single, train_set.graphs[:own], energies, forces, e0s)
    rows = [*table[:index].tolist(), found.e0_table[0].tolist(), *table[index + 1 :].tolist()]
    return architecture.model_copy(update={"e0_values": rows})


def _with_e0s(state: dict[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    name = "atomic_energies_fn.atomic_energies"
    return {**state, name: torch.tensor(architecture.e0_table).reshape(state[name].shape)}
