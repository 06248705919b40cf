"""Pieces of a walker side by side: the same results as one after the other, in fewer batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.relax import Quenched, quench
from rlpath_core.lockstep.together import side_by_side
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.potentials import LennardJonesModel, lj_cluster


def shaken(structure: Structure, seed: int) -> Structure:
    noise = np.random.default_rng(seed).normal(scale=0.05, size=structure.positions.shape)
    return structure.moved(structure.positions + noise)


def relax(start: Structure, evaluate: Evaluator) -> Quenched:
    movable = np.ones(len(start), bool)
    return quench(start, movable, evaluate(start), evaluate, QuenchOptions(fmax=0.01, steps=100))


def test_two_relaxations_are_those_that_run_alone():
    starts = [shaken(lj_cluster(7), seed) for seed in range(2)]
    model, together = LennardJonesModel(), list[Quenched]()

    def side(evaluate: Evaluator) -> None:
        together.extend(side_by_side([partial(relax, start) for start in starts], evaluate))
        assert evaluate.calls == sum(one.steps + 1 for one in together)

    hub = Hub(model)
    hub.run([side])
    alone: list[Quenched] = []
    for start in starts:
        Hub(model).run([lambda evaluate, start=start: alone.append(relax(start, evaluate))])
    assert [one.structure for one in together] == [one.structure for one in alone]
    assert [one.steps for one in together] == [one.steps for one in alone]
    assert hub.batches == 1 + max(one.steps for one in together) < hub.calls


def test_one_that_breaks_does_not_break_the_other():
    class Wrong(EMTModel):
        """The energy of a structure whose first atom lies above 1 Å is not a number."""

        def predict(self, structures, **kwargs):
            return [
                Prediction(float("nan"), np.zeros((1, 3)))
                if structure.positions[0, 2] > 1
                else Prediction(0.0, np.zeros((1, 3)))
                for structure in structures
            ]

    def script(height: float, evaluate: Evaluator) -> str:
        try:
            evaluate(Structure([29], [[0, 0, height]]))
        except NotFiniteError:
            return "lost"
        evaluate(Structure([29], [[0, 0, height]]))
        return "done"

    results: list[list[str]] = []
    Hub(Wrong()).run(
        [lambda evaluate: results.append(side_by_side([partial(script, 2.0), partial(script, 0.0)], evaluate))]
    )
    assert results == [["lost", "done"]]


def test_an_exception_ends_the_others_and_is_raised():
    ended: list[bool] = []

    def waits(evaluate: Evaluator) -> None:
        try:
            for _ in range(10):
                evaluate(lj_cluster(7))
        finally:
            ended.append(True)

    def raises(evaluate: Evaluator) -> None:
        evaluate(lj_cluster(7))
        raise ValueError("of one script")

    with pytest.raises(ValueError, match="of one script"):
        Hub(LennardJonesModel()).run([lambda evaluate: side_by_side([waits, raises], evaluate) and None])
    assert ended == [True]
