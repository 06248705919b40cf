"""What every policy must do. Subclass, override ``kind``, and run it under pytest:

class TestBandit(PolicySuite):
    @pytest.fixture
    def kind(self):
        return Bandit
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling import checkpoint
from rlpath_core.sampling.attempt import Attempt, Plan, Result, Trial, WalkState
from rlpath_core.sampling.known_basins import KnownBasin
from rlpath_core.sampling.options import BasinOptions, WalkOptions
from rlpath_core.sampling.policy import PlanContext, Policy, WalkSetup
from rlpath_core.sampling.validators import Rejection
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS

ACTIONS = ("translate", "rotate", "dynamics")
N_FEATURES = 5


def setup_of(structure: Structure, n_walkers: int = 3) -> WalkSetup:
    """The setup of a walk from one structure with three actions, of which the last asks the model itself."""
    weights, costs = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.0, 9.0])
    return WalkSetup([infer_roles(structure)], n_walkers, ACTIONS, weights, costs, BasinOptions(), True)


def relaxed_start(policy: Policy, structure: Structure, embeddings: bool) -> tuple[WalkState, list[KnownBasin]]:
    """Begin a walk from ``structure``, which is a minimum of energy 0 eV and basin 0."""
    start = WalkState(structure, 0, 0.0, 0)
    policy.begin([start], [start])
    attempt = finished(Plan(0, 0, WalkState(structure, 0)), "start", structure, start, True, embeddings=embeddings)
    policy.observe(attempt, np.random.default_rng(0))
    return start, [KnownBasin(start, 0.0, 0)]


def finished(
    plan: Plan,
    action: str,
    structure: Structure,
    end: WalkState | None,
    new: bool = False,
    rejected: bool = False,
    embeddings: bool = False,
) -> Attempt:
    """An attempt that displaced its start to ``structure`` and ended in ``end``; None: nowhere."""
    force_calls = 4 if action == ACTIONS[-1] else 1
    embedding = np.cos(np.arange(len(structure) * N_FEATURES)).reshape(len(structure), N_FEATURES)
    embedding = embedding * structure.positions[:, :1]
    prediction = Prediction(1.0, np.ones((len(structure), 3)))
    if embeddings:
        prediction = replace(prediction, node_embedding=embedding, graph_embedding=embedding.mean(axis=0))
    rejection = Rejection("quality:max_force", 9.0, 5.0) if rejected else None
    trial = Trial(action, {}, 1.0, structure, 0.3, rejection, force_calls, prediction, 1.7, 1.7)
    if end is None:
        return Attempt(plan, trial, Result(force_calls))
    relaxed = Quenched(end.structure, end.energy or 0.0, 0.02, True, 9)
    result = Result(
        force_calls + 9,
        relaxed=relaxed,
        basin=end.basin,
        new_basin=new,
        end=end,
        prediction=prediction if embeddings else None,
    )
    return Attempt(plan, trial, result)


@dataclass
class Walk:
    """A made-up walk: each attempt ends in a known basin, in a new one, nowhere, or is rejected."""

    policy: Policy
    start: Structure
    seed: int
    embeddings: bool = False
    basins: list[KnownBasin] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        _, self.basins = relaxed_start(self.policy, self.start, self.embeddings)

    def run(self, n_attempts: int) -> list[Plan]:
        """The plans of the next attempts; those of the policy's other walkers are in flight meanwhile."""
        first = len(self.plans)
        n_walkers = self.policy.setup.n_walkers
        for n in range(first + 1, first + n_attempts + 1):
            context = PlanContext(self.basins, np.random.default_rng([self.seed, n, 1]))
            plan = self.policy.plan(n, n % n_walkers, context)
            self.plans.append(plan)
            if plan.start.basin is not None:
                self.basins[plan.start.basin].departures += 1
            if n >= n_walkers:
                self._finish(self.plans[n - n_walkers])
        return self.plans[first:]

    def _finish(self, plan: Plan) -> None:
        rng = np.random.default_rng([self.seed, plan.n])
        probabilities = self.policy.setup.weights if plan.probabilities is None else plan.probabilities
        action = ACTIONS[int(rng.choice(len(ACTIONS), p=probabilities / probabilities.sum()))]
        structures = [self._moved(plan.start.structure, rng) for _ in range(4)]

        def propose(draw: int) -> Trial:
            return Trial(action, {}, 1.0, structures[min(draw, 3)], 0.3, None, 4 if action == ACTIONS[-1] else 0)

        structure = structures[min(self.policy.choose_draw(plan, propose), 3)]
        fate, new, end = rng.random(), False, None
        if fate < 0.3:
            new, energy = True, float(rng.normal(0.5, 0.5))
            end = WalkState(self._moved(structure, rng), 0, energy, len(self.basins))
            self.basins.append(KnownBasin(end, energy, plan.n))
        elif fate < 0.8:
            basin = self.basins[int(rng.integers(len(self.basins)))]
            basin.visits += 1
            end = basin.minimum
        attempt = finished(plan, action, structure, end, new, fate > 0.9, self.embeddings)
        self.policy.observe(attempt, rng)

    def _moved(self, structure: Structure, rng: np.random.Generator) -> Structure:
        movable = self.policy.setup.roles[0].movable[:, None]
        return structure.moved(structure.positions + movable * rng.normal(0, 0.1, structure.positions.shape))


def plain(plan: Plan) -> str:
    """A plan as text, structures by their ids."""
    parts = (plan.n, plan.walker, plan.start.structure.id, plan.start.basin, plan.relax_threshold)
    arrays = (None if one is None else one.tolist() for one in (plan.probabilities, plan.step_scales))
    memo = {key: np.asarray(value).tolist() for key, value in plan.memo.items()}
    return repr((*parts, *arrays, memo))


class PolicySuite:
    """Contract of ``Policy``: plans that can be run, decided by what it observed alone, and a complete state."""

    n_walkers = 3
    n_attempts = 60
    options: dict[str, Any] = {}
    """Of the policy itself (``walk.options``)."""

    @pytest.fixture
    def kind(self) -> type[Policy]:
        raise NotImplementedError("override the fixture `kind`")

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    def policy(self, kind: type[Policy], system: Structure) -> Policy:
        return kind(WalkOptions(options=self.options), setup_of(system, self.n_walkers))

    def walk(self, kind: type[Policy], system: Structure, seed: int) -> Walk:
        return Walk(self.policy(kind, system), system, seed, kind.embeddings)

    def test_plans_can_be_run(self, kind: type[Policy], system: Structure) -> None:
        walk = self.walk(kind, system, 0)
        plans = walk.run(self.n_attempts)
        assert [(plan.n, plan.walker) for plan in plans] == [
            (n, n % self.n_walkers) for n in range(1, self.n_attempts + 1)
        ]
        minima = {basin.minimum.structure.id for basin in walk.basins}
        assert {plan.start.structure.id for plan in plans} <= minima
        assert plans[0].start.structure.id == system.id, "the first attempt has only the given structure"
        for plan in plans:
            if plan.probabilities is not None:
                assert plan.probabilities.shape == (len(ACTIONS),)
                assert np.isfinite(plan.probabilities).all()
                assert (plan.probabilities >= 0).all()
                assert plan.probabilities.sum() > 0
            if plan.step_scales is not None:
                assert plan.step_scales.shape == (len(ACTIONS),)
                assert np.isfinite(plan.step_scales).all()
                assert (plan.step_scales > 0).all()
            assert plan.relax_threshold is None or plan.relax_threshold >= 0

    def test_a_model_may_have_no_embeddings(self, kind: type[Policy], system: Structure) -> None:
        walk = Walk(self.policy(kind, system), system, 4, embeddings=False)
        assert len(walk.run(self.n_attempts)) == self.n_attempts

    def test_the_same_story_gives_the_same_plans(self, kind: type[Policy], system: Structure) -> None:
        state = repr(np.random.get_state(legacy=False))  # noqa: NPY002 - the global one must stay untouched
        first, second = (self.walk(kind, system, 1).run(self.n_attempts) for _ in range(2))
        assert [plain(plan) for plan in first] == [plain(plan) for plan in second]
        assert repr(np.random.get_state(legacy=False)) == state  # noqa: NPY002

    def test_a_resumed_policy_plans_what_the_first_one_would_have(
        self, kind: type[Policy], system: Structure, tmp_path: Path
    ) -> None:
        """By way of a checkpoint's file and the database's JSON, with attempts in flight."""
        walk = self.walk(kind, system, 2)
        walk.run(self.n_attempts // 2)
        saved = json.loads(json.dumps(checkpoint.save(tmp_path, 1, {"policy": walk.policy.state()})))
        resumed = Walk(self.policy(kind, system), system, 2, kind.embeddings)
        resumed.policy.load(checkpoint.load(tmp_path, saved, [system])["policy"])
        resumed.plans = list(walk.plans)
        resumed.basins = [KnownBasin(b.minimum, b.energy, b.first_attempt, b.visits, b.departures) for b in walk.basins]
        rest, again = (one.run(self.n_attempts // 2) for one in (walk, resumed))
        assert [plain(plan) for plan in rest] == [plain(plan) for plan in again]

    def test_a_plan_in_flight_keeps_its_memo(self, kind: type[Policy], system: Structure, tmp_path: Path) -> None:
        plan = self.walk(kind, system, 3).run(5)[-1]
        saved = json.loads(json.dumps(checkpoint.save(tmp_path, 1, plan.memo)))
        memo = checkpoint.load(tmp_path, saved, [system])
        assert {k: np.asarray(v).tolist() for k, v in memo.items()} == {
            k: np.asarray(v).tolist() for k, v in plan.memo.items()
        }

    def two_starts(self, kind: type[Policy], system: Structure) -> tuple[Policy, list[WalkState]]:
        """A policy for two given structures, and these."""
        other = system.moved(system.positions + 0.01)
        setup = replace(setup_of(system, 2), roles=[infer_roles(system), infer_roles(other)])
        return kind(WalkOptions(options=self.options), setup), [WalkState(system, 0), WalkState(other, 1)]

    def test_given_structures_may_find_their_basins_in_any_order(self, kind: type[Policy], system: Structure) -> None:
        policy, starts = self.two_starts(kind, system)
        minima = [replace(start, energy=0.1 * k, basin=1 - k) for k, start in enumerate(starts)]
        basins = [KnownBasin(minima[1], 0.1, -1), KnownBasin(minima[0], 0.0, 0)]
        policy.begin(minima, minima)
        for k, (start, minimum) in enumerate(zip(starts, minima, strict=True)):
            attempt = finished(Plan(-k, 0, start), "start", start.structure, minimum, True, embeddings=kind.embeddings)
            policy.observe(attempt, np.random.default_rng(k))
        plans = [policy.plan(n, n - 1, PlanContext(basins, np.random.default_rng(n))) for n in (1, 2)]
        assert [plan.start.structure.id for plan in plans] == [start.structure.id for start in starts]

    def test_before_any_basin_is_known_it_begins_at_the_given_structures(
        self, kind: type[Policy], system: Structure
    ) -> None:
        policy, starts = self.two_starts(kind, system)
        policy.begin(starts, starts)
        plans = [policy.plan(n, n - 1, PlanContext([], np.random.default_rng(n))) for n in (1, 2)]
        assert {plan.start.origin for plan in plans} == {0, 1}
