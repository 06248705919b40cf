"""Long runs: what an attempt needed is gone with it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from ase.optimize.optimize import Optimizer

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.ase import HubCalculator
from rlpath_core.lockstep.relax import Relaxation
from rlpath_core.sampling.attempt import Attempt, Plan, Result, Trial
from rlpath_core.sampling.in_flight import InFlightAttempt
from rlpath_core.structure import Structure


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fire", "cg", "bfgs", "lbfgs"])
def test_nothing_of_an_attempt_waits_for_the_collector(no_collector: None, run, copper: Structure, method: str) -> None:
    """Cyclic references would keep Hessians and forces of thousands of attempts until a full collection."""
    kinds = (Optimizer, HubCalculator, Relaxation, Prediction, Attempt, Plan, Trial, Result, InFlightAttempt)

    def alive() -> Counter[str]:
        return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, kinds))

    before = alive()
    summary = run(copper, walkers=4, steps=16, quench={"method": method, "steps": 15}, md={"weight": 4.0})
    assert summary.attempts_rejected < 16
    assert alive() == before
