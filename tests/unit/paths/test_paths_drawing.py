"""What is drawn next, against worlds whose saddles are known."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlpath_core.errors import InputError
from rlpath_core.paths.drawing import Draw
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.proposals import Landscape
from rlpath_core.paths.searches.base import Guess
from rlpath_core.testing.proposal import known
from rlpath_core.testing.systems import orthogonal


@pytest.fixture
def landscape() -> Landscape:
    return known(orthogonal())


def config(**proposals: Any) -> PathsConfig:
    return PathsConfig.model_validate({"proposals": proposals or {"displacements": {}, "soft_modes": {}}})


def test_the_proposal_that_finds_more_per_call_is_drawn_more(landscape: Landscape) -> None:
    """``first`` finds a new saddle in every tenth search of 150 calls, ``second`` in every second of 50."""
    draw = Draw(config(displacements={}, soft_modes={"modes": 50}))
    rng = np.random.default_rng(0)
    chances = {"displacements": (0.1, 150), "soft_modes": (0.5, 50)}
    names = []
    for n in range(200):
        drawn = draw.next(landscape, rng)
        assert drawn is not None
        name, guess = drawn
        names.append(name)
        good, calls = chances[name]
        found = rng.random() < good
        draw.observe(replace(guess, learnt={}), f"TS{n:03d}" if found else None, found, calls)
    assert names[100:].count("soft_modes") > 75
    assert names[:20].count("displacements") > 0


def test_unseen_probability_is_that_of_the_world(landscape: Landscape) -> None:
    """Good-Turing against the true probability that the next find is new, for saddles of uneven chances."""
    chances = np.array([2.0**-k for k in range(30)])
    chances /= chances.sum()
    guess = Guess(landscape.minima[0].structure, start="B001")
    estimates, truths = [], []
    for seed in range(40):
        draw, rng = Draw(config()), np.random.default_rng(seed)
        assert draw.unseen_probability == 1.0
        for k in rng.choice(30, size=60, p=chances):
            draw.observe(guess, f"TS{k:03d}", f"TS{k:03d}" not in draw.found, 100)
        estimates.append(draw.unseen_probability)
        truths.append(sum(p for k, p in enumerate(chances) if f"TS{k:03d}" not in draw.found))
    assert 0.005 < np.mean(truths) < 0.05
    assert np.mean(truths) < np.mean(estimates) < np.mean(truths) + 2 / 61, "one find is added, to be careful"


def test_known_saddles_of_earlier_runs_are_not_singletons(landscape: Landscape) -> None:
    draw = Draw(config())
    guess = Guess(landscape.minima[0].structure, start="B001")
    for _ in range(19):
        draw.observe(guess, "TS001", False, 100)
    assert draw.unseen_probability == pytest.approx(1 / 21)


def test_minima_of_low_energy_and_with_much_unseen_are_begun_from(landscape: Landscape) -> None:
    low, high = landscape.minima
    draw, rng = Draw(config(displacements={})), np.random.default_rng(0)

    def share(landscape: Landscape) -> float:
        """How often searches begin from the lower one."""
        drawn = [draw.next(landscape, rng) for _ in range(200)]
        return float(np.mean([one is not None and one[1].start == low.name for one in drawn]))

    equal = replace(landscape, minima=[low, replace(high, energy=low.energy, searches=0)])
    assert 0.4 < share(equal) < 0.6
    assert share(replace(landscape, minima=[low, replace(high, energy=low.energy + 2.0, searches=0)])) > 0.9
    assert share(replace(landscape, minima=[replace(low, searches=50), replace(high, energy=low.energy)])) < 0.2
    guess = Guess(low.structure, start=low.name)
    for n in range(50):
        draw.observe(guess, f"TS{n:03d}", True, 100)
    rich = replace(landscape, minima=[replace(low, searches=50), replace(high, energy=low.energy, searches=50)])
    assert share(rich) > 0.9, "every search from it found something new"


def test_a_resumed_draw_goes_on_as_it_would_have(landscape: Landscape) -> None:
    draw, rng = Draw(config()), np.random.default_rng(3)

    def go(draw: Draw, rng: np.random.Generator, count: int) -> list[Any]:
        drawn = []
        for n in range(count):
            found = draw.next(landscape, rng)
            assert found is not None
            guess = replace(found[1], learnt={})
            draw.observe(guess, f"TS{n % 5:03d}" if n % 3 else None, n < 5, 100 + n)
            drawn.append((found[0], guess.parameters, guess.structure.id))
        return drawn

    go(draw, rng, 12)
    again, again_rng = Draw(config()), deepcopy(rng)
    again.load(deepcopy(draw.state()))
    assert go(draw, rng, 12) == go(again, again_rng, 12)
    assert draw.unseen_probability == again.unseen_probability


def test_nothing_left_is_said(landscape: Landscape) -> None:
    draw = Draw(config(displacements={}))
    assert draw.next(replace(landscape, minima=[]), np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("proposals", "told"),
    [({"displacement": {}}, "did you mean"), ({"displacements": {"radios": 3}}, "radii")],
)
def test_what_cannot_be_is_one_line(proposals: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"(?i){told}") as raised:
        Draw(config(**proposals))
    assert "\n" not in str(raised.value)
