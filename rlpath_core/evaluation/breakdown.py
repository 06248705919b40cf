"""Where a model's force errors sit: by tag, by element, by the size of the reference force, and by configuration.

The mean over all atoms of a slab says little about the few that react. The headline is the adsorbate (tag 2) where
its forces are largest.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from rlpath_core.evaluation.predicted import Predicted

QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TOP_K = 5
ADSORBATE = 2

Mask = NDArray[np.bool_]


def force_metrics(forces: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    """Of some atoms [n, 3], eV/Å: n_atoms, force_mae and force_rmse over components, mean cosine, mean error norm."""
    errors = forces - reference
    product = np.linalg.norm(forces, axis=1) * np.linalg.norm(reference, axis=1)
    cosine = np.einsum("ij,ij->i", forces, reference) / np.where(product > 0, product, 1)
    return {
        "n_atoms": len(forces),
        "force_mae": float(np.abs(errors).mean()),
        "force_rmse": float(np.sqrt((errors**2).mean())),
        "force_cosine": float(cosine.mean()),
        "force_error_norm": float(np.linalg.norm(errors, axis=1).mean()),
    }


def quantile_bins(norms: NDArray[np.float64]) -> NDArray[np.int64]:
    """[n] -> which fifth of the set (0 to 4) an atom's reference force norm lies in; fifths are equally large.

    By rank: ties, such as the zero forces of a symmetric crystal, go to bins in the order of the atoms.
    """
    rank = np.empty(len(norms), dtype=np.int64)
    rank[np.argsort(norms, kind="stable")] = np.arange(len(norms))
    return np.minimum(rank * (len(QUANTILES) - 1) // max(len(norms), 1), len(QUANTILES) - 2)


def top_k_error(predicted: Predicted, k: int = TOP_K) -> float:
    """Mean over configurations of the mean error norm (eV/Å) of the ``k`` atoms with the largest reference forces."""
    forces, reference = _both(predicted)
    norms, configuration = np.linalg.norm(reference, axis=1), predicted.configuration
    order = np.lexsort((-norms, configuration))
    first = np.concatenate(([0], np.cumsum(predicted.n_atoms)[:-1]))
    chosen = order[np.arange(len(order)) - first[configuration] < k]  # order keeps configurations together
    errors = np.linalg.norm(forces - reference, axis=1)[chosen]
    sums = np.bincount(configuration[chosen], weights=errors, minlength=len(predicted))
    return float((sums / np.minimum(predicted.n_atoms, k)).mean())


def breakdown(predicted: Predicted) -> dict[str, Any]:
    """Force metrics of subsets of the atoms; empty without forces or without a reference.

    by_tag, by_element, by_quantile       metrics per subset; quantiles by reference force norm, "0-20" to "80-100"
    by_tag_and_quantile                   the same quantiles taken within each tag
    headline                              tag 2 at 80-100 % (all atoms at 80-100 % where nothing has tag 2)
    top5_error_per_configuration          see ``top_k_error``
    """
    if predicted.forces is None or predicted.reference_forces is None:
        return {}
    tags, numbers = predicted.tags, predicted.numbers
    everything = np.ones(len(tags), bool)
    by_tag_and_quantile = {str(tag): _by_quantile(predicted, tags == tag) for tag in np.unique(tags)}
    overall = _by_quantile(predicted, everything)
    top = f"{100 * QUANTILES[-2]:.0f}-100"
    return {
        "headline": {"of": f"tag {ADSORBATE}, {top} %", **by_tag_and_quantile[str(ADSORBATE)][top]}
        if str(ADSORBATE) in by_tag_and_quantile
        else {"of": f"all atoms, {top} %", **overall[top]},
        "by_tag": {str(tag): _of(predicted, tags == tag) for tag in np.unique(tags)},
        "by_element": {chemical_symbols[z]: _of(predicted, numbers == z) for z in np.unique(numbers)},
        "by_quantile": overall,
        "by_tag_and_quantile": by_tag_and_quantile,
        f"top{TOP_K}_error_per_configuration": top_k_error(predicted),
    }


def _both(predicted: Predicted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert predicted.forces is not None
    assert predicted.reference_forces is not None
    return predicted.forces, predicted.reference_forces


def _of(predicted: Predicted, mask: Mask) -> dict[str, float]:
    forces, reference = _both(predicted)
    return force_metrics(forces[mask], reference[mask])


def _by_quantile(predicted: Predicted, mask: Mask) -> dict[str, dict[str, float]]:
    _, reference = _both(predicted)
    atoms = np.flatnonzero(mask)
    bins = quantile_bins(np.linalg.norm(reference[atoms], axis=1))
    found = {}
    for n, (low, high) in enumerate(itertools.pairwise(QUANTILES)):
        inside = np.zeros(len(mask), bool)
        inside[atoms[bins == n]] = True
        if inside.any():
            found[f"{100 * low:.0f}-{100 * high:.0f}"] = _of(predicted, inside)
    if "80-100" not in found:  # fewer atoms than fifths: the largest force of all is the top
        inside = np.zeros(len(mask), bool)
        inside[atoms[np.argmax(np.linalg.norm(reference[atoms], axis=1))]] = True
        found["80-100"] = _of(predicted, inside)
    return found
