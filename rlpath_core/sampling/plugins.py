"""Action plugins: applied to every action's result before the validators judge it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rlpath_core.config import Section
from rlpath_core.registry import Registry
from rlpath_core.sampling.actions.base import ActionContext
from rlpath_core.sampling.options import NoiseOptions
from rlpath_core.structure import Structure


class Plugin(ABC):
    Options: ClassVar[type[Section]] = Section

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def apply(
        self, structure: Structure, positions: NDArray[np.float64], context: ActionContext
    ) -> NDArray[np.float64]:
        """The final positions [n_atoms, 3] Å; ``positions`` are those that the action made of ``structure``."""


PLUGINS: Registry[type[Plugin]] = Registry("plugin", "rlpath.plugins")


@PLUGINS.register("noise")
class Noise(Plugin):
    """Gaussian noise, clipped per coordinate."""

    Options = NoiseOptions

    def apply(
        self, structure: Structure, positions: NDArray[np.float64], context: ActionContext
    ) -> NDArray[np.float64]:
        shake = context.rng.normal(0.0, self.options.sigma, positions.shape)
        shake = np.clip(shake, -self.options.clip, self.options.clip)
        if self.options.movable_only:
            shake[~context.roles.movable] = 0.0
        return positions + shake
