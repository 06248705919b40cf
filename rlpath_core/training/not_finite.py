"""Which structures are to blame where a prediction is not a finite number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.training.dataset import TrainingSet


def not_finite(
    energies: NDArray[Any] | None, forces: NDArray[Any] | None, sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Structures without a finite prediction.

    Parameters
    ----------
    energies
        [n_structures], or None if they do not matter.
    forces
        [n_atoms in all, 3], or None.
    sizes
        [n_structures], atoms of each.
    """
    wrong = np.zeros(len(sizes), bool)
    if energies is not None:
        wrong |= ~np.isfinite(energies)
    if forces is not None:
        atoms = ~np.isfinite(forces).all(axis=1)
        wrong |= np.bincount(np.repeat(np.arange(len(sizes)), sizes), atoms, minlength=len(sizes)) > 0
    return np.flatnonzero(wrong)


def blame(data: TrainingSet, found: Sequence[int], n: int) -> str:
    """Which of ``n`` structures were found to be at fault, in words: all of them means that none is."""
    if n > 1 and len(found) == n:
        return "for every structure: the weights have run away"
    return f"for {data.named(found)}" if len(found) else "for no structure by itself"
