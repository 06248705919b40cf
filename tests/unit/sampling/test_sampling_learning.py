"""Actions that find more are drawn more often, and reach grows while attempts fall back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlpath_core.files import read_lines
from rlpath_core.sampling.learning import EXPLORE, RECENT, Learned
from rlpath_core.sampling.options import ACTION_OPTIONS, WalkOptions
from rlpath_core.structure import Structure

WEIGHTS = np.array([0.5, 0.3, 0.2])


def learned(**options) -> Learned:
    return Learned("abc", WEIGHTS, WalkOptions(**options))


def test_nothing_learned_is_what_is_configured():
    np.testing.assert_allclose(learned().chances(), WEIGHTS)
    np.testing.assert_array_equal(learned().scales(), 1.0)


def test_what_finds_more_per_call_is_drawn_more_and_nothing_is_dropped():
    some, deaf = learned(), learned(learn=False)
    for one in (some, deaf):
        for _ in range(50):
            one.note("a", "other", 100)
            one.note("b", "new", 100)
            one.note("c", "new", 20)
            one.note("none", "refused", 0)
    chances = some.chances()
    assert chances.sum() == pytest.approx(1.0)
    assert (chances >= EXPLORE * WEIGHTS).all()
    # one of c's basins costs about a fifth of one of b's
    rates = (chances - EXPLORE * WEIGHTS) / WEIGHTS
    assert rates[2] / rates[1] == pytest.approx((5060 / 1060) ** 2)
    assert rates[0] < 0.05 * rates[1]
    np.testing.assert_array_equal(deaf.chances(), WEIGHTS)


def test_an_action_that_asks_the_model_itself_is_drawn_less():
    costly = Learned("abc", WEIGHTS, WalkOptions(), None, np.array([0.0, 19.0, 0.0]))
    expected = WEIGHTS / [1, 20, 1]
    np.testing.assert_allclose(costly.chances(), expected / expected.sum())
    deaf = Learned("abc", WEIGHTS, WalkOptions(learn=False), None, np.array([0.0, 19.0, 0.0]))
    np.testing.assert_array_equal(deaf.chances(), WEIGHTS)


def test_a_checkpoint_brings_back_what_was_learned():
    one = learned()
    one.note("b", "new", 17)
    one.note("a", "back", 17)
    one.note("c", "refused", 1)
    again = Learned("abc", WEIGHTS, WalkOptions(), one.state())
    np.testing.assert_array_equal(again.chances(), one.chances())
    np.testing.assert_array_equal(again.scales(), one.scales())


def test_reach_grows_for_all_and_caution_is_each_actions_own():
    one = learned(growth=2.0, max_scale=10.0)
    for _ in range(3):
        one.note("a", "back", 10)
    np.testing.assert_allclose(one.scales(), 8.0)
    for _ in range(4):
        one.note("b", "refused", 1)
    np.testing.assert_allclose(one.scales(), [8.0, 4.0, 8.0])
    one.note("b", "back", 10)
    np.testing.assert_allclose(one.scales(), [10.0, 10.0, 10.0])
    for _ in range(4):
        one.note("c", "new", 10)
    np.testing.assert_allclose(one.scales(), 5.0)
    for _ in range(20):
        one.note("c", "refused", 1)
    assert one.scales()[2] == 1.0


def test_the_calmest_share_of_the_last_structures_is_worth_a_quench():
    one = learned(relax_share=0.25)
    for force in (9.0, 8.0, 7.0):
        one.note_force(force)
        assert one.calm() is None, "too few to tell what is calm here"
    for force in range(RECENT + 1):  # what was long ago is forgotten
        one.note_force(float(force))
    assert one.calm() == pytest.approx(np.quantile(np.arange(1, RECENT + 1), 0.25))
    assert Learned("abc", WEIGHTS, WalkOptions(relax_share=0.25), one.state()).calm() == one.calm()
    every = learned(relax_share=1.0)
    for force in (1.0, 2.0, 3.0, 4.0, 5.0):
        every.note_force(force)
    assert every.calm() is None


@pytest.mark.slow
def test_a_walk_relaxes_what_is_calm_and_looks_once_at_the_rest(run, tmp_path: Path, copper: Structure):
    config = {"walkers": 2, "steps": 60, "quench": {"steps": 8}, "md": {"weight": 0}}
    run(copper, walk={"relax_share": 0.25}, **config)
    steps = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl")[1:] if s["accepted"]]
    relaxed, spared = [s for s in steps if s["quench"]], [s for s in steps if not s["quench"]]
    assert len(relaxed) < 0.5 * len(steps)
    calm, rest = (np.median([s["max_force"] for s in part]) for part in (relaxed, spared))
    assert calm < 0.7 * rest
    assert all(s["force_calls"] == 1 and s["basin"] is None for s in spared)
    assert any(s["candidates"] for s in spared), "a structure that is not relaxed may still be worth a label"


@pytest.mark.slow
def test_dynamics_are_relaxed_whatever_they_met(run, tmp_path: Path, copper: Structure):
    only = {name: {"weight": 0} for name in ACTION_OPTIONS if name not in ("md", "jitter")}
    run(copper, walkers=2, steps=40, quench={"steps": 5}, md={"weight": 1}, jitter={"weight": 1}, **only)
    steps = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl")[1:] if s["accepted"]]
    assert all(s["quench"] for s in steps if s["action"] == "md")
    assert not all(s["quench"] for s in steps if s["action"] == "jitter")


@pytest.mark.slow
def test_a_walk_that_falls_back_reaches_further(run, tmp_path: Path, copper: Structure):
    config = {"walkers": 4, "steps": 40, "quench": {"steps": 25}, "md": {"weight": 0}}
    run(copper, walk={"relax_share": 1.0, "redraw": 1}, **config)
    run(copper, "still", walk={"relax_share": 1.0, "redraw": 1, "max_scale": 1.0, "learn": False}, **config)
    steps, still = (read_lines(tmp_path / name / "run" / "steps.jsonl")[1:] for name in ("a", "still"))
    assert {s["scale"] for s in steps[:4]} == {1.0}, "four walkers set out before anything was learned"
    assert max(s["scale"] for s in steps) > 5.0
    assert sum(s["basin"] == s["start_basin"] for s in steps) < sum(s["basin"] == s["start_basin"] for s in still)
    assert {s["scale"] for s in still} == {1.0}
