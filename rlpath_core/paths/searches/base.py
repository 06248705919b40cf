"""The interface of saddle searches: a guess in, a stationary point or a reason out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.options import SearchOptions
from rlpath_core.registry import Registry
from rlpath_core.structure import Structure

SEARCHES: Registry[type[Search]] = Registry("search", "rlpath.searches")


class SearchEnded(Exception):
    """Raised by ``Surface.watch`` where a search has no hope: it left the surface, or its energy is too high.

    Parameters
    ----------
    reason : str
        ``what:how``, in the manner of a validator: ``detached:off_surface``.
    figure, limit : float
        The value, and the limit that it broke.
    """

    def __init__(self, reason: str, figure: float = 0.0, limit: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.figure, self.limit = reason, figure, limit


@dataclass(frozen=True)
class Guess:
    """Where a search begins.

    Attributes
    ----------
    structure
        The first structure; of a band, one between its ends.
    mode
        [n_atoms, 3], the direction in which the energy should have its maximum, of norm 1; None if nobody knows.
    path
        The images of a band, both minima included, or the two minima alone. Atoms of one element are already paired
        and periodic images settled: the straight line between two images is the shortest.
    start, end
        Names in the catalogue of the minima that the search is about, if they are known.
    proposal
        Name of the proposal that made it.
    parameters
        What the proposal drew, for the records: plain values.
    learnt
        What a proposal hands on to its ``refine``, and that to its ``observe``: plain values and arrays, in no record.
    """

    structure: Structure
    mode: Floats | None = None
    path: tuple[Structure, ...] = ()
    start: str | None = None
    end: str | None = None
    proposal: str = "given"
    parameters: dict[str, Any] = field(default_factory=dict)
    learnt: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Surface:
    """What a search sees of the potential energy surface.

    Attributes
    ----------
    evaluate
        Energy and forces of one structure, or of a list, in one batch with those of all other searches.
    movable
        [n_atoms]; all other atoms are held.
    roles
        Roles of the atoms.
    rng
        The search's own random stream: the only source of chance.
    watch
        Called with every structure that a search moves to and its prediction, not with those that it only probes.
        Raises ``SearchEnded``.
    conservative
        Whether forces are minus the gradient of the energy.
    """

    evaluate: Evaluator
    movable: Mask
    roles: Roles
    rng: np.random.Generator
    watch: Callable[[Structure, Prediction], None] = lambda structure, prediction: None
    conservative: bool = True


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes
    ----------
    structure, prediction
        The last structure, and the model's prediction of it.
    converged
        Whether its largest force on a movable atom is below the search's ``fmax``.
    mode
        [n_atoms, 3], norm 1: the lowest mode as far as the search knows it; None if it does not.
    curvature
        Of the mode, eV/Å².
    steps
        Steps of the search; the structures that it evaluated are counted by the evaluator.
    reason
        Why it ended without convergence.
    path
        The last images of a band.
    further
        Bands on the other side of a minimum that a band has met on its way: guesses of further searches.
    """

    structure: Structure
    prediction: Prediction
    converged: bool
    mode: Floats | None = None
    curvature: float | None = None
    steps: int = 0
    reason: str | None = None
    path: tuple[Structure, ...] = ()
    further: tuple[Guess, ...] = ()


class Search(ABC):
    """A saddle search. ``Options`` is the config block's schema; ``double_ended`` ones begin with a path."""

    Options: ClassVar[type[SearchOptions]] = SearchOptions
    double_ended: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def run(self, guess: Guess, surface: Surface) -> Found:
        """Search from ``guess`` until the largest force is below ``options.fmax`` or a limit is reached.

        Raises
        ------
        SearchEnded
            From ``surface.watch``.
        NotFiniteError
            From ``surface.evaluate``.
        """
