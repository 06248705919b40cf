"""A model's answers for a labelled set, kept flat beside the reference so that every metric is one array expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import InputError
from rlpath_core.geometry.neighbours import closest_pair
from rlpath_core.structure import Structure

if TYPE_CHECKING:
    from rlpath_core.backends import Model


@dataclass(frozen=True, eq=False)
class Predicted:
    """Structures, predictions and, where there are labels, the reference.

    energies, reference_energies  [n_structures], eV, total
    forces, reference_forces      [n_atoms in all, 3], eV/Å, structure after structure; None where not asked for
                                  A reference is None unless every structure has that label.
    sids                          one per structure
    """

    structures: Sequence[Structure]
    sids: Sequence[str]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64] | None
    reference_energies: NDArray[np.float64] | None = None
    reference_forces: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.structures)

    @cached_property
    def n_atoms(self) -> NDArray[np.int64]:
        return np.array([len(s) for s in self.structures])

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """[n_atoms in all]"""
        return np.concatenate([s.numbers for s in self.structures])

    @cached_property
    def tags(self) -> NDArray[np.int64]:
        """[n_atoms in all]"""
        return np.concatenate([s.tags for s in self.structures])

    @cached_property
    def configuration(self) -> NDArray[np.int64]:
        """[n_atoms in all], index of the structure that an atom belongs to."""
        return np.repeat(np.arange(len(self)), self.n_atoms)

    def forces_of(self, n: int) -> NDArray[np.float64] | None:
        """[n_atoms of structure n, 3]"""
        if self.forces is None:
            return None
        end = int(self.n_atoms[: n + 1].sum())
        return self.forces[end - int(self.n_atoms[n]) : end]


def _not_finite(structure: Structure) -> str:
    """What to say of a structure without a finite prediction."""
    why = "the model has run away there, or its weights are not finite"
    if (closest := closest_pair(structure)) is not None:
        i, j, length = closest
        why = f"its atoms {i} and {j} are {length:.2g} Å apart"
    return f"the model predicts no finite energy and forces: {why}. Mend the structure or leave it out (data.indices)"


def predict(
    model: Model,
    data: Sequence[Labelled] | Sequence[Structure],
    batch_size: int = 32,
    energy_only: bool = False,
    *,
    where: Path | None = None,
    places: Sequence[int] | None = None,
) -> Predicted:
    """Answers for labelled or bare structures, ``batch_size`` to a forward pass.

    ``where`` is the file that they are from, and ``places`` their entries in it, for errors. Raises InputError for an
    empty set, and naming the first structure with an energy or force that is not a finite number: no metric and no
    file may hold such a value.
    """
    if not data:
        raise InputError("there is nothing to evaluate on: the set is empty")
    structures = [one.structure if isinstance(one, Labelled) else one for one in data]
    energies: list[float] = []
    forces: list[NDArray[np.float64]] = []
    for first in range(0, len(structures), batch_size):
        answers = model.predict(structures[first : first + batch_size], forces=not energy_only)
        for n, answer in enumerate(answers, first):
            if not np.isfinite(answer.energy) or not (answer.forces is None or np.isfinite(answer.forces).all()):
                entry = f"entry {n if places is None else places[n]}"
                raise InputError(_not_finite(structures[n]), where, entry)
            energies.append(answer.energy)
            if answer.forces is not None:
                forces.append(answer.forces)
    reference_energies = [one.energy for one in data if isinstance(one, Labelled) and one.energy is not None]
    reference_forces = [one.forces for one in data if isinstance(one, Labelled) and one.forces is not None]
    return Predicted(
        structures,
        [one.sid if isinstance(one, Labelled) else str(n) for n, one in enumerate(data)],
        np.array(energies),
        np.concatenate(forces) if forces else None,
        np.array(reference_energies) if len(reference_energies) == len(structures) else None,
        np.concatenate(reference_forces) if len(reference_forces) == len(structures) else None,
    )
