"""What every trigger must do. Subclass, override ``trigger``, and the two predictions where it reads more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.triggers import Collector, Trigger
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS


class TriggerSuite:
    """Contract of ``Trigger.judge`` for a walk from energy 0 eV. ``dull`` must not trigger. ``telling`` must: it is
    2 eV above, with 1.5 eV/Å and a spread of 0.5 eV/Å on one atom."""

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    @pytest.fixture
    def roles(self, system: Structure) -> Roles:
        return infer_roles(system)

    @pytest.fixture
    def trigger(self, roles: Roles) -> Trigger:
        raise NotImplementedError("override the fixture `trigger`")

    @pytest.fixture
    def dull(self, system: Structure) -> Prediction:
        return Prediction(0.0, np.zeros((len(system), 3)), force_spread=np.zeros(len(system)))

    @pytest.fixture
    def telling(self, system: Structure, roles: Roles) -> Prediction:
        one = np.flatnonzero(roles.movable)[-1]
        forces, spread = np.zeros((len(system), 3)), np.zeros(len(system))
        forces[one, 1], spread[one] = 1.5, 0.5
        return Prediction(2.0, forces, force_spread=spread)

    def test_only_what_tells_something_triggers(
        self, trigger: Trigger, system: Structure, dull: Prediction, telling: Prediction
    ) -> None:
        assert trigger.judge(system, dull, "sample", 0.0) is None
        found = trigger.judge(system, telling, "sample", 0.0)
        assert found is not None
        assert found.structure is system
        assert found.stage == "sample"
        assert found.trigger
        assert np.isfinite([found.score, found.max_force, found.energy]).all()
        assert found.score > 1
        assert found.energy == telling.energy

    def test_held_atoms_say_nothing(self, trigger: Trigger, system: Structure, roles: Roles, dull: Prediction) -> None:
        forces = np.zeros((len(system), 3))
        forces[~roles.movable] = 10.0
        spread = np.where(roles.movable, 0.0, 10.0)
        assert trigger.judge(system, replace(dull, forces=forces, force_spread=spread), "sample", 0.0) is None

    def test_exploded_structures_are_worth_no_label(
        self, trigger: Trigger, system: Structure, telling: Prediction, roles: Roles
    ) -> None:
        forces = np.zeros((len(system), 3))
        forces[np.flatnonzero(roles.movable)[0]] = 2 * trigger.options.upper
        assert trigger.judge(system, replace(telling, forces=forces), "sample", 0.0) is None

    def test_stages_stride_and_number_are_kept(self, trigger: Trigger, system: Structure, telling: Prediction) -> None:
        collector = Collector(trigger, 0.0)
        far = [system.moved(system.positions + [0.0, 0.0, 0.3 * k * (-1) ** k]) for k in range(20)]
        for step, structure in enumerate(far):
            collector.offer(structure, telling, "quench_step", step * trigger.options.stride + 1)
        assert not collector.candidates, "off the stride"
        for step, structure in enumerate(far):
            collector.offer(structure, telling, "quench_step", step * trigger.options.stride)
        wanted = trigger.options.per_attempt if "quench_step" in trigger.options.stages else 0
        assert len(collector.candidates) == wanted
