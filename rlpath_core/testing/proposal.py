"""What every proposal must do. Subclass, override ``proposal``, and run it under pytest:

    class TestNudge(ProposalSuite):
        @pytest.fixture
        def proposal(self):
            return Nudge(Nudge.Options())

``system`` runs through ``testing.systems``; ``always_applies`` says that every one has something for it to do.
"""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest

from rlpath_core.backends.base import Model
from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.paths.proposals import KnownMinimum, KnownSaddle, Landscape, Proposal
from rlpath_core.paths.proposals.base import unit
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import SYSTEMS


def known(system: Structure) -> Landscape:
    """A landscape of two minima, the system and one with its active atoms moved, and a saddle half way."""
    roles = infer_roles(system)
    rng = np.random.default_rng(7)
    step = np.zeros(system.positions.shape)
    step[roles.active] = rng.normal(0.0, 0.3, (int(roles.active.sum()), 3))
    other, between = (system.moved(system.positions + share * step) for share in (1.0, 0.5))
    return Landscape(
        roles,
        [KnownMinimum("B001", system, 0.0), KnownMinimum("B002", other, 0.1, searches=2)],
        [KnownSaddle("TS001", between, 0.6, unit(step), "B001", "B002")],
        {("B001", "B002"): 1},
    )


class ProposalSuite:
    """Contract of ``Proposal``."""

    tries = 6
    always_applies = False

    @pytest.fixture
    def proposal(self) -> Proposal:
        raise NotImplementedError("override the fixture `proposal`")

    @pytest.fixture
    def model(self) -> Model:
        return EMTModel()

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    def guesses(self, proposal: Proposal, landscape: Landscape, model: Model, seed: int, tries: int) -> list[Guess]:
        """``tries`` guesses from one generator, refined inside a walker as in a run; every other search succeeds."""
        found: list[Guess] = []

        def script(evaluate: Evaluator) -> None:
            rng = np.random.default_rng(seed)
            for n in range(tries):
                guess = proposal.propose(landscape, rng) if proposal.applies(landscape) else None
                if guess is None:
                    break
                before = evaluate.calls
                refined = proposal.refine(guess, evaluate, rng)
                proposal.observe(refined, "TS001" if n % 2 else None, 1.0 / n if n % 2 else 0.0, 100 + evaluate.calls)
                assert (evaluate.calls == before) or refined is not guess, "calls were made for nothing"
                found.append(refined)

        Hub(model).run([script])
        return found

    def test_a_guess_is_of_the_same_atoms_and_the_core_stays(
        self, proposal: Proposal, system: Structure, model: Model
    ) -> None:
        landscape = known(system)
        found = self.guesses(proposal, landscape, model, 0, self.tries)
        assert found or not self.always_applies, "the proposal never applied to this system"
        core = ~landscape.roles.movable
        for guess in found:
            for one in (guess.structure, *guess.path):
                np.testing.assert_array_equal(one.numbers, system.numbers)
                assert np.linalg.norm(displacements(one, system)[core], axis=1).max(initial=0.0) == 0.0

    def test_there_is_a_direction_or_a_path(self, proposal: Proposal, system: Structure, model: Model) -> None:
        landscape = known(system)
        for guess in self.guesses(proposal, landscape, model, 1, self.tries):
            assert guess.mode is not None or len(guess.path) >= 2
            if guess.mode is not None:
                assert guess.mode.shape == (len(system), 3)
                assert np.linalg.norm(guess.mode) == pytest.approx(1.0)
                assert np.abs(guess.mode[~landscape.roles.movable]).max(initial=0.0) == 0.0
            names = {minimum.name for minimum in landscape.minima}
            assert {guess.start, guess.end} <= {*names, None}

    def test_the_landscape_is_not_changed(self, proposal: Proposal, system: Structure, model: Model) -> None:
        landscape = known(system)
        structures = [one.structure for one in landscape.minima] + [one.structure for one in landscape.saddles]
        before = [structure.positions.copy() for structure in structures]
        pairs = dict(landscape.pairs)
        self.guesses(proposal, landscape, model, 2, self.tries)
        for structure, positions in zip(structures, before, strict=True):
            np.testing.assert_array_equal(structure.positions, positions)
        assert landscape.pairs == pairs

    def test_no_other_random_numbers_are_used(self, proposal: Proposal, system: Structure, model: Model) -> None:
        state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one must stay untouched
        self.guesses(proposal, known(system), model, 3, self.tries)
        after = np.random.get_state(legacy=False)  # noqa: NPY002
        assert repr(state) == repr(after)

    def test_it_continues_from_its_state(self, proposal: Proposal, system: Structure, model: Model) -> None:
        """The same guesses follow from the state as from the proposal itself; nothing else is remembered."""
        landscape = known(system)
        fresh = deepcopy(proposal)
        self.guesses(proposal, landscape, model, 4, self.tries)
        fresh.load(deepcopy(proposal.state()))
        first, second = (self.guesses(one, landscape, model, 5, self.tries) for one in (proposal, fresh))
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.structure.positions, b.structure.positions)
            assert a.parameters == b.parameters

    def test_what_is_recorded_is_plain(self, proposal: Proposal, system: Structure, model: Model) -> None:
        for guess in self.guesses(proposal, known(system), model, 6, self.tries):
            assert json.loads(json.dumps(guess.parameters, allow_nan=False)) == guess.parameters
            assert guess.proposal == proposal.name
