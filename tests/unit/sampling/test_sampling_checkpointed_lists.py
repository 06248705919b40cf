"""Predictions that a checkpoint keeps: lists of any length, of any atoms, with embeddings or without."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.sampling import under_way
from rlpath_core.sampling.policies import Site
from rlpath_core.sampling.under_way import UnderWay
from rlpath_core.sampling.walker import Outcome
from rlpath_core.testing.systems import triclinic

START = Site(triclinic(), 0)


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


@settings(max_examples=100, deadline=None)
@given(attempts=st.lists(CALLS, min_size=1, max_size=12))
def test_what_is_loaded_is_what_was_saved(attempts: list[list[list[Prediction]]]):
    with tempfile.TemporaryDirectory() as folder:
        ways = [UnderWay(Outcome(n, n, START, "none"), calls, n) for n, calls in enumerate(attempts)]
        entries = under_way.save(Path(folder), 3, ways, lambda site: ())
        again = under_way.load(Path(folder), 3, entries, lambda entry: Outcome(entry["n"], entry["walker"], START, ""))
    assert [way.declined for way in again] == list(range(len(attempts)))
    for before, after in zip(attempts, again, strict=True):
        assert [len(call) for call in before] == [len(call) for call in after.predictions]
        for one, other in zip(chain(*before), chain(*after.predictions), strict=True):
            assert one.energy == other.energy
            for name in ("forces", "node_embedding", "graph_embedding", "force_spread"):
                a, b = getattr(one, name), getattr(other, name)
                assert (a is None) == (b is None)
                if a is not None:
                    assert b.dtype == np.float64
                    np.testing.assert_array_equal(a, b)


def test_calls_of_one_structure_are_kept_as_they_always_were(tmp_path: Path):
    """A file of a version that knew no lists has the same arrays, and is read."""
    rng = np.random.default_rng(0)
    calls = [[Prediction(float(n), rng.normal(size=(4, 3)), force_spread=rng.normal(size=4))] for n in range(3)]
    way = UnderWay(Outcome(1, 0, START, "none"), calls)
    under_way.save(tmp_path, 1, [way], lambda site: ())
    with np.load(tmp_path / "under_way-1.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {
            "energies.0": (3,),
            "forces.0": (3, 4, 3),
            "spread.0": (3, 4),
        }


def test_a_prediction_that_is_not_finite_is_repeated_too():
    """A walker that survives one goes on asking: a resume gives it the same answers in the same order."""
    start = START.structure
    bad = Prediction(float("nan"), np.zeros((len(start), 3)))
    good = Prediction(1.0, np.zeros((len(start), 3)))
    way, asked = UnderWay(Outcome(1, 0, START, "none")), []

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

    first = walk(way.evaluating(Evaluator(model)))
    assert first == ["NotFiniteError", "2", "2"]
    assert walk(way.evaluating(Evaluator(model))) == first
    assert asked == [2, 2, 2]
