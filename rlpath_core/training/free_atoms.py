"""The energies of free atoms in a fine-tuning, and how far its labels are from the model before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from rlpath_core.backends.mace.agreement import with_exact_values
from rlpath_core.backends.mace.architecture import Architecture, read_architecture
from rlpath_core.backends.mace.build import DTYPES, restore
from rlpath_core.backends.mace.model import MaceModel
from rlpath_core.errors import InputError
from rlpath_core.training.dataset import TrainingSet
from rlpath_core.training.distributed import ProcessGroup
from rlpath_core.training.options import MaceTraining, RunSpec
from rlpath_core.training.reference_energies import ReferenceShift, reference_shift, sample

log = logging.getLogger("rlpath.training")

HOW_TO_FIX = (
    "train.e0s: lstsq moves the model's energies of free atoms there; with train.new_head: NAME beside it, those of a "
    "head of their own, and the old head stays as it is"
)


@dataclass(frozen=True)
class Trained:
    """A model that is fine-tuned, and the head of it that is trained."""

    architecture: Architecture
    state: dict[str, torch.Tensor]
    head: str
    dtype: str

    @property
    def e0s(self) -> NDArray[np.float64]:
        """[n_elements], eV."""
        return self.architecture.e0_table[self.architecture.head_index(self.head)]

    def with_e0s(self, e0s: NDArray[np.float64]) -> Trained:
        """The same model with other energies of free atoms (eV) in this head alone."""
        table = self.architecture.e0_table
        table[self.architecture.head_index(self.head)] = e0s
        values = table.tolist() if len(table) > 1 else table[0].tolist()
        architecture = self.architecture.model_copy(update={"e0_values": values})
        return replace(self, architecture=architecture, state=with_exact_values(architecture, self.state))


@dataclass(frozen=True)
class Residuals:
    """Labels minus predictions, eV: [n_structures]; compositions [n_structures, n_elements]."""

    compositions: NDArray[np.float64]
    energies: NDArray[np.float64]

    def shift(self, elements: Sequence[int]) -> ReferenceShift:
        return reference_shift(self.compositions, self.energies, elements)

    def after(self, change: NDArray[np.float64]) -> Residuals:
        """With energies of free atoms that are larger by ``change`` [n_elements], eV."""
        return replace(self, energies=self.energies - self.compositions @ change)


def with_free_atoms(
    spec: RunSpec[MaceTraining], model: Trained, data: TrainingSet, n_replay: int, processes: ProcessGroup
) -> Trained:
    """``model`` with the energies of free atoms that ``train.e0s`` asks for; says how far the labels then are from it.

    Parameters
    ----------
    spec
        The run, of task finetune.
    model
        Is fine-tuned.
    data
        New structures, then ``n_replay`` older ones, with total energies.
    n_replay
        Number of replayed structures.
    processes
        Of this run; the first one looks for all.
    """
    e0s, elements = spec.train.e0s or "model", model.architecture.z_table
    if data.energies is None:  # training on forces alone
        return model.with_e0s(_given(spec, model)) if e0s == "given" else model
    n_new = len(data) - n_replay
    other_head = _replay_head(spec, model)
    fitted = n_new + (n_replay if other_head is None else 0)
    chosen = np.arange(fitted) if e0s == "lstsq" else sample(n_new)
    own = _residuals(model, data, chosen, processes)
    before = model.e0s
    if e0s == "lstsq":
        shift = own.shift(elements)
        model = model.with_e0s(before + shift.shifts)
        _say_change(shift, processes)
    elif e0s == "given":
        model = model.with_e0s(_given(spec, model))
    own = own.after(model.e0s - before)
    new = replace(own, compositions=own.compositions[chosen < n_new], energies=own.energies[chosen < n_new])
    replayed = None
    if n_replay:
        answers = model if other_head is None else replace(model, head=other_head)
        replayed = _residuals(answers, data, n_new + sample(n_replay), processes).shift(elements)
    if processes.is_main:
        _say(new.shift(elements), replayed, e0s)
    return model


def _replay_head(spec: RunSpec[MaceTraining], model: Trained) -> str | None:
    """The head that replayed data belong to where it is not the one that is trained."""
    wanted = spec.data.replay_head
    return None if wanted is None or wanted == model.head or len(model.architecture.heads) == 1 else wanted


def _residuals(model: Trained, data: TrainingSet, indices: NDArray[np.int64], processes: ProcessGroup) -> Residuals:
    graphs = [data.graphs[int(i)] for i in indices]
    n_elements = len(model.architecture.z_table)
    compositions = np.array([np.bincount(g.species, minlength=n_elements) for g in graphs], dtype=float)
    assert data.energies is not None
    energies = None
    if processes.is_main:
        net = restore(model.architecture, model.state, DTYPES[model.dtype])
        own = MaceModel(net, model.architecture, head=model.head, device=processes.device)
        own.cached_edges = own.split_from = own.edge_budget  # in this thread alone
        # TorchScript optimises what all networks share by its first calls: without this the training would round
        # another way for having been looked at.
        with torch.jit.optimized_execution(False):
            predicted = [answer.energy for answer in own.predict_graphs(graphs, forces=False, embeddings=False)]
        energies = data.energies[indices] - np.array(predicted)
    energies = processes.gather(energies)[0]
    return Residuals(compositions, energies)


def _given(spec: RunSpec[MaceTraining], model: Trained) -> NDArray[np.float64]:
    """Those of ``train.input_json``; elements that it lacks keep the model's, as all do without such a file."""
    path = spec.train.input_json
    e0s = model.e0s.copy()
    if path is None:
        return e0s
    found = read_architecture(path)
    if found.e0_values is None:
        raise InputError("is missing, and train.e0s: given takes it", path, "e0_values")
    row = found.e0_table[found.heads.index(model.head) if model.head in found.heads else 0]
    elements = model.architecture.z_table
    for z, value in zip(found.z_table, row, strict=True):
        if z in elements:
            e0s[elements.index(z)] = value
    return e0s


def _say_change(shift: ReferenceShift, processes: ProcessGroup) -> None:
    if not processes.is_main:
        return
    named = [(chemical_symbols[z], moved) for z, moved in zip(shift.elements, shift.shifts, strict=True)]
    moved = ", ".join(
        f"{name} {value:+.4g}" for (name, value), there in zip(named, shift.present, strict=True) if there
    )
    kept = ", ".join(name for (name, _), there in zip(named, shift.present, strict=True) if not there)
    rest = f"; {kept}, which the data lack, keep theirs" if kept else ""
    together = "" if shift.determined else " (the smallest change, for elements that always come together)"
    log.info("train.e0s: lstsq moves the energies of free atoms by %s eV%s%s", moved, together, rest)


def _say(new: ReferenceShift, replayed: ReferenceShift | None, e0s: str) -> None:
    """One line for the new data, and one for the replayed where theirs are another case."""
    fix = f". Fix: {HOW_TO_FIX}" if new.verdict == "other" and e0s != "lstsq" else ""
    if fix and replayed is not None and replayed.verdict == "same":
        fix = (
            ". Fix: data.replay has the model's, so keep both apart: train.e0s: lstsq, train.new_head: NAME, and the "
            "old head as data.replay_head"
        )
    log.log(_level(new), "data.train: %s%s", new.describe(), fix)
    if replayed is not None:
        log.log(_level(replayed), "data.replay: %s", replayed.describe())


def _level(shift: ReferenceShift) -> int:
    return logging.INFO if shift.verdict == "same" else logging.WARNING
