"""What every action plugin must do. Subclass, override ``plugin``, and run it under pytest:

    class TestSag(PluginSuite):
        @pytest.fixture
        def plugin(self):
            return Sag(Sag.Options(by=0.1))

``system`` runs through ``testing.systems``.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Request
from rlpath_core.sampling.actions import ActionContext
from rlpath_core.sampling.plugins import Plugin
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS


def _no_model(request: Request) -> list[Prediction]:
    raise AssertionError("a plugin must not call the model: it runs before the validators that cost nothing")


class PluginSuite:
    """Contract of ``Plugin.apply``."""

    moves_core = False
    """Whether the plugin may displace atoms that are held."""

    @pytest.fixture
    def plugin(self) -> Plugin:
        raise NotImplementedError("override the fixture `plugin`")

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    def applied(
        self, plugin: Plugin, system: Structure, positions: NDArray[np.float64], seed: int
    ) -> NDArray[np.float64]:
        context = ActionContext(infer_roles(system), np.random.default_rng(seed), 1.0, Evaluator(_no_model))
        return plugin.apply(system, positions, context)

    def acted_on(self, system: Structure) -> NDArray[np.float64]:
        """What an action may have made of the system: its movable atoms are elsewhere."""
        movable = infer_roles(system).movable[:, None]
        return system.positions + movable * np.random.default_rng(9).normal(0, 0.2, system.positions.shape)

    def test_positions_are_finite_and_of_the_right_shape(self, plugin: Plugin, system: Structure) -> None:
        found = self.applied(plugin, system, self.acted_on(system), 0)
        assert found.shape == (len(system), 3)
        assert np.isfinite(found).all()

    def test_it_starts_from_what_the_action_made(self, plugin: Plugin, system: Structure) -> None:
        """Nearer to the action's result than to the start: a plugin adds to a move, it does not replace it."""
        acted = self.acted_on(system)
        found = self.applied(plugin, system, acted, 1)
        assert np.abs(found - acted).max() < np.abs(found - system.positions).max()

    def test_held_atoms_stay_and_inputs_are_not_changed(self, plugin: Plugin, system: Structure) -> None:
        acted = self.acted_on(system)
        before, start = acted.copy(), system.positions.copy()
        found = self.applied(plugin, system, acted, 2)
        np.testing.assert_array_equal(acted, before)
        np.testing.assert_array_equal(system.positions, start)
        if not self.moves_core:
            core = ~infer_roles(system).movable
            np.testing.assert_array_equal(found[core], acted[core])

    def test_the_same_generator_gives_the_same_result_and_no_other_is_used(
        self, plugin: Plugin, system: Structure
    ) -> None:
        state = repr(np.random.get_state(legacy=False))  # noqa: NPY002 - the global one must stay untouched
        acted = self.acted_on(system)
        np.testing.assert_array_equal(self.applied(plugin, system, acted, 3), self.applied(plugin, system, acted, 3))
        assert repr(np.random.get_state(legacy=False)) == state  # noqa: NPY002
