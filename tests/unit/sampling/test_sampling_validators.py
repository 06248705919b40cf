"""Validators by their conformance suite, and the limits of each."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.sampling.geometry import infer_roles
from rlpath_core.sampling.validators import VALIDATORS, Attempted, Validator
from rlpath_core.spec import sampling as spec
from rlpath_core.structure import Structure
from rlpath_core.testing.validator import ValidatorSuite


def attempted(start: Structure, shift: dict[int, list[float]] | None = None, force: float = 1.0) -> Attempted:
    positions = start.positions.copy()
    for atom, by in (shift or {}).items():
        positions[atom] += by
    forces = np.zeros((len(start), 3))
    forces[-1, 0] = force
    return Attempted(start, start.moved(positions), infer_roles(start), "jitter", Prediction(0.0, forces))


BAD = {  # on Cu(111)+CO: atom 12 is O, 13 is C below it
    "min_dist": ({12: [0, 0, -0.6]}, 1.0),
    "fixed": ({0: [0.01, 0, 0]}, 1.0),
    "bond": ({12: [0, 0, 1.0]}, 1.0),
    "detached": ({12: [0, 0, 6.0], 13: [0, 0, 6.0]}, 1.0),
    "quality": ({}, 5.2),
}


@pytest.mark.parametrize("name", list(spec.VALIDATORS))
class TestValidators(ValidatorSuite):
    @pytest.fixture
    def validator(self, name: str) -> Validator:
        return VALIDATORS[name](spec.VALIDATORS[name]())

    @pytest.fixture
    def good(self, copper: Structure) -> Attempted:
        return attempted(copper, {12: [0.05, 0, 0]})

    @pytest.fixture
    def bad(self, copper: Structure, name: str) -> Attempted:
        return attempted(copper, *BAD[name])

    def test_the_rejection_is_its_own(self, validator: Validator, bad: Attempted, name: str) -> None:
        found = validator.check(bad)
        assert found is not None
        assert found.reason.startswith(f"{name}:")


def test_the_registry_and_the_config_know_the_same_validators():
    assert set(VALIDATORS) == set(spec.VALIDATORS)


def test_too_near_across_the_boundary_is_seen(copper: Structure):
    """Two oxygens 9 Å apart in the cell, and 0.5 Å apart through it."""
    pair = Structure([8, 8], [[0.2, 3, 3], [9.7, 3, 3]], np.diag([10.0, 6, 6]), [True] * 3)
    apart = pair.moved([[0.2, 3, 3], [5.0, 3, 3]])
    check = VALIDATORS["min_dist"](spec.MinDist()).check
    found = check(Attempted(apart, pair, infer_roles(pair), "jitter"))
    assert found is not None
    assert found.figure == pytest.approx(0.5)


def test_an_atom_near_its_own_image_is_no_fault_of_the_action():
    thin = Structure([29, 8], [[0, 0, 0], [0, 0, 1.9]], np.diag([1.5, 1.5, 20.0]), [True] * 3)
    check = VALIDATORS["min_dist"](spec.MinDist()).check
    moved = thin.moved([[0, 0, 0], [0.1, 0, 1.9]])
    assert check(Attempted(thin, moved, infer_roles(thin), "jitter")) is None
    closer = thin.moved([[0, 0, 0], [0, 0, 0.6]])
    assert check(Attempted(thin, closer, infer_roles(thin), "jitter")) is not None


def test_forces_on_held_atoms_are_not_the_actions_fault(copper: Structure):
    forces = np.zeros((len(copper), 3))
    forces[0] = 100.0
    check = VALIDATORS["quality"](spec.Quality()).check
    assert check(Attempted(copper, copper, infer_roles(copper), "jitter", Prediction(0.0, forces))) is None


def test_quality_has_lower_and_magnitude_limits(copper: Structure):
    quality = VALIDATORS["quality"](spec.Quality(min_force=2.0, magnitude={"jitter": (0.1, 0.3)}))
    reasons = [
        getattr(quality.check(attempted(copper, {12: [x, 0, 0]}, force)), "reason", None)
        for x, force in ((0.2, 1.0), (0.2, 3.0), (0.05, 3.0), (0.4, 3.0))
    ]
    assert reasons == ["quality:min_force", None, "quality:magnitude", "quality:magnitude"]
