"""How far a model is from its reference on a labelled set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlpath_core.data.labelled import Labelled, LabelName, check_labels
from rlpath_core.evaluation.predicted import Predicted, predict

if TYPE_CHECKING:
    from rlpath_core.backends import Model

log = logging.getLogger("rlpath.evaluation")

TOP = 0.2
"""``top20``: atoms whose reference force norm is in the largest fifth of the set."""


def error_metrics(
    energy_errors: NDArray[np.float64] | None,
    n_atoms: NDArray[np.int64],
    forces: NDArray[np.float64] | None = None,
    reference: NDArray[np.float64] | None = None,
    tags: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Errors of a whole set.

    energy_errors  [n_structures], eV, predicted less reference total energy; None where there is no reference
    n_atoms        [n_structures]
    forces, reference  [n_atoms in all, 3], eV/Å
    tags           [n_atoms in all]; where any is not 0, force errors are also given per tag

    Returns n_structures; with energies energy_mae, energy_rmse (eV), energy_mae_per_atom, energy_rmse_per_atom
    (eV/atom); with forces force_mae, force_rmse over components (eV/Å), force_mae_top20 and force_cosine (mean over
    atoms).
    """
    found: dict[str, float] = {"n_structures": len(n_atoms)}
    if energy_errors is not None:
        per_atom = energy_errors / n_atoms
        found |= {
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
        Structures with forces (eV/Å), unless they are left out, and with reference energies (eV), all or none of them.
    batch_size
        Structures per forward pass.
    energy_only
        Leave out the forces.

    Returns
    -------
    dict
        The metrics of `error_metrics`, such as ``force_mae`` (eV/Å) and ``energy_mae_per_atom`` (eV/atom). Without
        energies, those of the energy are not in it, and the log says so.

    Raises
    ------
    InputError
        A structure has no forces, unless they are left out, or no energy, unless none has.
    """
    check_measurable(labelled, energy_only)
    return metrics_of(predict(model, labelled, batch_size, energy_only))


def check_measurable(
    labelled: Sequence[Labelled],
    energy_only: bool = False,
    where: str | Path | None = None,
    indices: Sequence[int] | None = None,
) -> None:
    """Whether errors can be taken on a set; said where only those of forces can.

    Parameters
    ----------
    labelled
        The set.
    energy_only
        Whether forces are left out.
    where
        The file that it comes from.
    indices
        The places of the structures in the file; None: its own.

    Raises
    ------
    InputError
        A structure has no forces, unless they are left out, or no energy, unless none has.
    """
    with_energies = energy_only or any(one.energy is not None for one in labelled)
    needs: list[LabelName] = []
    if with_energies:
        needs.append("energy")
    if not energy_only:
        needs.append("forces")
    check_labels(labelled, needs, where, indices, {"forces": "eval.energy_only: true leaves them out"})
    if labelled and not with_energies:
        log.info("%s: no energies: their errors are left out", where or "the set")


def metrics_of(predicted: Predicted) -> dict[str, float]:
    """``error_metrics`` of answers whose reference is known, in energies, forces or both."""
    reference = predicted.reference_energies
    errors = None if reference is None else predicted.energies - reference
    return error_metrics(errors, predicted.n_atoms, predicted.forces, predicted.reference_forces, predicted.tags)
