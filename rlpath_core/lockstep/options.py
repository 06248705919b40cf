"""Options of relaxations. Lengths are Å, forces eV/Å."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlpath_core.config import Section

Positive = Annotated[float, Field(gt=0)]


class QuenchOptions(Section):
    """Relaxation by ASE, inside the walker. ``none`` leaves the structure as it is."""

    method: Literal["none", "fire", "cg", "bfgs", "lbfgs"] = "bfgs"
    fmax: Positive = 0.1
    steps: int = Field(100, ge=1, description="an optimizer that has not converged by then gives no basin")
    max_step: Positive | None = Field(
        None, description="longest step of one atom, Å; null: 0.3 for bfgs with a model Hessian, else 0.1"
    )
    hessian: Literal["lindh", "unit"] = Field(
        "lindh", description="curvatures that bfgs begins with: a model force field's, or one for all directions"
    )
