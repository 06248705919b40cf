"""Units that look wrong: energies against the work of their own forces, and forces against those of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import units
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rlpath_core.data import Labelled
from rlpath_core.geometry.cell import closed_cell, fractional
from rlpath_core.structure import Structure

Floats = NDArray[np.float64]

ENERGY_UNITS = {
    "eV": 1.0,
    "Hartree": units.Hartree,
    "Rydberg": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "meV": 1e-3,
}
"""eV in one of each."""
LENGTH_UNITS = {"Å": 1.0, "Bohr": units.Bohr, "nm": 10.0}
"""Å in one of each."""
FURTHEST = 0.3
"""Å: two frames are compared if no atom moves further between them; the trapezoidal rule then holds within a few
per cent."""
FEWEST = 5
"""Pairs of frames, or atoms, below which nothing is concluded."""
TIGHT = 0.9
"""Correlation above which a ratio is believed."""
TOLERANCE = 0.08
"""Relative deviation within which a ratio is that of two units. Those that are told apart differ by more."""


@dataclass(frozen=True)
class Scale:
    """How many times larger one set of numbers is than another, by least squares through the origin.

    Attributes
    ----------
    ratio : float
        Negative if the signs are opposite.
    correlation : float
        From -1 to 1, about the origin.
    n : int
        Pairs of numbers, or of frames, that were compared.
    """

    ratio: float
    correlation: float
    n: int

    @property
    def conclusive(self) -> bool:
        return self.n >= FEWEST and abs(self.correlation) >= TIGHT

    @property
    def suspicious(self) -> bool:
        """Conclusive, and further from 1 than a poor model or a coarse step explains."""
        return self.conclusive and not 0.6 < self.ratio < 1.6


def scale(measured: Floats, expected: Floats) -> Scale | None:
    """``measured`` (shape (n,)) over ``expected`` (shape (n,)); None if one of them is zero throughout."""
    squares, products, own = float(expected @ expected), float(measured @ expected), float(measured @ measured)
    if squares == 0 or own == 0:
        return None
    return Scale(products / squares, products / np.sqrt(squares * own), len(expected))


def work_of_forces(labelled: Sequence[Labelled]) -> Scale | None:
    """Differences in energy over the work of the forces between neighbouring frames: 1 if units and signs agree.

    Each frame is compared with the nearest other one of the same atoms in the same cell, by the trapezoidal rule
    ``E2 - E1 = -(F1 + F2) / 2 . (x2 - x1)``, across periodic boundaries.

    Parameters
    ----------
    labelled : sequence of Labelled
        In any order; frames without energy or forces are left out.

    Returns
    -------
    Scale or None
        None if no two frames are near each other.
    """
    groups: dict[tuple[bytes, bytes, bytes], list[Labelled]] = {}
    for one in labelled:
        if one.energy is not None and one.forces is not None:
            s = one.structure
            groups.setdefault((s.numbers.tobytes(), np.round(s.cell, 4).tobytes(), s.pbc.tobytes()), []).append(one)
    parts = [_differences(group) for group in groups.values() if len(group) > 1]
    if not parts:
        return None
    energies, works = (np.concatenate(values) for values in zip(*parts, strict=True))
    return scale(energies, works)


def _differences(group: list[Labelled]) -> tuple[Floats, Floats]:
    """Energy differences and work ([n_pairs] eV each) between frames of one group and their nearest neighbours."""
    energies = np.array([one.energy for one in group])
    forces = np.stack([one.forces for one in group if one.forces is not None])
    positions = np.stack([one.structure.positions for one in group])
    _, nearest = cKDTree(positions.reshape(len(group), -1)).query(positions.reshape(len(group), -1), k=2)
    first = np.arange(len(group))
    second = np.where(nearest[:, 1] == first, nearest[:, 0], nearest[:, 1])
    steps = _shortest(positions[second] - positions[first], group[0].structure)
    furthest = np.linalg.norm(steps, axis=2).max(axis=1)
    near = (furthest < FURTHEST) & (furthest > 1e-6)
    unique = np.unique(np.sort(np.stack((first[near], second[near]), axis=1), axis=1), axis=0, return_index=True)[1]
    first, second, steps = first[near][unique], second[near][unique], steps[near][unique]
    work = -0.5 * ((forces[first] + forces[second]) * steps).sum(axis=(1, 2))
    return energies[second] - energies[first], work


def _shortest(steps: Floats, structure: Structure) -> Floats:
    """Displacements (shape (n, n_atoms, 3), Å, each below half a cell) by the shortest way through the boundaries."""
    if not structure.pbc.any():
        return steps
    cell = closed_cell(structure)
    turns = np.round(fractional(steps, cell)) * structure.pbc
    return steps - turns @ cell


def name_of_work(found: Scale) -> str:
    """What a ratio of energies to the work of forces in eV and eV/Å says of the units, in words."""
    if found.suspicious and found.ratio < 0 and abs(found.ratio + 1) < 0.4:
        return "the forces have the wrong sign: they look like gradients"
    energies = {f"energies in {unit}": 1 / per for unit, per in ENERGY_UNITS.items()}
    forces = {
        f"forces in {unit}/{length}": per / per_length
        for unit, per in ENERGY_UNITS.items()
        for length, per_length in LENGTH_UNITS.items()
        if unit != "eV"
    }
    both = {f"forces per {length} beside energies in the same unit": 1 / per for length, per in LENGTH_UNITS.items()}
    return _nearest(found.ratio, energies | both | forces, "energies and forces do not belong together")


def name_of_forces(found: Scale) -> str:
    """What a ratio of labels to predictions in eV/Å says of the unit of the labels, in words."""
    if abs(found.ratio + 1) < 0.4:
        return "the forces have the wrong sign: they look like gradients"
    names = {
        f"forces in {energy}/{length}": per_length / per_energy
        for energy, per_energy in ENERGY_UNITS.items()
        for length, per_length in LENGTH_UNITS.items()
    }
    return _nearest(found.ratio, names, "the forces have another unit, or the model is far off")


def unit_of_energies(ratio: float) -> str:
    """The unit that total energies are in if they are ``ratio`` times those in eV; empty if it is none, or eV."""
    far = {unit: abs(np.log(ratio * per)) for unit, per in ENERGY_UNITS.items() if unit != "eV"} if ratio > 0 else {}
    nearest = min(far, key=lambda unit: far[unit], default="")
    return nearest if nearest and far[nearest] < TOLERANCE else ""


def _nearest(ratio: float, known: dict[str, float], otherwise: str) -> str:
    sign = " of the wrong sign" if ratio < 0 else ""
    off = {name: abs(np.log(abs(ratio) / value)) for name, value in known.items() if value != 1.0}
    fitting = [name for name, far in sorted(off.items(), key=lambda item: item[1]) if far < TOLERANCE]
    return f"it looks like {' or '.join(fitting[:3])}{sign}" if fitting else f"{otherwise}{sign}"
