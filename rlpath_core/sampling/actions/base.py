"""The interface of actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.registry import Registry
from rlpath_core.sampling.options import ActionOptions
from rlpath_core.structure import Structure

ACTIONS: Registry[type[Action]] = Registry("action", "rlpath.actions")


@dataclass(frozen=True)
class ActionContext:
    """What an action may use besides the structure.

    Attributes
    ----------
    roles
        Roles of the atoms: which move, which are the adsorbate.
    rng
        The attempt's own random stream: the only source of chance.
    scale
        1 or more: factor on the configured magnitudes.
    evaluate
        Energy and forces of one structure, or of a list, in one batch with those of all other walkers.
    """

    roles: Roles
    rng: np.random.Generator
    scale: float
    evaluate: Evaluator


@dataclass(frozen=True)
class Move:
    """New positions [n_atoms, 3] Å, and what was drawn, for the records (JSON-able)."""

    positions: NDArray[np.float64]
    parameters: dict[str, Any] = field(default_factory=dict)


class Action(ABC):
    """Displaces movable atoms. ``Options`` is the config block's schema."""

    Options: ClassVar[type[ActionOptions]] = ActionOptions

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def force_calls(self) -> float:
        """About how many structures ``apply`` evaluates. An action that costs more is drawn less if the run learns."""
        return 0.0

    @abstractmethod
    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        """The displaced positions, or None if the action does not apply (there is no bond to rotate, for example)."""

    @staticmethod
    def between(context: ActionContext, lower: float, upper: float) -> float:
        return float(context.rng.uniform(lower, upper) * context.scale)
