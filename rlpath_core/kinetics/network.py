"""Minima, saddles and the steps between them as plain data: what rates, files and pictures are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlpath_core.errors import InputError, nearest
from rlpath_core.geometry.cell import Floats
from rlpath_core.structure import Structure


@dataclass(frozen=True, eq=False)
class Minimum:
    """A minimum of the network.

    Attributes
    ----------
    name
        Its name in the catalogue, such as ``B003``.
    structure
        Its positions.
    energy
        eV.
    frequencies
        [n_modes], cm⁻¹, of the movable atoms, sorted; imaginary ones are negative. None if not computed.
    """

    name: str
    structure: Structure
    energy: float
    frequencies: Floats | None = None


@dataclass(frozen=True, eq=False)
class Saddle:
    """A verified saddle: one elementary step, with what shows it.

    Attributes
    ----------
    name
        Its name in the catalogue, such as ``TS002``.
    structure
        Its positions.
    energy
        eV.
    mode
        [n_atoms, 3], norm 1: the direction of negative curvature, from ``start`` to ``end``.
    start, end
        Names of the minima on both sides; the same name for a step between symmetry copies of one minimum.
    frequencies
        As for a minimum: one imaginary one. None before ``rate_ready``.
    degeneracy, degeneracy_back
        Distinct symmetry copies of the step that lead away from one copy of ``start``, and of ``end``.
    state
        guess, converged, first_order, connected, rate_ready or reference_confirmed.
    evidence
        Figures and structure ids that show the state: plain values.
    """

    name: str
    structure: Structure
    energy: float
    mode: Floats
    start: str
    end: str
    frequencies: Floats | None = None
    degeneracy: int = 1
    degeneracy_back: int = 1
    state: str = "connected"
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ReactionNetwork:
    """The minima and saddles of one surface at one level of theory, ``theory`` in words (model or engine, digest)."""

    minima: tuple[Minimum, ...]
    saddles: tuple[Saddle, ...]
    theory: str = ""

    def minimum(self, name: str) -> Minimum:
        """The minimum of that name; InputError if there is none."""
        for minimum in self.minima:
            if minimum.name == name:
                return minimum
        raise InputError(f"the network has no minimum {name!r}.{nearest(name, [one.name for one in self.minima])}")
