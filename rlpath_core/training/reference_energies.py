"""Whether labels count energies from the same zero as a model: their residual, split into one shift per element.

Another code, functional or set of pseudopotentials moves total energies by a constant per atom of each element. A
training spends itself on such constants first, while the forces get worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

SAMPLE = 200
"""Structures at most that are looked at before a training: enough for one number per element."""
LIMIT = 0.1
"""eV/atom: a shift that no model of the same reference energies is off by on average."""
EXPLAINED = 0.8
"""Share of the mean square residual that the shifts explain where they are the reason for it."""
SCATTER = 0.3
"""eV/atom: what remains after the shifts is larger if labels of several methods are mixed, or in another unit. It is
smaller for structures that were chosen because the model gets them wrong."""
SINGULAR = 1e-6
"""Relative size below which the compositions are taken not to tell a combination of elements apart."""


@dataclass(frozen=True)
class ReferenceShift:
    """What labels differ from a model by.

    Attributes
    ----------
    elements
        Atomic numbers.
    shifts
        [n_elements], eV per atom of each element: added to the model's energies they leave the smallest mean square
        residual per atom. 0 for elements that no structure contains. Where the compositions cannot tell elements
        apart (always H2O, say), the shifts of least norm.
    present
        [n_elements], whether any structure contains the element.
    determined
        Whether the compositions tell all present elements apart.
    mean
        Mean residual (label minus model), eV/atom.
    rmse
        Root mean square residual, eV/atom.
    remaining
        The same after the shifts, eV/atom.
    n_structures
        How many residuals were finite and used.
    verdict
        ``same``: the labels fit the model's reference energies. ``other``: they have others, and the shifts explain the
        residual. ``scattered``: the residual is large and the shifts do not explain it (labels of several references,
        another unit, or structures that the model does not know).
    """

    elements: tuple[int, ...]
    shifts: NDArray[np.float64]
    present: NDArray[np.bool_]
    determined: bool
    mean: float
    rmse: float
    remaining: float
    n_structures: int
    verdict: Literal["same", "other", "scattered"]

    def describe(self) -> str:
        """One line: the mean residual, what remains, and the shifts."""
        if not self.n_structures:
            return "no label has a finite energy beside the model's"
        mean = round(self.mean, 6) + 0.0  # no -1e-16
        line = f"the energies of {self.n_structures} labels are {mean:+.4g} eV/atom from the model's on average"
        if self.verdict == "same":
            return f"{line} (root mean square {self.rmse:.2g} eV/atom)"
        shifts = ", ".join(
            f"{chemical_symbols[z]} {shift:+.4g}"
            for z, shift, there in zip(self.elements, self.shifts, self.present, strict=True)
            if there
        )
        together = "" if self.determined else ", elements that always come together sharing theirs"
        line += f"; {self.remaining:.2g} eV/atom remain after a shift per element ({shifts} eV{together})"
        if self.verdict == "other":
            return f"{line}: they have other reference energies (another code, functional or pseudopotentials)"
        return (
            f"{line}: no shift per element explains them (labels of several methods, another unit, or structures "
            "that the model does not know)"
        )


def reference_shift(
    compositions: NDArray[np.float64], residuals: NDArray[np.float64], elements: Sequence[int]
) -> ReferenceShift:
    """Split the residuals of labels against a model into one shift per element and what remains.

    Parameters
    ----------
    compositions
        [n_structures, n_elements], number of atoms of each element.
    residuals
        [n_structures], label minus prediction of the total energy, eV. Those that are not finite are left out.
    elements
        [n_elements], atomic numbers of the columns.
    """
    counts = np.asarray(compositions, dtype=float)
    used = np.isfinite(residuals) & (counts.sum(axis=1) > 0)
    counts, left = counts[used], np.asarray(residuals, dtype=float)[used]
    present = counts.any(axis=0)
    n_atoms = counts.sum(axis=1)
    per_atom = left / n_atoms
    fractions = counts / n_atoms[:, None]
    shifts, rank = np.zeros(len(elements)), 0
    if len(left):
        solution, _, rank, _ = np.linalg.lstsq(fractions, per_atom, rcond=SINGULAR)
        shifts = np.where(present, solution, 0.0)
    rmse = _root_mean_square(per_atom)
    remaining = _root_mean_square(per_atom - fractions @ shifts)
    verdict: Literal["same", "other", "scattered"] = "same"
    if rmse > LIMIT:
        if rmse**2 - remaining**2 >= EXPLAINED * rmse**2:
            verdict = "other"
        elif remaining > SCATTER:
            verdict = "scattered"
    return ReferenceShift(
        elements=tuple(int(z) for z in elements),
        shifts=shifts,
        present=present,
        determined=bool(rank == present.sum()),
        mean=float(per_atom.mean()) if len(left) else 0.0,
        rmse=rmse,
        remaining=remaining,
        n_structures=len(left),
        verdict=verdict,
    )


def _root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0


def compositions_of(numbers: Sequence[NDArray[np.int64]], elements: Sequence[int]) -> NDArray[np.float64]:
    """[n_structures, n_elements], atoms of each element; those of elements that are not listed are not counted."""
    index = np.full(max(119, *elements) + 1, len(elements))
    index[list(elements)] = np.arange(len(elements))
    return np.array(
        [np.bincount(index[atoms], minlength=len(elements) + 1)[: len(elements)] for atoms in numbers], dtype=float
    ).reshape(len(numbers), len(elements))


def sample(n: int, limit: int = SAMPLE) -> NDArray[np.int64]:
    """Indices of at most ``limit`` of ``n`` entries, evenly spread over them."""
    if n <= limit:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, limit).round().astype(np.int64))
