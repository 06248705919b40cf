"""What every action is given and gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.slab import Roles
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.registry import Registry
from rlpath_core.sampling.options import ActionOptions
from rlpath_core.structure import Structure

ACTIONS: Registry[type[Action]] = Registry("action", "rlpath.actions")


@dataclass(frozen=True)
class ActionContext:
    """What an action may use besides the structure.

    rng       the attempt's own generator: the only source of chance
    scale     1 or more: how many times the configured magnitudes to use (the walk raises it where it is stuck)
    evaluate  energy and forces of one structure, or of a list, in one batch with those of all other walkers
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
        """How often ``apply`` asks the model, about: what costs more is drawn less where a run learns."""
        return 0.0

    @abstractmethod
    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        """The displaced positions, or None where the action has no meaning (no bond to turn, for example)."""

    @staticmethod
    def between(context: ActionContext, lower: float, upper: float) -> float:
        return float(context.rng.uniform(lower, upper) * context.scale)
