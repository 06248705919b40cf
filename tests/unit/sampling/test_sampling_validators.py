"""Validators by their conformance suite, and the limits of each."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.options import (
    VALIDATOR_OPTIONS,
    DetachedOptions,
    MinDistOptions,
    QualityOptions,
    SlabStrainOptions,
)
from rlpath_core.sampling.validators import VALIDATORS, Displacement, Validator
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS
from rlpath_core.testing.validator import ValidatorSuite


def displacement(start: Structure, shift: dict[int, list[float]] | None = None, force: float = 1.0) -> Displacement:
    positions = start.positions.copy()
    for atom, by in (shift or {}).items():
        positions[atom] += by
    forces = np.zeros((len(start), 3))
    forces[-1, 0] = force
    return Displacement(start, start.moved(positions), infer_roles(start), "jitter", Prediction(0.0, forces))


BAD = {  # on Cu(111)+CO: atom 12 is O, 13 is C below it
    "min_dist": ({12: [0, 0, -0.6]}, 1.0),
    "fixed": ({0: [0.01, 0, 0]}, 1.0),
    "bond": ({12: [0, 0, 1.0]}, 1.0),
    "detached": ({12: [0, 0, 6.0], 13: [0, 0, 6.0]}, 1.0),
    "slab_strain": ({8: [0, 0, 1.2]}, 1.0),
    "quality": ({}, 5.2),
}


@pytest.mark.parametrize("name", list(VALIDATOR_OPTIONS))
class TestValidators(ValidatorSuite):
    @pytest.fixture
    def validator(self, name: str) -> Validator:
        return VALIDATORS[name](VALIDATOR_OPTIONS[name]())

    @pytest.fixture
    def good(self, copper: Structure) -> Displacement:
        return displacement(copper, {12: [0.05, 0, 0]})

    @pytest.fixture
    def bad(self, copper: Structure, name: str) -> Displacement:
        return displacement(copper, *BAD[name])

    def test_the_rejection_is_its_own(self, validator: Validator, bad: Displacement, name: str) -> None:
        found = validator.check(bad)
        assert found is not None
        assert found.reason.startswith(f"{name}:")


def test_the_registry_and_the_config_know_the_same_validators():
    assert set(VALIDATORS) == set(VALIDATOR_OPTIONS)


def test_too_near_across_the_boundary_is_seen(copper: Structure):
    """Two oxygens 9 Å apart in the cell, and 0.5 Å apart through it."""
    pair = Structure([8, 8], [[0.2, 3, 3], [9.7, 3, 3]], np.diag([10.0, 6, 6]), [True] * 3)
    apart = pair.moved([[0.2, 3, 3], [5.0, 3, 3]])
    check = VALIDATORS["min_dist"](MinDistOptions()).check
    found = check(Displacement(apart, pair, infer_roles(pair), "jitter"))
    assert found is not None
    assert found.figure == pytest.approx(0.5)


def test_an_atom_near_its_own_image_is_no_fault_of_the_action():
    thin = Structure([29, 8], [[0, 0, 0], [0, 0, 1.9]], np.diag([1.5, 1.5, 20.0]), [True] * 3)
    check = VALIDATORS["min_dist"](MinDistOptions()).check
    moved = thin.moved([[0, 0, 0], [0.1, 0, 1.9]])
    assert check(Displacement(thin, moved, infer_roles(thin), "jitter")) is None
    closer = thin.moved([[0, 0, 0], [0, 0, 0.6]])
    assert check(Displacement(thin, closer, infer_roles(thin), "jitter")) is not None


def test_forces_on_held_atoms_are_not_the_actions_fault(copper: Structure):
    forces = np.zeros((len(copper), 3))
    forces[0] = 100.0
    check = VALIDATORS["quality"](QualityOptions()).check
    assert check(Displacement(copper, copper, infer_roles(copper), "jitter", Prediction(0.0, forces))) is None


def test_quality_has_lower_and_magnitude_limits(copper: Structure):
    quality = VALIDATORS["quality"](QualityOptions(min_force=2.0, magnitude={"jitter": (0.1, 0.3)}))
    reasons = [
        getattr(quality.check(displacement(copper, {12: [x, 0, 0]}, force)), "reason", None)
        for x, force in ((0.2, 1.0), (0.2, 3.0), (0.05, 3.0), (0.4, 3.0))
    ]
    assert reasons == ["quality:min_force", None, "quality:magnitude", "quality:magnitude"]


def test_slab_strain_equals_brute_force_and_does_not_creep(copper: Structure, rng: np.random.Generator):
    """Against lengths by ASE's minimum images, every pair of nearest neighbours; an attempt.s start is no excuse."""
    roles = infer_roles(copper)
    slab = np.flatnonzero(~roles.adsorbate)
    wide = copper.to_ase() * (3, 3, 1)
    middle = 4 * len(copper) + slab  # the images of these all lie within the larger cell
    others = np.concatenate([k * len(copper) + slab for k in range(9)])
    given = wide.get_all_distances()[np.ix_(middle, others)]
    pairs = (given > 0.1) & (given < 1.2 * 2.553)
    check = VALIDATORS["slab_strain"](SlabStrainOptions(max_strain=1e-6)).check
    for _ in range(5):
        shift = rng.normal(0, 0.1, copper.positions.shape) * roles.movable[:, None]
        moved = wide.copy()
        moved.positions += np.tile(shift, (9, 1))
        after = moved.get_all_distances()[np.ix_(middle, others)]
        found = check(Displacement(copper, copper.moved(copper.positions + shift), roles, "jitter"))
        assert found is not None
        assert found.figure == pytest.approx(np.abs(after[pairs] / given[pairs] - 1).max(), abs=1e-9)
    far = copper.moved(copper.positions + np.eye(len(copper))[8][:, None] * [0, 0, 1.2])
    check = VALIDATORS["slab_strain"](SlabStrainOptions()).check
    assert check(Displacement(far, far, roles, "jitter")) is not None


def test_min_dist_equals_brute_force(system: Structure, rng: np.random.Generator):
    """Over all images, every pair that something movable is part of; an atom's own image is no pair of the action's."""
    from itertools import product

    from ase.data import covalent_radii

    roles = infer_roles(system)
    check = VALIDATORS["min_dist"](MinDistOptions()).check
    shifts = np.array(list(product(*[range(-2, 3) if p else range(1) for p in system.pbc]))) @ system.cell
    verdicts = set()
    for width in (0.05, 0.3, 0.6):
        for _ in range(4):
            noise = rng.normal(0, width, system.positions.shape) * roles.movable[:, None]
            moved = system.moved(system.positions + noise)
            d = np.linalg.norm(moved.positions[None, :, None] + shifts - moved.positions[:, None, None], axis=-1)
            d[d < 1e-9] = np.inf
            radii = covalent_radii[system.numbers]
            limit = np.maximum(0.7 * (radii[:, None] + radii), 0.7)
            either = roles.movable[:, None] | roles.movable
            ratio = np.where(either, d.min(axis=2) / limit, np.inf).min()
            found = check(Displacement(system, moved, roles, "jitter"))
            assert (found is not None) == (ratio < 1)
            if found is not None:
                assert found.figure / found.limit == pytest.approx(ratio)
            verdicts.add(found is None)
    assert verdicts == {True, False}


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_rejections_on_every_system(name: str):
    """An atom on top of its neighbour is refused everywhere; one that has flown off wherever there is a surface."""
    start = SYSTEMS[name]()
    roles = infer_roles(start)
    atom = int(np.flatnonzero(roles.active)[-1])
    other = (atom - 1) % len(start)
    positions = start.positions.copy()
    positions[atom] = positions[other] + [0.3, 0, 0]
    near = VALIDATORS["min_dist"](MinDistOptions()).check(Displacement(start, start.moved(positions), roles, "jitter"))
    assert near is not None
    assert near.figure == pytest.approx(0.3)
    if roles.normal is not None and roles.adsorbate.any():
        positions = start.positions + 6.5 * roles.normal * roles.adsorbate[:, None]
        gone = VALIDATORS["detached"](DetachedOptions()).check(
            Displacement(start, start.moved(positions), roles, "jitter")
        )
        assert gone is not None
        assert gone.figure > 6.0
