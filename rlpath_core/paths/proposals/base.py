"""The interface of proposals: what is known in, the guess of one search out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.options import ProposalOptions
from rlpath_core.paths.searches.base import Guess
from rlpath_core.registry import Registry
from rlpath_core.structure import Structure

PROPOSALS: Registry[type[Proposal]] = Registry("proposal", "rlpath.proposals")


@dataclass(frozen=True)
class KnownMinimum:
    """A minimum of the catalogue: ``energy`` in eV; ``searches`` counts those that began from it."""

    name: str
    structure: Structure
    energy: float
    searches: int = 0


@dataclass(frozen=True)
class KnownSaddle:
    """A verified saddle of the catalogue between the minima ``start`` and ``end``: energy eV, mode [n_atoms, 3]."""

    name: str
    structure: Structure
    energy: float
    mode: Floats
    start: str
    end: str


@dataclass
class Landscape:
    """What proposals may look at. The run keeps it up to date; proposals do not change it.

    Attributes
    ----------
    roles
        Roles of the atoms; all structures have the same atoms.
    minima, saddles
        In the order in which they were found.
    pairs
        Names of two minima that an action or a search joined, and how often.
    """

    roles: Roles
    minima: Sequence[KnownMinimum]
    saddles: Sequence[KnownSaddle] = ()
    pairs: dict[tuple[str, str], int] = field(default_factory=dict)


class Proposal(ABC):
    """Makes guesses. ``Options`` is the config block's schema.

    Everything that a proposal learns goes through ``observe`` and is in ``state``: plain values and arrays, which a
    checkpoint keeps.
    """

    Options: ClassVar[type[ProposalOptions]] = ProposalOptions

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def applies(self, landscape: Landscape) -> bool:
        """Whether it has something to propose now."""

    @abstractmethod
    def propose(self, landscape: Landscape, rng: np.random.Generator) -> Guess | None:
        """The guess of one search; None if it has nothing after all. Calls no model."""

    def refine(self, guess: Guess, evaluate: Evaluator, rng: np.random.Generator) -> Guess:
        """The guess after what it takes model calls to know (a soft mode): runs inside the search."""
        return guess

    def observe(self, guess: Guess, saddle: str | None, new: bool, calls: int) -> None:  # noqa: B027
        """Learn from a finished search: the saddle that it verified, if any, whether that is new, and what it cost."""

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take up the state that ``state`` returned."""
