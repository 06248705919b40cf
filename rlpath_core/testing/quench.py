"""What every quench method must do. Subclass, override ``options`` (and ``model``, ``system``), run it under pytest."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.backends.base import Model
from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.relax import Quenched, quench
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import SYSTEMS, oxide


class QuenchSuite:
    """Contract of ``lockstep.relax.quench``."""

    shake = 0.08
    """Å: standard deviation of the displacement that is to be undone."""

    @pytest.fixture
    def options(self) -> QuenchOptions:
        raise NotImplementedError("override the fixture `options`")

    @pytest.fixture
    def model(self) -> Model:
        return EMTModel()

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    def relax(
        self, starts: list[Structure], model: Model, options: QuenchOptions
    ) -> tuple[list[Quenched], list[list[int]]]:
        """Every start relaxed by a walker of its own, in lockstep; with the steps that were watched."""
        found: dict[int, Quenched] = {}
        watched: list[list[int]] = [[] for _ in starts]

        def script(k: int):  # type: ignore[no-untyped-def]
            def walk(evaluate: Evaluator) -> None:
                movable = infer_roles(starts[k]).movable
                prediction = evaluate(starts[k])
                found[k] = quench(
                    starts[k], movable, prediction, evaluate, options, lambda step, _s, _p: watched[k].append(step)
                )

            return walk

        Hub(model).run([script(k) for k in range(len(starts))])
        return [found[k] for k in range(len(starts))], watched

    def shaken(self, system: Structure, seed: int) -> Structure:
        movable = infer_roles(system).movable[:, None]
        noise = np.random.default_rng(seed).normal(0, self.shake, system.positions.shape)
        return system.moved(system.positions + movable * noise)

    def test_a_quench_goes_down_holds_the_core_and_says_the_truth(
        self, options: QuenchOptions, system: Structure, model: Model
    ) -> None:
        starts = [self.shaken(system, seed) for seed in (0, 1)]
        movable = infer_roles(system).movable
        before = model.predict(starts)
        found, watched = self.relax(starts, model, options)
        for start, first, one, steps in zip(starts, before, found, watched, strict=True):
            moved = np.linalg.norm(displacements(one.structure, start), axis=1)
            assert moved[~movable].max(initial=0.0) == 0.0
            after = model.predict([one.structure])[0]
            assert after.forces is not None
            assert one.energy == pytest.approx(after.energy, abs=1e-4)
            assert one.fmax == pytest.approx(np.linalg.norm(after.forces[movable], axis=1).max(), abs=2e-3)
            assert one.converged == (one.fmax < options.fmax)
            assert steps == sorted(set(steps)), "every step is watched once, in order"
            if options.method == "none":
                assert moved.max() == 0.0
                assert one.steps == 0
            else:
                assert one.energy <= first.energy + 1e-4
                assert 0 < one.steps <= options.steps

    def test_walkers_in_lockstep_change_nothing(self, options: QuenchOptions, model: Model) -> None:
        """Alone or side by side with another: the same minimum. On one system: what differs is the batch."""
        system = SYSTEMS["cluster"]() if 29 in model.elements else oxide()
        starts = [self.shaken(system, seed) for seed in (2, 3)]
        together, _ = self.relax(starts, model, options)
        for start, one in zip(starts, together, strict=True):
            alone = self.relax([start], model, options)[0][0]
            np.testing.assert_allclose(alone.structure.positions, one.structure.positions, atol=1e-4)
            assert alone.steps == one.steps
