"""Bands: hops on metals against ASE's figures, a band that meets a minimum, a search that leaves its band."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError
from rlpath_core.geometry.interpolation import interpolate
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.paths.options import BandOptions, SearchOptions
from rlpath_core.paths.searches import SEARCHES, Band, Found, Guess, Search, Surface
from rlpath_core.paths.searches.profile import Profile
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.hops import Ends, copper_on_copper, gold_on_aluminium
from rlpath_core.testing.potentials import MuellerBrownModel, mueller_brown, relaxed


def solve(options: BandOptions, model: Model, *path: Structure) -> tuple[Found, int]:
    found: list[tuple[Found, int]] = []

    def script(evaluate: Evaluator) -> None:
        surface = Surface(evaluate, ~path[0].fixed, infer_roles(path[0]), np.random.default_rng(0))
        found.append((Band(options).run(Guess(path[0], path=path), surface), evaluate.calls))

    Hub(model).run([script])
    return found[0]


@pytest.mark.parametrize(("hand_over", "least"), [("minmode", 3), ("dimer", 2), (None, 2)])
@pytest.mark.parametrize(
    ("kind", "barrier", "ase"),
    [(gold_on_aluminium, 0.37448, 75), (copper_on_copper, 0.0495, 110)],
    ids=["Au/Al(100)", "Cu/Cu(111)"],
)
def test_hops_on_metals_have_ases_barriers_for_fewer_calls(
    kind: Callable[[], Ends], barrier: float, ase: int, hand_over: str | None, least: int
) -> None:
    """Barriers and calls of ASE's own band with climbing image, end points and all; ``least`` times fewer."""
    model, ends = EMTModel(), kind()
    found, calls = solve(BandOptions(hand_over=hand_over), model, *ends)
    start = model.predict([ends[0]])[0].energy
    assert found.converged
    assert found.prediction.energy - start == pytest.approx(barrier, abs=1e-3)
    assert found.curvature is not None
    assert found.curvature < 0
    assert calls <= ase / least


def test_a_band_ends_at_the_minimum_between_its_images() -> None:
    """Müller-Brown from the upper minimum to the lower one: the third lies between, and both saddles are found."""
    model = MuellerBrownModel(scale=0.01, spring=10.0)
    upper, lower = (relaxed(model, mueller_brown(x, y)) for x, y in ((-0.56, 1.44), (0.62, 0.03)))
    between = [mueller_brown(x, y) for x, y in ((-0.9, 0.8), (-0.1, 0.55), (0.3, 0.3))]
    options = BandOptions(hand_over=None, fmax=0.005, split=0.01)
    found, _ = solve(options, model, upper, *between, lower)
    assert found.converged
    assert len(found.further) == 1
    other, _ = solve(options, model, *found.further[0].path)
    assert other.converged
    energies = sorted([found.prediction.energy, other.prediction.energy])
    np.testing.assert_allclose(energies, [-0.722489, -0.406648], atol=1e-4)
    joint = {found.further[0].path[k].id for k in (0, -1)} & {found.path[k].id for k in (0, -1)}
    assert len(joint) == 1, "the two bands do not share the minimum"


def test_a_search_that_leaves_the_band_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again when the band's force has halved."""
    asked: list[Structure] = []

    class Astray(Search):
        Options = SearchOptions

        def run(self, guess: Guess, surface: Surface) -> Found:
            asked.append(guess.structure)
            assert guess.mode is not None
            assert not guess.mode[~surface.movable].any()
            far = guess.structure.moved(guess.structure.positions + 9.0 * surface.movable[:, None])
            surface.watch(far, Prediction(0.0, np.zeros((len(far), 3))))
            raise AssertionError("the watch let it go")

    registered = dict(SEARCHES._registered, astray=Astray)
    monkeypatch.setattr(SEARCHES, "_registered", registered)
    ends = gold_on_aluminium()
    found, _ = solve(BandOptions(hand_over="astray", images=1), EMTModel(), *ends)
    assert found.converged
    assert 1 < len(asked) < 10
    assert found.prediction.energy - EMTModel().predict([ends[0]])[0].energy == pytest.approx(0.37448, abs=1e-3)


def test_the_highest_point_of_a_curve_through_the_images() -> None:
    """Between the images, from energies and forces: nearer to the saddle than any of them."""
    ends, model = copper_on_copper(), EMTModel()
    path = interpolate(*ends, 2)
    predictions = model.predict(path)
    movable = ~ends[0].fixed
    highest = Profile(path, predictions, movable).highest()
    assert highest is not None
    structure, mode = highest
    assert np.linalg.norm(mode) == pytest.approx(1.0)
    assert not mode[~movable].any()
    forces = [abs(float((np.asarray(one.forces) * mode).sum())) for one in (*predictions, *model.predict([structure]))]
    assert forces[-1] < 0.3 * min(forces[1:3])


def test_a_path_that_only_climbs_has_no_highest_point_between_its_ends() -> None:
    """From a hollow half way up to the bridge: a search from there would end in one of the ends."""
    ends, model = gold_on_aluminium(), EMTModel()
    bridge, _ = solve(BandOptions(hand_over=None), model, *ends)
    path = interpolate(ends[0], bridge.structure, 3)
    assert Profile(path, model.predict(path), ~ends[0].fixed).highest() is None


def test_a_band_without_ends() -> None:
    ends = gold_on_aluminium()
    with pytest.raises(InputError, match="both minima"):
        solve(BandOptions(), EMTModel(), ends[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"hand_over": "band"}, "begins with one structure"), ({"hand_over": "dimer", "then": {"no": 1}}, "dimer: no")],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Band(BandOptions(**options))
