"""Actions that find more are drawn more often, and step scales grow while attempts fall back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.files import read_lines
from rlpath_core.sampling.options import ACTION_OPTIONS, WalkOptions
from rlpath_core.sampling.policy.action_statistics import EXPLORE, PRIOR_CALLS, RECENT, ActionStatistics
from rlpath_core.structure import Structure

WEIGHTS = np.array([0.5, 0.3, 0.2])


def statistics(**options) -> ActionStatistics:
    return ActionStatistics("abc", WEIGHTS, WalkOptions(**options))


def test_without_attempts_it_is_what_is_configured():
    np.testing.assert_allclose(statistics().probabilities(), WEIGHTS)
    np.testing.assert_array_equal(statistics().step_scales(), 1.0)


attempt = st.tuples(st.sampled_from("abc"), st.sampled_from(["new", "back", "rejected", "other"]), st.integers(0, 200))


@settings(deadline=None)
@given(history=st.lists(attempt, max_size=60), calls=st.integers(1, 100))
def test_what_finds_more_per_call_is_drawn_more_and_nothing_is_dropped(history: list, calls: int):
    one, fixed = statistics(), statistics(learn=False)
    for name, outcome, force_calls in history:
        one.record(name, outcome, force_calls)
        fixed.record(name, outcome, force_calls)
    one.record("start", "new", 100)  # no action
    before = one.probabilities()
    assert before.sum() == pytest.approx(1.0)
    assert (before >= EXPLORE * WEIGHTS - 1e-12).all()
    np.testing.assert_array_equal(fixed.probabilities(), WEIGHTS)
    # relative to their weights, actions are in the order of the basins that they found per call
    rates = (one.found + 1) / (one.calls + PRIOR_CALLS)
    for i in range(3):
        for j in range(3):
            if rates[i] >= rates[j]:
                assert before[i] / WEIGHTS[i] >= before[j] / WEIGHTS[j] * (1 - 1e-9)
    one.record("a", "other", calls)
    dearer = one.probabilities()
    assert dearer[0] < before[0]
    assert (dearer[1:] >= before[1:]).all()
    one.record("a", "new", 0)
    assert one.probabilities()[0] > dearer[0]


def test_the_probabilities_of_one_history():
    """By hand: c found 50 basins in 1000 calls, b 50 in 5000, a none in 5000; each begins with one in 60."""
    one = statistics()
    for _ in range(50):
        for name, outcome, force_calls in (("a", "other", 100), ("b", "new", 100), ("c", "new", 20)):
            one.record(name, outcome, force_calls)
    rates = WEIGHTS * np.array([1 / 5060, 51 / 5060, 51 / 1060]) ** 2
    np.testing.assert_allclose(one.probabilities(), 0.1 * WEIGHTS + 0.9 * rates / rates.sum())


def test_an_action_that_asks_the_model_itself_is_drawn_less():
    costly = ActionStatistics("abc", WEIGHTS, WalkOptions(), np.array([0.0, 19.0, 0.0]))
    expected = WEIGHTS / [1, 20, 1]
    np.testing.assert_allclose(costly.probabilities(), expected / expected.sum())
    fixed = ActionStatistics("abc", WEIGHTS, WalkOptions(learn=False), np.array([0.0, 19.0, 0.0]))
    np.testing.assert_array_equal(fixed.probabilities(), WEIGHTS)


def test_a_checkpoint_keeps_the_statistics():
    one, again = statistics(), statistics()
    one.record("b", "new", 17)
    one.record("a", "back", 17)
    one.record("c", "rejected", 1)
    for force in (3.0, 1.0, 2.0, 5.0):
        one.record_force(force)
    again.load(json.loads(json.dumps(one.state())))
    np.testing.assert_array_equal(again.probabilities(), one.probabilities())
    np.testing.assert_array_equal(again.step_scales(), one.step_scales())
    assert again.relax_threshold() == one.relax_threshold() is not None


def test_the_global_scale_grows_for_all_and_each_action_has_its_own_factor():
    one = statistics(growth=2.0, max_scale=10.0)
    for _ in range(3):
        one.record("a", "back", 10)
    np.testing.assert_allclose(one.step_scales(), 8.0)
    for _ in range(4):
        one.record("b", "rejected", 1)
    np.testing.assert_allclose(one.step_scales(), [8.0, 4.0, 8.0])
    one.record("b", "back", 10)
    np.testing.assert_allclose(one.step_scales(), [10.0, 10.0, 10.0])
    for _ in range(4):
        one.record("c", "new", 10)
    np.testing.assert_allclose(one.step_scales(), 5.0)
    for _ in range(20):
        one.record("c", "rejected", 1)
    assert one.step_scales()[2] == 1.0


def test_the_share_of_the_last_trials_with_the_smallest_forces_is_relaxed():
    one = statistics(relax_share=0.25)
    for force in (9.0, 8.0, 7.0):
        one.record_force(force)
        assert one.relax_threshold() is None, "too few for a threshold"
    for force in range(RECENT + 1):  # the oldest are forgotten
        one.record_force(float(force))
    assert one.relax_threshold() == pytest.approx(np.quantile(np.arange(1, RECENT + 1), 0.25))
    every = statistics(relax_share=1.0)
    for force in (1.0, 2.0, 3.0, 4.0, 5.0):
        every.record_force(force)
    assert every.relax_threshold() is None


@pytest.mark.slow
def test_a_walk_relaxes_what_has_small_forces_and_evaluates_the_rest_once(run, tmp_path: Path, copper: Structure):
    config = {"walkers": 2, "steps": 60, "quench": {"steps": 8}, "md": {"weight": 0}}
    run(copper, walk={"relax_share": 0.25}, **config)
    steps = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl")[1:] if s["accepted"]]
    relaxed, skipped = [s for s in steps if s["quench"]], [s for s in steps if not s["quench"]]
    assert len(relaxed) < 0.5 * len(steps)
    small, large = (np.median([s["max_force"] for s in part]) for part in (relaxed, skipped))
    assert small < 0.7 * large
    assert all(s["force_calls"] == 1 and s["basin"] is None for s in skipped)
    assert any(s["candidates"] for s in skipped), "a structure that is not relaxed may still be worth a label"


@pytest.mark.slow
def test_dynamics_are_relaxed_whatever_the_forces(run, tmp_path: Path, copper: Structure):
    only = {name: {"weight": 0} for name in ACTION_OPTIONS if name not in ("md", "jitter")}
    run(copper, walkers=2, steps=40, quench={"steps": 5}, md={"weight": 1}, jitter={"weight": 1}, **only)
    steps = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl")[1:] if s["accepted"]]
    assert all(s["quench"] for s in steps if s["action"] == "md")
    assert not all(s["quench"] for s in steps if s["action"] == "jitter")


@pytest.mark.slow
def test_a_walk_that_falls_back_reaches_further(run, tmp_path: Path, copper: Structure):
    config = {"walkers": 4, "steps": 40, "quench": {"steps": 25}, "md": {"weight": 0}}
    run(copper, walk={"relax_share": 1.0, "max_draws": 1}, **config)
    run(copper, "still", walk={"relax_share": 1.0, "max_draws": 1, "max_scale": 1.0, "learn": False}, **config)
    steps, still = (read_lines(tmp_path / name / "run" / "steps.jsonl")[1:] for name in ("a", "still"))
    assert {s["scale"] for s in steps[:4]} == {1.0}, "four walkers set out before anything was statistics"
    assert max(s["scale"] for s in steps) > 5.0
    assert sum(s["basin"] == s["start_basin"] for s in steps) < sum(s["basin"] == s["start_basin"] for s in still)
    assert {s["scale"] for s in still} == {1.0}
