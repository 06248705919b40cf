"""The modes of a stationary point: its vibrations, and the motions of a free structure that do not vibrate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from ase import units
from ase.data import atomic_masses

from rlpath_core.geometry.cell import Floats
from rlpath_core.structure import Structure

PER_SECOND = 100.0 * units._c
"""1/s in one cm⁻¹."""
KB = units.kB
H = units._hplanck * units.J
"""Planck's constant in eV s."""
LOW = 50.0
"""cm⁻¹: below it a mode is said to be low, since a harmonic oscillator is a poor picture of it."""
NEAR_RIGID = 30.0
"""cm⁻¹: what was computed for a translation or rotation that nothing holds is below."""
STRAIGHT = 1e-3
"""A moment of inertia below this fraction of the largest is that of a line."""


@dataclass(frozen=True, eq=False)
class Modes:
    """The modes of a stationary point.

    Attributes
    ----------
    real
        [n] cm⁻¹: vibrations, positive, sorted.
    imaginary
        [m] cm⁻¹: negative, sorted.
    free
        [k] cm⁻¹, what was computed for translations and rotations of a structure that nothing holds: left out.
    rotations
        How many of ``free`` are rotations: 3, 2 for a line, 0.
    log_inertia
        Half the logarithm of the product of the moments of inertia of the rotations (u Å²).
    """

    real: Floats
    imaginary: Floats
    free: Floats
    rotations: int
    log_inertia: float

    @cached_property
    def classical(self) -> tuple[float, float]:
        """(c, p) of the classical partition function of vibrations and rotations: ln q = c + p ln(T / K)."""
        c = -float(np.sum(np.log(self.real * PER_SECOND * H / KB)))
        if self.rotations:
            inertia = units._amu * 1e-20 * units.J  # 1 u Å² in eV s²
            c += self.rotations / 2 * float(np.log(8 * np.pi**2 * KB * inertia / H**2)) + self.log_inertia
            c += np.log(np.pi) / 2 if self.rotations == 3 else 0.0
        return c, len(self.real) + self.rotations / 2

    @cached_property
    def zero_point(self) -> float:
        """Zero-point energy, eV."""
        return float(self.real.sum()) * units.invcm / 2

    def thermal(self, temperature: float, quantum: bool) -> tuple[float, float, float]:
        """Internal energy (eV, above the potential energy), entropy and heat capacity (eV/K) at ``temperature`` (K).

        Rotations are classical either way, with symmetry number 1: degeneracies hold the symmetry.
        """
        if not quantum:
            c, p = self.classical
            return p * KB * temperature, KB * (c + p + p * float(np.log(temperature))), p * KB
        energies = self.real * units.invcm  # as ase.thermochemistry.HarmonicThermo, but all modes at once
        x = energies / (KB * temperature)
        quanta = np.exp(-x) / -np.expm1(-x)
        turning = replace(self, real=np.zeros(0)).thermal(temperature, quantum=False)
        return (
            float(energies @ (quanta + 0.5)) + turning[0],
            KB * float(x @ quanta - np.log(-np.expm1(-x)).sum()) + turning[1],
            KB * float((x**2) @ (quanta * (quanta + 1))) + turning[2],
        )

    def free_energy(self, temperature: float, quantum: bool) -> float:
        """Helmholtz energy at ``temperature`` (K), eV, above the potential energy."""
        energy, entropy, _ = self.thermal(temperature, quantum)
        return energy - temperature * entropy


def modes(structure: Structure, frequencies: Floats) -> Modes:
    """Sort the frequencies of a stationary point into vibrations, imaginary modes and free motions.

    Parameters
    ----------
    structure
        Where they were computed. Atoms that are not ``fixed`` move.
    frequencies
        [n_modes], cm⁻¹, imaginary ones negative. If there are as many as the structure's free atoms have coordinates,
        the free motions are among them: those of smallest magnitude, 6 of a molecule or cluster, 3 of a crystal
        without a fixed atom. They are left out if all lie within ``NEAR_RIGID``; else something holds the structure,
        and they are vibrations. If there are fewer by just these, they are left out already.
    """
    translations, rotations, log_inertia = _free_motions(structure)
    found = np.sort(np.asarray(frequencies, float))
    n_free, missing = translations + rotations, 3 * int((~structure.fixed).sum()) - len(found)
    smallest = np.zeros(len(found), bool)
    if missing == 0:
        smallest[np.argsort(np.abs(found), kind="stable")[:n_free]] = True
        smallest &= np.abs(found[smallest]).max(initial=0) < NEAR_RIGID
    rest = found[~smallest]
    if missing != n_free and not smallest.any():
        rotations, log_inertia = 0, 0.0
    return Modes(rest[rest > 0], rest[rest <= 0], found[smallest], rotations, log_inertia)


def _free_motions(structure: Structure) -> tuple[int, int, float]:
    """Translations, rotations and half the logarithm of the product of moments of inertia of the whole structure."""
    if structure.fixed.any():
        return 0, 0, 0.0
    if structure.pbc.any():
        return 3, 0, 0.0
    masses = atomic_masses[structure.numbers]
    x = structure.positions - masses @ structure.positions / masses.sum()
    tensor = np.eye(3) * (masses @ (x**2).sum(axis=1)) - (x * masses[:, None]).T @ x
    moments = np.linalg.eigvalsh(tensor)
    moments = moments[moments > STRAIGHT * max(moments[-1], 1e-12)]
    return 3, len(moments), float(np.log(moments).sum()) / 2
