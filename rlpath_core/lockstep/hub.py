"""Many walkers, one batch: walkers are straight-line code in greenlets, the hub answers all of them at once.

A walker's only blocking point is ``ask(structure)``. The hub gathers what all live walkers wait for, makes one
batched prediction, and resumes them in walker order, so the order of events depends on nothing but the walkers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.structure import Structure

Ask = Callable[[Structure], Prediction]


class NotFiniteError(Exception):
    """The model answered with something that is no number: this attempt is lost, the run is not."""


class Hub:
    """Runs scripts side by side over one model. ``calls``, ``batches`` and ``model_seconds`` (by ``clock``) count what
    it cost."""

    def __init__(self, model: Model, clock: Callable[[], float] = time.perf_counter) -> None:
        self.model = model
        self.clock = clock
        self.calls = 0
        self.batches = 0
        self.model_seconds = 0.0

    def run(self, scripts: Sequence[Callable[[Ask], None]], between: Callable[[], None] | None = None) -> None:
        """Run every script to its end. An exception in one ends them all and is raised here.

        ``between`` is called before each batch, when every live script waits for the model.
        """
        hub = getcurrent()

        def ask(structure: Structure) -> Prediction:
            answer: Prediction = hub.switch(structure)
            if not (np.isfinite(answer.energy) and answer.forces is not None and np.isfinite(answer.forces).all()):
                raise NotFiniteError
            return answer

        walkers = [greenlet(script, hub) for script in scripts]
        waiting: list[tuple[greenlet, Structure]] = []

        def resume(walker: greenlet, value: Any) -> None:
            wanted = walker.switch(value)
            if not walker.dead:
                waiting.append((walker, wanted))

        try:
            for walker in walkers:
                resume(walker, ask)
            while waiting:
                if between is not None:
                    between()
                batch, waiting = waiting, []
                began = self.clock()
                answers = self.model.predict([structure for _, structure in batch])
                self.model_seconds += self.clock() - began
                self.calls += len(batch)
                self.batches += 1
                for (walker, _), answer in zip(batch, answers, strict=True):
                    resume(walker, answer)
        finally:
            for walker in walkers:
                if not walker.dead:
                    walker.throw(GreenletExit)
