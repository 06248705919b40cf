"""Facts about labels: ranges, copies, units, and how far a model is from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlpath_core.backends import Model, Prediction
from rlpath_core.checking.report import Report, counted, listed
from rlpath_core.checking.units import name_of_forces, name_of_work, scale, unit_of_energies, work_of_forces
from rlpath_core.data import Labelled
from rlpath_core.data.labelled import BOTH
from rlpath_core.structure import Structure
from rlpath_core.training.reference_energies import compositions_of, reference_shift

LARGE_FORCE = 30.0
"""eV/Å: a larger force is seldom wanted in a training set; it is the outbox's default limit."""
SAME_ENERGY = 1e-3
"""eV: copies of a structure whose energies differ by more were labelled by different methods."""


def describe_labels(report: Report, labelled: Sequence[Labelled], frames: Sequence[int]) -> None:
    """Add the facts about labels to ``report``; ``frames`` has the place of each in its file."""
    facts, warnings = report.facts, report.warnings
    energies = np.array([one.energy / len(one.structure) for one in labelled if one.energy is not None])
    with_forces = [n for n, one in enumerate(labelled) if one.forces is not None]
    forces = [one.forces for one in labelled if one.forces is not None]
    at = [frames[n] for n in with_forces]
    if len(energies):
        facts["energies"] = f"{len(energies)}, {energies.min():.4f} to {energies.max():.4f} eV/atom"
    if forces:
        flat = np.concatenate(forces)
        norms = np.linalg.norm(flat, axis=1)
        facts["forces"] = (
            f"{len(forces)}, root mean square {np.sqrt((flat**2).mean()):.4f} eV/Å, largest {norms.max():.3f} eV/Å"
        )
        largest = np.array([np.linalg.norm(one, axis=1).max() for one in forces])
        if (far := np.flatnonzero(largest > LARGE_FORCE)).size:
            warnings.append(f"forces above {LARGE_FORCE:g} eV/Å in {counted(len(far), 'structure')}: {_at(far, at)}")
        if not flat.any():
            warnings.append("all forces are zero")
        net = np.array([np.linalg.norm(one.sum(axis=0)) / len(one) for one in forces])
        if (moving := np.flatnonzero(net > 0.05)).size:
            warnings.append(
                f"forces do not add up to zero in {counted(len(moving), 'structure')} "
                f"(more than 0.05 eV/Å an atom): {_at(moving, at)}; a constraint may have cut them"
            )
    for name in BOTH:
        lacking = [n for n, one in enumerate(labelled) if getattr(one, name) is None]
        if 0 < len(lacking) < len(labelled):
            why = labelled[lacking[0]].missing.get(name, f"has no {name}")
            warnings.append(
                f"{counted(len(lacking), 'structure')} of {len(labelled)} cannot be used for training on {name}: frame "
                f"{frames[lacking[0]]}: {why}"
            )
    work = work_of_forces(labelled)
    if work is None or not work.conclusive:
        facts["units"] = "not checked: no frames near each other (give --manifest to compare with a model)"
    else:
        facts["units"] = f"energy differences are {work.ratio:.3g} times the work of the forces ({work.n} pairs)"
        if work.suspicious:
            warnings.append(f"{facts['units']}: {name_of_work(work)}")
    _copies(report, labelled, frames)


def _at(found: NDArray[np.int64], frames: Sequence[int]) -> str:
    return listed([f"frame {frames[n]}" for n in found.tolist()])


def _copies(report: Report, labelled: Sequence[Labelled], frames: Sequence[int]) -> None:
    first: dict[str, int] = {}
    copies, contradictions = [], []
    for n, one in enumerate(labelled):
        known = first.setdefault(one.structure.id, n)
        if known == n:
            continue
        copies.append(f"frame {frames[n]} is frame {frames[known]}")
        energy, before = one.energy, labelled[known].energy
        if energy is not None and before is not None and abs(energy - before) > SAME_ENERGY:
            contradictions.append(f"frames {frames[known]} and {frames[n]} ({energy - before:+.3f} eV)")
    report.facts["copies"] = f"{len(copies)}: {listed(copies)}" if copies else "none"
    if contradictions:
        report.warnings.append(f"one structure with different energies: {listed(contradictions, 3)}")


def compare(report: Report, labelled: Sequence[Labelled], model: Model, batch_size: int = 16) -> None:
    """Add to ``report`` how the labels differ from the predictions of ``model``, whose elements are known."""
    predictions = []
    structures: list[Structure] = [one.structure for one in labelled]
    for start in range(0, len(structures), batch_size):
        predictions += model.predict(structures[start : start + batch_size])
    pairs = [
        (one.forces, p.forces)
        for one, p in zip(labelled, predictions, strict=True)
        if one.forces is not None and p.forces is not None
    ]
    if pairs:
        reference, predicted = (np.concatenate(values) for values in zip(*pairs, strict=True))
        error = np.abs(reference - predicted).mean()
        report.facts["model"] = (
            f"forces differ by {1000 * error:.1f} meV/Å in the mean ({counted(len(pairs), 'structure')})"
        )
        found = scale(reference.ravel(), predicted.ravel())
        if found is not None and found.suspicious:
            report.warnings.append(f"forces are {found.ratio:.3g} times the model's: {name_of_forces(found)}")
    with_energy = [n for n, one in enumerate(labelled) if one.energy is not None]
    if not with_energy:
        return
    known = [structures[n] for n in with_energy]
    residuals = np.array([(labelled[n].energy or 0.0) - predictions[n].energy for n in with_energy])
    elements = np.unique(np.concatenate([structure.numbers for structure in known])).tolist()
    shift = reference_shift(compositions_of([s.numbers for s in known], elements), residuals, elements)
    if shift.verdict == "same":
        report.facts["reference"] = shift.describe()
    else:
        report.warnings.append(f"{shift.describe()}{_factor(known, labelled, with_energy, predictions)}")


def _factor(
    structures: Sequence[Structure],
    labelled: Sequence[Labelled],
    frames: Sequence[int],
    predictions: Sequence[Prediction],
) -> str:
    """What the ratio of energies says of their unit, if the model's total energies are far from zero."""
    n_atoms = np.array([len(structure) for structure in structures])
    labels = np.array([labelled[n].energy or 0.0 for n in frames]) / n_atoms
    predicted = np.array([predictions[n].energy for n in frames]) / n_atoms
    if np.abs(predicted).min() < 1.0:
        return ""
    ratio = float(np.median(labels / predicted))
    name = unit_of_energies(ratio)
    return f"; they are {ratio:.3g} times the model's energies, as in {name}" if name else ""
