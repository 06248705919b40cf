"""Every criterion of the trigger by the conformance suite; a committee's spread against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.backends.committee import Committee
from rlpath_core.errors import InputError
from rlpath_core.files import read_lines
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.options import TriggerOptions
from rlpath_core.sampling.triggers import TRIGGERS, Trigger
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.models import ScaledModel
from rlpath_core.testing.trigger import TriggerSuite

NEVER = {"max_force": 1e3, "top_k_mean": 1e3}
CRITERIA = {
    "max_force": NEVER | {"max_force": 0.7},
    "top_k_mean": NEVER | {"top_k_mean": 0.05},
    "energy_rise": NEVER | {"energy_rise": 1.0},
    "spread": NEVER | {"spread": 0.2},
}


@pytest.mark.parametrize("criterion", list(CRITERIA))
class TestTriggers(TriggerSuite):
    @pytest.fixture
    def trigger(self, criterion: str, roles: Roles) -> Trigger:
        return TRIGGERS["force"](TriggerOptions(**CRITERIA[criterion]), roles)

    def test_its_name_is_what_it_met(
        self, trigger: Trigger, system: Structure, telling: Prediction, criterion: str
    ) -> None:
        found = trigger.judge(system, telling, "sample", 0.0)
        assert found is not None
        assert found.trigger == criterion


def test_all_asks_for_everything_that_is_configured(copper: Structure):
    roles = infer_roles(copper)
    forces, spread = np.zeros((len(copper), 3)), np.zeros(len(copper))
    forces[-1, 0] = 3.0
    trigger = TRIGGERS["force"](TriggerOptions(mode="all", spread=0.2), roles)
    assert trigger.judge(copper, Prediction(0.0, forces, force_spread=spread), "sample") is None
    spread[-1] = 0.3
    found = trigger.judge(copper, Prediction(0.0, forces, force_spread=spread), "sample")
    assert found is not None
    assert found.trigger == "max_force+top_k_mean+spread"
    assert found.score == pytest.approx(3.0 / 0.7)


def test_a_committee_is_its_leader_with_the_spread_of_all(copper: Structure, rng: np.random.Generator):
    shaken = copper.moved(copper.positions + rng.normal(0, 0.05, copper.positions.shape))
    committee = Committee(EMTModel(), [ScaledModel(1.1), ScaledModel(0.7)])
    (own,), (found,) = EMTModel().predict([shaken]), committee.predict([shaken])
    assert found.energy == own.energy
    np.testing.assert_array_equal(found.forces, own.forces)
    all_forces = np.array([own.forces, 1.1 * own.forces, 0.7 * own.forces])
    for atom in range(len(shaken)):
        expected = np.sqrt(sum(all_forces[:, atom, axis].std() ** 2 for axis in range(3)))
        assert found.force_spread[atom] == pytest.approx(expected)
    with pytest.raises(InputError, match="twice"):
        Committee(EMTModel(), [EMTModel()])


def test_a_run_with_a_committee_queues_where_it_disagrees(run, tmp_path, copper: Structure):
    trigger = NEVER | {"spread": 0.15, "stages": ["sample"]}
    committee = Committee(EMTModel(), [ScaledModel(1.2)])
    config = {"steps": 6, "walkers": 2, "quench": "none", "pipeline": {"trigger": trigger}}
    run(copper, using=committee, **config)
    steps = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl") if s["accepted"] and s["n"] > 0]
    queue = read_lines(tmp_path / "a" / "run" / "dft_queue.jsonl")
    # two members, one 1.2 times the other: their deviation is a tenth of the force
    assert [line["attempt"] for line in queue] == [s["n"] for s in steps if s["max_force"] > 1.5]
    assert {line["trigger"] for line in queue} <= {"spread"}
    with pytest.raises(InputError, match="committee"):
        run(copper, "b", **config)
