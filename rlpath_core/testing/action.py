"""What every action must do. Subclass, override ``action``, and run it under pytest:

    class TestShake(ActionSuite):
        @pytest.fixture
        def action(self):
            return Shake(Shake.Options(sigma=0.1))

``system`` runs through ``testing.systems``; ``always_applies`` says that every one has something for it to do.
"""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.backends.base import Model
from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.sampling.actions import Action, ActionContext, Move
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import SYSTEMS


class ActionSuite:
    """Contract of ``Action.apply``."""

    tries = 8
    always_applies = False

    @pytest.fixture
    def action(self) -> Action:
        raise NotImplementedError("override the fixture `action`")

    @pytest.fixture
    def model(self) -> Model:
        return EMTModel()

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    def moves(self, action: Action, structure: Structure, model: Model, seed: int, scale: float = 1.0) -> list[Move]:
        """``tries`` moves from one generator, drawn inside a walker as in a run."""
        found: list[Move] = []

        def script(evaluate: Evaluator) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(self.tries):
                move = action.apply(structure, ActionContext(infer_roles(structure), rng, scale, evaluate))
                if move is not None:
                    found.append(move)

        Hub(model).run([script])
        return found

    def test_positions_are_finite_and_of_the_right_shape(self, action: Action, system: Structure, model: Model) -> None:
        found = self.moves(action, system, model, 0)
        assert found or not self.always_applies, "the action never applied to this system"
        for move in found:
            assert move.positions.shape == (len(system), 3)
            assert np.isfinite(move.positions).all()

    def test_something_moves_and_core_atoms_do_not(self, action: Action, system: Structure, model: Model) -> None:
        core = ~infer_roles(system).movable
        for move in self.moves(action, system, model, 1):
            moved = np.linalg.norm(displacements(system.moved(move.positions), system), axis=1)
            assert moved.max() > 1e-6
            assert moved[core].max(initial=0.0) == 0.0

    def test_the_input_is_not_changed(self, action: Action, system: Structure, model: Model) -> None:
        before = system.positions.copy()
        self.moves(action, system, model, 2)
        np.testing.assert_array_equal(system.positions, before)

    def test_the_same_generator_gives_the_same_moves(self, action: Action, system: Structure, model: Model) -> None:
        first, second = (self.moves(action, system, model, 3) for _ in range(2))
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)
            assert a.parameters == b.parameters

    def test_no_other_random_numbers_are_used(self, action: Action, system: Structure, model: Model) -> None:
        state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one must stay untouched
        self.moves(action, system, model, 4)
        after = np.random.get_state(legacy=False)  # noqa: NPY002
        assert repr(state) == repr(after)

    def test_parameters_can_be_recorded(self, action: Action, system: Structure, model: Model) -> None:
        import json

        for move in self.moves(action, system, model, 7):
            assert json.loads(json.dumps(move.parameters, allow_nan=False)) == move.parameters
