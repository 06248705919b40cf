"""The ladder of verification: how far a search has come, and what shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rlpath_core.geometry.cell import Floats
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.structure import Structure


class State(StrEnum):
    """States of a saddle, each of which includes those before it. Nothing is called a step before ``connected``."""

    GUESS = "guess"
    CONVERGED = "converged"
    """The largest force is below ``verify.fmax``."""
    FIRST_ORDER = "first_order"
    """Exactly one curvature is negative."""
    CONNECTED = "connected"
    """Both sides of the mode relax into minima, which differ."""
    RATE_READY = "rate_ready"
    """Saddle and ends have frequencies: one imaginary, none."""
    REFERENCE_CONFIRMED = "reference_confirmed"
    """The reference method has a small force there, and a negative curvature along the mode."""


@dataclass(frozen=True)
class Verdict:
    """What verification says of a search.

    Attributes
    ----------
    state
        The highest state that was reached.
    rejection
        Why it goes no further; None if nothing speaks against it. not_converged: the force. minimum: no curvature is
        negative. second_order: more than one is. desorbed: a fragment left the surface. end_not_converged: a side does
        not come to rest. uphill: a side comes to rest above the saddle. disconnected: both sides end in one structure.
        barrier: it is too high. not_finite: the model's answer. inconsistent: forces and energies contradict
        each other on the way down. Or a hard limit such as ``min_dist:too_near``.
    structure, energy, fmax
        The stationary point, eV and eV/Å.
    curvatures
        The two lowest, eV/Å²; None before they were computed.
    mode
        [n_atoms, 3], norm 1, from the first end to the second; None before it is known.
    sides
        The structures displaced along the mode by ``verify.displacement``, towards the first and the second end.
    ends
        What both sides relaxed into.
    hessian
        [3 n_movable, 3 n_movable], eV/Å², symmetric; None without one.
    asymmetry
        Norm of the antisymmetric part of the forces' derivatives over that of their symmetric part: 0 but for numerical
        errors if the forces are a gradient. None before curvatures were computed.
    prefactor
        Factor by which a prefactor depends on whether the antisymmetric part is taken in; see ``Curvatures``.
    disagreement
        eV: by how much the work of the forces on the way down and the fall of the energy differ, the larger of both
        sides. None if the forces are a gradient, or before the descent.
    figure, limit
        The value that ``rejection`` is about, and what it should be above or below.
    """

    state: State
    structure: Structure
    energy: float
    fmax: float
    rejection: str | None = None
    curvatures: tuple[float, float] | None = None
    mode: Floats | None = None
    sides: tuple[Structure, Structure] | None = None
    ends: tuple[Quenched, Quenched] | None = None
    hessian: Floats | None = None
    asymmetry: float | None = None
    prefactor: float | None = None
    disagreement: float | None = None
    figure: float | None = None
    limit: float | None = None
