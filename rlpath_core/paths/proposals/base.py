"""The interface of proposals: what is known in, the guess of one search out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.options import ProposalOptions
from rlpath_core.paths.searches.base import Guess
from rlpath_core.registry import Registry
from rlpath_core.structure import Structure

PROPOSALS: Registry[type[Proposal]] = Registry("proposal", "rlpath.proposals")

START_RANGE = 0.5
"""eV: a minimum this far above the lowest one is begun from e times less often."""
TOO_NEAR = 0.75
"""Atoms nearer than this fraction of the sum of their covalent radii are no place to begin."""


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
    merits
        How much a search from each minimum promises, by its name; set by whoever draws. Without them, minima of low
        energy and few searches are preferred.
    """

    roles: Roles
    minima: Sequence[KnownMinimum]
    saddles: Sequence[KnownSaddle] = ()
    pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    merits: dict[str, float] = field(default_factory=dict)

    def minimum(self, name: str) -> KnownMinimum:
        """The minimum of that name."""
        return next(minimum for minimum in self.minima if minimum.name == name)

    def choose(
        self, rng: np.random.Generator, fits: Callable[[KnownMinimum], bool] = lambda minimum: True
    ) -> KnownMinimum | None:
        """Draw the minimum that a search begins from, among those that ``fits``; None if there is none."""
        among = [minimum for minimum in self.minima if fits(minimum)]
        if not among:
            return None
        lowest = min(minimum.energy for minimum in self.minima)
        plain = (np.exp(-(one.energy - lowest) / START_RANGE) / (1 + one.searches) for one in among)
        merit = np.array([self.merits.get(one.name, usual) for one, usual in zip(among, plain, strict=True)])
        return among[int(rng.choice(len(among), p=merit / merit.sum()))]


class Proposal(ABC):
    """Makes guesses. ``Options`` is the config block's schema.

    ``propose`` and ``observe`` are called in an order that depends on the run alone. Everything that they remember is
    in ``state``: plain values and arrays, which a checkpoint keeps.
    """

    name: str = "given"
    """The name in the config: of every guess that it makes."""

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
        """The guess after what it takes model calls to know (a soft mode). Runs inside the search and changes nothing.

        What is worth keeping goes into ``guess.learnt``: ``observe`` gets the guess that this returns.
        """
        return guess

    def observe(self, guess: Guess, saddle: str | None, value: float, calls: int) -> None:  # noqa: B027
        """Learn from a finished search.

        Parameters
        ----------
        guess
            As ``refine`` returned it.
        saddle
            Name of the saddle that it verified, if any.
        value
            1 for a saddle found for the first time, 1/2 for the second, and so on; 0 without a saddle.
        calls
            Structures that it evaluated, ``refine`` and verification included.
        """

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take up the state that ``state`` returned."""


def crowded(structure: Structure, before: Structure) -> bool:
    """Whether more atoms are too near to each other than there were ``before``."""
    return len(bonds(structure, TOO_NEAR).i) > len(bonds(before, TOO_NEAR).i)


def unit(vectors: Floats) -> Floats:
    """``vectors`` (any shape) over the norm of all of them."""
    return np.asarray(vectors / np.linalg.norm(vectors), np.float64)
