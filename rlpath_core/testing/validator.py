"""What every validator must do. Subclass, override the fixtures, and run it under pytest.

``good`` and ``bad`` are attempts that must pass and must be rejected. ``system`` runs through ``testing.systems``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.validators import Displacement, Validator
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS, oxide


class ValidatorSuite:
    """Contract of ``Validator.check``."""

    @pytest.fixture
    def validator(self) -> Validator:
        raise NotImplementedError("override the fixture `validator`")

    @pytest.fixture
    def good(self) -> Displacement:
        raise NotImplementedError("override the fixture `good`")

    @pytest.fixture
    def bad(self) -> Displacement:
        raise NotImplementedError("override the fixture `bad`")

    @pytest.fixture(params=[*SYSTEMS, "oxide"])
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return (SYSTEMS | {"oxide": oxide})[request.param]()

    def test_what_has_not_moved_passes_on_every_system(self, validator: Validator, system: Structure) -> None:
        at_rest = Prediction(0.0, np.zeros((len(system), 3)))
        assert validator.check(Displacement(system, system, infer_roles(system), "jitter", at_rest)) is None

    def test_nothing_is_changed_and_the_same_answer_comes_twice(self, validator: Validator, system: Structure) -> None:
        rng = np.random.default_rng(0)
        for width in (0.05, 0.5, 2.0):
            positions = system.positions + rng.normal(0, width, system.positions.shape)
            kept = positions.copy()
            forces = rng.normal(0, 5 * width, positions.shape)
            displacement = Displacement(
                system, system.moved(positions), infer_roles(system), "jitter", Prediction(0.0, forces)
            )
            first, second = validator.check(displacement), validator.check(displacement)
            assert first == second
            np.testing.assert_array_equal(displacement.structure.positions, kept)

    def test_a_good_attempt_passes(self, validator: Validator, good: Displacement) -> None:
        assert validator.check(good) is None

    def test_a_bad_attempt_is_rejected_with_figure_and_limit(self, validator: Validator, bad: Displacement) -> None:
        found = validator.check(bad)
        assert found is not None
        name, _, what = found.reason.partition(":")
        assert name
        assert what, "a reason reads `validator:what`"
        assert np.isfinite([found.figure, found.limit]).all()
        assert found.figure != found.limit

    def test_a_cheap_validator_needs_no_forces(self, validator: Validator, bad: Displacement) -> None:
        if validator.stage == "after":
            assert bad.prediction is not None
        else:
            assert validator.check(replace(bad, prediction=None)) is not None

    def test_other_periodic_images_make_no_difference(
        self, validator: Validator, good: Displacement, bad: Displacement
    ) -> None:
        for displacement in (good, bad):
            structure = displacement.structure
            shifts = np.random.default_rng(0).integers(-1, 2, (len(structure), 3)) * structure.pbc
            shifted = replace(displacement, structure=structure.moved(structure.positions + shifts @ structure.cell))
            before, after = validator.check(displacement), validator.check(shifted)
            assert (before is None) == (after is None)
            if before is not None and after is not None:
                assert after.reason == before.reason
                assert after.figure == pytest.approx(before.figure, abs=1e-6)
