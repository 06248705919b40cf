"""Before FairChem fine-tunes a model: how far the labels are from it, and ``train.e0s: lstsq``. Runs in its process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rlpath_core.backends import load_local
from rlpath_core.backends.batching import BatchedModel
from rlpath_core.backends.fairchem.bundle import write_checkpoint
from rlpath_core.evaluation import predict
from rlpath_core.training.dataset import choose_indices, open_split
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import RunSpec
from rlpath_core.training.reference_energies import SAMPLE, ReferenceShift, compositions_of, reference_shift, sample

FEW = 24
"""Structures that are looked at where nothing is fitted to them: these networks are slow on a CPU."""
EMBEDDED = 84
"""The networks of both backends embed at least the elements below this one."""


def look_at_labels(
    spec: RunSpec[FairChemTraining], manifest: Path, start: Path, device: str, report: Callable[..., None]
) -> None:
    """Report how far the labels are from the model; with ``train.e0s: lstsq`` move the reference energies in the
    checkpoint ``start`` to them."""
    shift = labels_against(spec, manifest, device)
    moved = None
    if spec.train.e0s == "lstsq":
        moved = {z: float(s) for z, s in zip(shift.elements, shift.shifts, strict=True)}
        write_checkpoint(manifest, start, weights=spec.model.weights, shifts=moved)
    report(event="labels", line=shift.describe(), verdict=shift.verdict, moved=moved is not None)


def labels_against(spec: RunSpec[FairChemTraining], manifest: Path, device: str) -> ReferenceShift:
    """The residual of a sample of ``data.train``, with as many shifts as it has elements."""
    assert spec.data.train is not None
    labelled = open_split(spec.data.train, spec.data)
    chosen = choose_indices(len(labelled), spec.data, spec.data.train_indices, True)
    few = sample(len(chosen), SAMPLE if spec.train.e0s == "lstsq" else FEW)
    taken = [one for one in (labelled[chosen[int(n)]] for n in few) if one.energy is not None]
    elements = sorted({int(z) for one in taken for z in one.structure.numbers})
    energies = np.zeros(0)
    if taken:
        # Nothing of the training may change for this: not the random numbers that EquiformerV2 draws frames from, nor
        # what TorchScript takes from the first calls.
        with torch.random.fork_rng(), torch.jit.optimized_execution(False):
            model = load_local(manifest, weights=spec.model.weights, device=device)
            assert isinstance(model, BatchedModel)
            model.cached_edges = model.split_from = model.edge_budget  # in this thread alone
            model.elements |= {z for z in elements if z < EMBEDDED}  # without a reference energy yet: the fit finds it
            energies = predict(model, taken, energy_only=True).energies
    residuals = np.array([one.energy for one in taken], dtype=float) - energies
    return reference_shift(compositions_of([one.structure.numbers for one in taken], elements), residuals, elements)
