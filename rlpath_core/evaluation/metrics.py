"""How far a model is from its reference on a labelled set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlpath_core.data.labelled import Labelled
from rlpath_core.evaluation.predicted import Predicted, predict

if TYPE_CHECKING:
    from rlpath_core.backends import Model

TOP = 0.2
"""``top20``: atoms whose reference force norm is in the largest fifth of the set."""


def error_metrics(
    energy_errors: NDArray[np.float64],
    n_atoms: NDArray[np.int64],
    forces: NDArray[np.float64] | None = None,
    reference: NDArray[np.float64] | None = None,
    tags: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Errors of a whole set.

    energy_errors  [n_structures], eV, predicted less reference total energy
    n_atoms        [n_structures]
    forces, reference  [n_atoms in all, 3], eV/Å
    tags           [n_atoms in all]; where any is not 0, force errors are also given per tag

    Returns energy_mae, energy_rmse (eV), energy_mae_per_atom, energy_rmse_per_atom (eV/atom) and, with forces,
    force_mae, force_rmse over components (eV/Å), force_mae_top20, force_cosine (mean over atoms) and n_structures.
    """
    per_atom = energy_errors / n_atoms
    found = {
        "n_structures": len(n_atoms),
        "energy_mae": _mean(np.abs(energy_errors)),
        "energy_rmse": _mean(energy_errors**2) ** 0.5,
        "energy_mae_per_atom": _mean(np.abs(per_atom)),
        "energy_rmse_per_atom": _mean(per_atom**2) ** 0.5,
    }
    if forces is None or reference is None:
        return found
    errors = np.abs(forces - reference)
    norms = np.linalg.norm(reference, axis=1)
    n_top = max(1, round(TOP * len(norms)))
    largest = np.argsort(-norms, kind="stable")[:n_top]
    product = np.linalg.norm(forces, axis=1) * norms
    cosine = np.einsum("ij,ij->i", forces, reference) / np.where(product > 0, product, 1)
    found |= {
        "force_mae": _mean(errors),
        "force_rmse": _mean(errors**2) ** 0.5,
        "force_mae_top20": _mean(errors[largest]),
        "force_cosine": _mean(cosine),
    }
    if tags is not None and tags.any():
        for tag in np.unique(tags):
            found[f"force_mae_tag{tag}"] = _mean(errors[tags == tag])
    return found


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values))


def evaluate(
    model: Model, labelled: Sequence[Labelled], batch_size: int = 32, energy_only: bool = False
) -> dict[str, float]:
    """Errors of a model on a labelled set.

    Parameters
    ----------
    model
        Predicts the structures.
    labelled
        Structures with reference energies (eV) and forces (eV/Å).
    batch_size
        Structures per forward pass.
    energy_only
        Leave out the forces.

    Returns
    -------
    dict
        The metrics of `error_metrics`, such as ``force_mae`` (eV/Å) and ``energy_mae_per_atom`` (eV/atom).
    """
    return metrics_of(predict(model, labelled, batch_size, energy_only))


def metrics_of(predicted: Predicted) -> dict[str, float]:
    """``error_metrics`` of answers whose reference is known,."""
    assert predicted.reference_energies is not None
    errors = predicted.energies - predicted.reference_energies
    if predicted.forces is None:
        return error_metrics(errors, predicted.n_atoms)
    return error_metrics(errors, predicted.n_atoms, predicted.forces, predicted.reference_forces, predicted.tags)
