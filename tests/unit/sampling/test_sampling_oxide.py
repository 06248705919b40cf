"""The conformance suites on MgO(001) + H2O, with the starter model."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlpath_core.backends import load_model
from rlpath_core.backends.base import Model
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.sampling.actions import ACTIONS, Action
from rlpath_core.sampling.options import ACTION_OPTIONS, TriggerOptions
from rlpath_core.sampling.policy import POLICIES, Policy
from rlpath_core.sampling.triggers import TRIGGERS, Trigger
from rlpath_core.structure import Structure
from rlpath_core.testing.action import ActionSuite
from rlpath_core.testing.policy import PolicySuite
from rlpath_core.testing.quench import QuenchSuite
from rlpath_core.testing.systems import oxide
from rlpath_core.testing.trigger import TriggerSuite

STARTER = Path(__file__).resolve().parents[3] / "models" / "starter" / "manifest.json"


@pytest.fixture(scope="module")
def starter() -> Model:
    return load_model(STARTER)


class OnOxide:
    @pytest.fixture
    def model(self, starter: Model) -> Model:
        return starter

    @pytest.fixture
    def system(self) -> Structure:
        return oxide()


@pytest.mark.parametrize("name", list(ACTION_OPTIONS))
class TestActions(OnOxide, ActionSuite):
    tries = 2
    always_applies = True

    @pytest.fixture
    def action(self, name: str) -> Action:
        short = {"max_steps": 6} if name == "md" else {}
        return ACTIONS[name](ACTION_OPTIONS[name](**short))


@pytest.mark.parametrize("method", ["none", "fire", "cg", "bfgs", "lbfgs"])
class TestQuench(OnOxide, QuenchSuite):
    @pytest.fixture
    def options(self, method: str) -> QuenchOptions:
        return QuenchOptions(method=method, fmax=0.8, steps=12)


class TestTrigger(OnOxide, TriggerSuite):
    @pytest.fixture
    def trigger(self, roles: Roles) -> Trigger:
        return TRIGGERS["force"](TriggerOptions(), roles)

    @pytest.fixture
    def telling(self, model: Model, system: Structure):
        """Water that lies 0.5 Å too low."""
        positions = system.positions - 0.5 * infer_roles(system).adsorbate[:, None] * [0.0, 0.0, 1.0]
        return model.predict([system.moved(positions)])[0]


@pytest.mark.parametrize("name", list(POLICIES))
class TestPolicies(OnOxide, PolicySuite):
    @pytest.fixture
    def kind(self, name: str) -> type[Policy]:
        return POLICIES[name]
