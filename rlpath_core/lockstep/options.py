"""Options of relaxations. Lengths are Å, forces eV/Å."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlpath_core.config import Section

Positive = Annotated[float, Field(gt=0)]


class QuenchOptions(Section):
    """Relaxation by ASE, inside the walker. ``none`` leaves the structure as it is."""

    method: Literal["none", "fire", "cg", "bfgs", "lbfgs"] = "bfgs"
    """The optimizer; none leaves a structure as it is."""
    fmax: Positive = 0.1
    """A relaxation ends when the largest force on a movable atom is below this, in eV/Å."""
    steps: int = Field(100, ge=1)
    """The largest number of steps; a relaxation that has not converged by then gives no basin."""
    max_step: Positive | None = None
    """The longest step of one atom, in Å; null takes 0.3 for bfgs with a model Hessian and 0.1 otherwise."""
    hessian: Literal["lindh", "unit"] = "lindh"
    """The curvatures that bfgs starts from: those of a model force field (lindh), or one for all directions (unit)."""
