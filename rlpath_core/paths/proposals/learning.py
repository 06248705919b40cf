"""What is learnt while searches end: which of several ways finds most per force call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

PRIOR_CALLS = 300.0
"""Every way begins as if it had found ``weight`` saddles in this many force calls."""
FORGET = 0.98
"""What was found counts less by this factor with each search: a way that has found everything it can is left."""


class Yields:
    """Finds per force call of several ways, drawn from by Thompson sampling (doi:10.1093/biomet/25.3-4.285).

    What a way finds in so many calls is taken for a Poisson process. Its rate has a Gamma distribution, from which one
    value is drawn for each way; the largest wins. So a way that finds much is taken often, and one that was hardly
    tried is taken now and then.

    Parameters
    ----------
    weights : mapping of str to float, optional
        Prior finds in ``PRIOR_CALLS`` calls.
    usual : float
        The same for a name that is not in ``weights``. The less, the sooner what has found something is preferred.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, usual: float = 0.3) -> None:
        self.weights, self.usual = dict(weights or {}), usual
        self.found: dict[str, float] = {}
        self.calls: dict[str, float] = {}

    def draw(self, names: Iterable[str], rng: np.random.Generator) -> str:
        """One of ``names``."""
        names = list(names)
        shape = [self.weights.get(name, self.usual) + self.found.get(name, 0.0) for name in names]
        scale = [1.0 / (PRIOR_CALLS + self.calls.get(name, 0.0)) for name in names]
        return names[int(np.argmax(rng.gamma(shape, scale)))]

    def mean(self, name: str) -> float:
        """Finds of a way per ``PRIOR_CALLS`` calls, its prior included."""
        found = self.weights.get(name, self.usual) + self.found.get(name, 0.0)
        return found * PRIOR_CALLS / (PRIOR_CALLS + self.calls.get(name, 0.0))

    def observe(self, name: str, value: float, calls: float) -> None:
        """A search that began this way has found something of this value: 1 for a new saddle, 0 for nothing."""
        for known in self.found:
            self.found[known] *= FORGET
            self.calls[known] *= FORGET
        self.found[name] = self.found.get(name, 0.0) + value
        self.calls[name] = self.calls.get(name, 0.0) + calls

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"found": dict(self.found), "calls": dict(self.calls)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``."""
        self.found, self.calls = dict(state["found"]), dict(state["calls"])
