"""Which search is next: the proposal, and the minimum that it begins from; and what is left to be found.

A proposal is drawn by the saddles that it found per force call, a minimum by its energy, and by how many of the saddles
found from it so far were found but once: the share of such finds estimates the chance that the next one is new
(I. J. Good, doi:10.1093/biomet/40.3-4.237).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rlpath_core.config import check
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.proposals import PROPOSALS, Landscape, Proposal
from rlpath_core.paths.proposals.base import START_RANGE
from rlpath_core.paths.proposals.learning import Yields
from rlpath_core.paths.searches.base import Guess

OUTSIDE = "given"
"""What guesses that no proposal made are counted under."""


class Draw:
    """Draws searches, and learns from how they end.

    Parameters
    ----------
    config : PathsConfig
        ``proposals`` names where searches begin.

    Raises
    ------
    InputError
        A proposal that nobody provides, or an option that it does not have.
    """

    def __init__(self, config: PathsConfig) -> None:
        self.proposals: dict[str, Proposal] = {}
        for name, options in config.proposals.items():
            kind = PROPOSALS[name]
            self.proposals[name] = kind(check(kind.Options, options, f"proposals.{name}"))
            self.proposals[name].name = name
        self.yields = Yields({name: one.options.weight for name, one in self.proposals.items()})
        self.found: Counter[str] = Counter()
        """How often each saddle was found, by its name."""
        self.found_from: dict[str, Counter[str]] = {}
        """The same for searches from each minimum."""

    def next(self, landscape: Landscape, rng: np.random.Generator) -> tuple[str, Guess] | None:
        """The next search: the name of a proposal and its guess.

        Parameters
        ----------
        landscape : Landscape
            What is known; the ``searches`` of its minima count those that are still under way.
        rng : numpy.random.Generator
            The only source of chance.

        Returns
        -------
        tuple of (str, Guess), or None
            None if no proposal has anything to propose.
        """
        landscape = replace(landscape, merits=self._merits(landscape))
        left = [name for name, proposal in self.proposals.items() if proposal.applies(landscape)]
        while left:
            name = self.yields.draw(left, rng)
            guess = self.proposals[name].propose(landscape, rng)
            if guess is not None:
                return name, guess
            left.remove(name)
        return None

    def refine(self, guess: Guess, evaluate: Evaluator, rng: np.random.Generator) -> Guess:
        """The guess after what its proposal needs the model for: to be called at the beginning of the search."""
        proposal = self.proposals.get(guess.proposal)
        return guess if proposal is None else proposal.refine(guess, evaluate, rng)

    def observe(self, guess: Guess, saddle: str | None, new: bool, calls: int) -> None:
        """Learn from a finished search.

        Parameters
        ----------
        guess : Guess
            As ``refine`` returned it.
        saddle : str or None
            Name of the saddle that it verified, if any.
        new : bool
            Whether nobody knew that before.
        calls : int
            Structures that it evaluated, with those of ``refine`` and of the verification.
        """
        value = 0.0
        if saddle is not None:
            self.found[saddle] = max(self.found[saddle], 0 if new else 1) + 1
            self.found_from.setdefault(guess.start or OUTSIDE, Counter())[saddle] += 1
            value = 1.0 / self.found[saddle]
        if (proposal := self.proposals.get(guess.proposal)) is not None:
            self.yields.observe(guess.proposal, value, calls)
            proposal.observe(guess, saddle, value, calls)

    @property
    def unseen_probability(self) -> float:
        """Probability that the next verified saddle is new (Good-Turing): 1 before anything was found.

        The saddles found once over all finds, with one of both added: a few finds do not prove that nothing is left.
        """
        return _unseen(self.found, sum(self.found.values()))

    def _merits(self, landscape: Landscape) -> dict[str, float]:
        lowest = min((minimum.energy for minimum in landscape.minima), default=0.0)
        return {
            one.name: float(np.exp(-(one.energy - lowest) / START_RANGE))
            * _unseen(self.found_from.get(one.name, {}), one.searches)
            for one in landscape.minima
        }

    def state(self) -> dict[str, Any]:
        """For the checkpoint: plain values and arrays."""
        return {
            "yields": self.yields.state(),
            "found": dict(self.found),
            "found_from": {name: dict(found) for name, found in self.found_from.items()},
            "proposals": {name: proposal.state() for name, proposal in self.proposals.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``."""
        self.yields.load(state["yields"])
        self.found = Counter(state["found"])
        self.found_from = {name: Counter(found) for name, found in state["found_from"].items()}
        for name, proposal in self.proposals.items():
            if name in state["proposals"]:
                proposal.load(state["proposals"][name])


def _unseen(found: Mapping[str, int], trials: int) -> float:
    """(1 + what was found once) / (1 + trials), at most 1."""
    return min(1.0, (1 + sum(count == 1 for count in found.values())) / (1 + trials))
