"""Predictions that a checkpoint keeps: lists of any length, of any atoms, with embeddings or without."""

from __future__ import annotations

import json
import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.lockstep.replay import Journal
from rlpath_core.sampling import checkpoint
from rlpath_core.sampling.attempt import Plan, WalkState
from rlpath_core.sampling.in_flight import InFlightAttempt
from rlpath_core.testing.systems import triclinic

START = WalkState(triclinic(), 0, -1.5, 3)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n, single = draw(st.integers(1, 4)), draw(st.booleans())

    def array(*shape: int) -> np.ndarray:
        values = rng.normal(size=shape)
        return values.astype(np.float32).astype(np.float64) if single else values

    forces = array(n, 3)
    if draw(st.integers(0, 9)) == 0:
        forces[0, 0] = np.nan
    embedded, spread = draw(st.booleans()), draw(st.booleans())
    return Prediction(
        float(rng.normal()),
        forces,
        array(n, 5) if embedded else None,
        array(5) if embedded else None,
        array(n) if spread else None,
    )


CALLS = st.lists(st.lists(predictions(), min_size=1, max_size=3), max_size=4)


@settings(max_examples=50)
@given(attempts=st.lists(CALLS, min_size=1, max_size=12))
@pytest.mark.slow
def test_what_is_loaded_is_what_was_saved(attempts: list[list[list[Prediction]]]):
    before = [InFlightAttempt(Plan(n, n, START), n % 3, Journal(calls), n) for n, calls in enumerate(attempts)]
    with tempfile.TemporaryDirectory() as folder:
        saved = checkpoint.save(Path(folder), 3, {"in_flight": [one.state() for one in before]})
        state = checkpoint.load(Path(folder), json.loads(json.dumps(saved)), [START.structure])
    after = [InFlightAttempt.from_state(one) for one in state["in_flight"]]
    assert [(one.draw, one.n_unknown) for one in after] == [(n % 3, n) for n in range(len(attempts))]
    for calls, again in zip(attempts, after, strict=True):
        assert [len(call) for call in calls] == [len(call) for call in again.journal.predictions]
        for one, other in zip(chain(*calls), chain(*again.journal.predictions), strict=True):
            assert one.energy == other.energy
            for name in ("forces", "node_embedding", "graph_embedding", "force_spread"):
                a, b = getattr(one, name), getattr(other, name)
                assert (a is None) == (b is None)
                if a is not None:
                    assert b.dtype == np.float64
                    np.testing.assert_array_equal(a, b)


def test_calls_of_one_structure_need_no_lengths():
    rng = np.random.default_rng(0)
    calls = [[Prediction(float(n), rng.normal(size=(4, 3)), force_spread=rng.normal(size=4))] for n in range(3)]
    arrays = InFlightAttempt(Plan(1, 0, START), 0, Journal(calls)).state()["predictions"]
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {"energies": (3,), "forces": (3, 4, 3), "spread": (3, 4)}


def test_a_prediction_that_is_not_finite_is_repeated_too():
    """A walker that survives one continues: a resume gives it the same predictions in the same order."""
    start = START.structure
    bad = Prediction(float("nan"), np.zeros((len(start), 3)))
    good = Prediction(1.0, np.zeros((len(start), 3)))
    attempt, asked = InFlightAttempt(Plan(1, 0, START)), []

    def model(request):
        asked.append(len(request.structures))
        return [bad, good] if len(asked) == 1 else [good for _ in request.structures]

    def walk(evaluate: Evaluator) -> list[str]:
        events = []
        for _ in range(3):
            try:
                events.append(str(len(evaluate([start, start]))))
            except Exception as error:
                events.append(type(error).__name__)
        return events

    first = walk(attempt.journal.replaying(Evaluator(model)))
    assert first == ["NotFiniteError", "2", "2"]
    assert walk(attempt.journal.replaying(Evaluator(model))) == first
    assert asked == [2, 2, 2]
