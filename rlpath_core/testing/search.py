"""What every saddle search must do. Subclass, override ``search``, and run it under pytest:

    class TestClimb(SearchSuite):
        @pytest.fixture
        def search(self):
            return lambda **options: Climb(ClimbOptions(**options))

It runs on ``BentWell``, whose saddle, barrier and modes are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError
from rlpath_core.paths.searches.base import Found, Guess, Search, SearchEnded, Surface
from rlpath_core.structure import Structure

HEIGHT, WIDTH = 0.6, 1.1  # eV and Å: the barrier, and half the distance between the wells where nothing couples
BEND, STIFF = 0.3, 8.0  # 1/Å and eV/Å²: the valley is y = BEND x²
SPRING, COUPLING = 5.0, 0.8  # eV/Å²: of the second atom, and of the first atom's x with the second one's y


class BentWell(Model):
    """Two wells of one atom in a bent valley, coupled to another atom, seen from a third that is held.

    With r1 = (x, y, z) and r2 = (u, v, w) the positions of atoms 1 and 2 relative to their places beside atom 0, the
    energy is HEIGHT ((x / WIDTH)² - 1)² + STIFF/2 ((y - BEND x²)² + z²) + SPRING/2 |r2|² + COUPLING x v. The only
    saddle is at r1 = r2 = 0, with the energy HEIGHT. Atom 0, which is held, feels a force.

    ``asked`` keeps the structures that it was called with.
    """

    backend = "bent_well"
    has_embeddings = False
    conservative = True

    def __init__(self) -> None:
        self.digest = hashlib.sha256(b"bent-well").hexdigest()
        self.elements = frozenset({1, 29})
        self.device = "cpu"
        self.asked: list[Structure] = []

    PLACES = np.array([[0.0, 0.0, 2.5], [4.0, 0.0, 2.5]])

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        self.asked += structures
        return [self.one(structure.positions) for structure in structures]

    def one(self, positions: np.ndarray) -> Prediction:
        first, second = positions[1:] - positions[0] - self.PLACES
        x, y, z = first
        well, off = (x / WIDTH) ** 2 - 1, y - BEND * x**2
        energy = HEIGHT * well**2 + STIFF / 2 * (off**2 + z**2)
        energy += SPRING / 2 * float(second @ second) + COUPLING * x * second[1]
        gradient = np.zeros((3, 3))
        gradient[1] = [
            4 * HEIGHT * well * x / WIDTH**2 - 2 * BEND * STIFF * off * x + COUPLING * second[1],
            STIFF * off,
            STIFF * z,
        ]
        gradient[2] = SPRING * second + [0.0, COUPLING * x, 0.0]
        gradient[0] = -gradient[1:].sum(axis=0)
        return Prediction(float(energy), -gradient)

    @classmethod
    def at(cls, first: Sequence[float], second: Sequence[float] = (0.0, 0.0, 0.0)) -> Structure:
        """The structure with the two atoms so far from their places."""
        positions = np.concatenate((np.zeros((1, 3)), cls.PLACES + np.array([first, second])))
        return Structure(np.array([29, 1, 1]), positions, fixed=np.array([True, False, False]))

    @classmethod
    def minimum(cls, side: int) -> Structure:
        """The minimum at negative or positive x."""
        x = side * WIDTH * np.sqrt(1 + COUPLING**2 * WIDTH**2 / (4 * HEIGHT * SPRING))
        return cls.at([x, BEND * x**2, 0.0], [0.0, -COUPLING * x / SPRING, 0.0])

    @staticmethod
    def mode() -> tuple[float, np.ndarray]:
        """The one negative curvature at the saddle, eV/Å², and its direction [3, 3]."""
        values, vectors = np.linalg.eigh([[-4 * HEIGHT / WIDTH**2, COUPLING], [COUPLING, SPRING]])
        mode = np.zeros((3, 3))
        mode[1, 0], mode[2, 1] = vectors[:, 0]
        return float(values[0]), mode


class SearchSuite:
    """Contract of ``Search``."""

    fmax = 0.01
    overlap = 0.95
    """Least overlap of the mode that is found with the true one."""

    @pytest.fixture
    def search(self) -> Callable[..., Search]:
        raise NotImplementedError("override the fixture `search`: it makes a search with the given options")

    @pytest.fixture
    def model(self) -> BentWell:
        return BentWell()

    @pytest.fixture
    def guess(self, search: Callable[..., Search]) -> Guess:
        """Off the saddle; for a double-ended search, both minima."""
        start = BentWell.at([0.25, 0.15, 0.1], [0.05, -0.1, 0.05])
        if search().double_ended:
            return Guess(start, path=(BentWell.minimum(-1), BentWell.minimum(1)))
        mode = np.zeros((3, 3))
        mode[1] = [0.9, np.sqrt(1 - 0.9**2), 0.0]
        return Guess(start, mode)

    @staticmethod
    def solve(
        search: Search,
        guess: Guess,
        model: Model,
        watch: Callable[[Structure, Prediction], None] = lambda structure, prediction: None,
        beside: int = 0,
    ) -> tuple[Found, int]:
        """What is found, and the calls; with other walkers beside it that need calls of their own."""
        found: list[tuple[Found, int]] = []
        roles = infer_roles(guess.structure)

        def script(evaluate: Evaluator) -> None:
            surface = Surface(evaluate, ~guess.structure.fixed, roles, np.random.default_rng(3), watch)
            found.append((search.run(guess, surface), evaluate.calls))

        def other(evaluate: Evaluator) -> None:
            for shift in np.linspace(0, 1, 9):
                evaluate(BentWell.at([shift, 0.0, 0.0]))

        Hub(model).run([*[other] * beside, script])
        return found[0]

    def check_truth(self, found: Found, model: BentWell, fmax: float) -> None:
        """What ``Found`` says is so."""
        again = model.one(found.structure.positions)
        assert found.prediction.energy == again.energy
        assert found.prediction.forces is not None
        assert again.forces is not None
        np.testing.assert_array_equal(found.prediction.forces, again.forces)
        assert found.converged == (np.linalg.norm(again.forces[1:], axis=1).max() < fmax)
        assert (found.reason is None) == found.converged
        if found.mode is not None:
            assert np.linalg.norm(found.mode) == pytest.approx(1.0)
            assert not found.mode[0].any(), "the mode moves a held atom"

    def test_the_saddle_is_found(self, search: Callable[..., Search], guess: Guess, model: BentWell) -> None:
        found, _ = self.solve(search(fmax=self.fmax), guess, model)
        assert found.converged
        assert found.prediction.energy == pytest.approx(HEIGHT, abs=1e-4)
        np.testing.assert_allclose(found.structure.positions, BentWell.at([0, 0, 0]).positions, atol=0.02)
        self.check_truth(found, model, self.fmax)
        curvature, mode = BentWell.mode()
        assert found.mode is not None
        assert found.curvature is not None
        assert abs(float((found.mode * mode).sum())) > self.overlap
        assert found.curvature < 0.5 * curvature
        assert found.steps > 0

    def test_without_a_mode(self, search: Callable[..., Search], guess: Guess, model: BentWell) -> None:
        found, calls = self.solve(search(fmax=self.fmax), replace(guess, mode=None), model)
        self.check_truth(found, model, self.fmax)
        assert calls == len(model.asked)

    def test_every_call_is_counted_and_held_atoms_stay(
        self, search: Callable[..., Search], guess: Guess, model: BentWell
    ) -> None:
        _, calls = self.solve(search(fmax=self.fmax), guess, model)
        assert calls == len(model.asked)
        for structure in model.asked:
            np.testing.assert_array_equal(structure.positions[0], guess.structure.positions[0])
            np.testing.assert_array_equal(structure.numbers, guess.structure.numbers)

    def test_it_stops_at_the_limit_of_calls(self, search: Callable[..., Search], guess: Guess, model: BentWell) -> None:
        _, needed = self.solve(search(fmax=self.fmax), guess, model)
        for limit in (1, 2, 3, 5, 8, needed - 1, needed):
            found, calls = self.solve(search(fmax=self.fmax, max_calls=limit), guess, model)
            assert calls <= limit
            self.check_truth(found, model, self.fmax)
        assert found.converged

    def test_it_is_reproducible(self, search: Callable[..., Search], guess: Guess, model: BentWell) -> None:
        """To the last bit, and whatever other walkers do beside it."""
        (first, n), (second, m) = (self.solve(search(fmax=self.fmax), guess, model, beside=k) for k in (0, 3))
        assert n == m
        np.testing.assert_array_equal(first.structure.positions, second.structure.positions)
        assert first.mode is not None
        assert second.mode is not None
        np.testing.assert_array_equal(first.mode, second.mode)
        assert first.curvature == second.curvature

    def test_the_watch_sees_every_move_and_may_end_it(
        self, search: Callable[..., Search], guess: Guess, model: BentWell
    ) -> None:
        seen: list[Structure] = []

        def watch(structure: Structure, prediction: Prediction) -> None:
            seen.append(structure)
            assert prediction.energy == model.one(structure.positions).energy, "the prediction is of another structure"
            if len(seen) > stop:
                raise SearchEnded("energy:too_high", prediction.energy, 0.1)

        stop = 10**6
        found, _ = self.solve(search(fmax=self.fmax), guess, model, watch)
        assert any(np.array_equal(one.positions, found.structure.positions) for one in seen)
        assert len(seen) <= len(model.asked)
        for stop in (0, len(seen) // 2):
            seen.clear()
            with pytest.raises(SearchEnded, match="energy:too_high"):
                self.solve(search(fmax=self.fmax), guess, model, watch)
            assert len(seen) == stop + 1, "it went on"

    def test_a_model_that_fails(self, search: Callable[..., Search], guess: Guess) -> None:
        class Failing(BentWell):
            def one(self, positions: np.ndarray) -> Prediction:
                found = super().one(positions)
                return replace(found, energy=np.nan) if len(self.asked) > after else found

        for after in (0, 4):  # noqa: B007
            with pytest.raises(NotFiniteError):
                self.solve(search(fmax=self.fmax), guess, Failing())

    def test_atoms_that_may_all_move(self, search: Callable[..., Search], guess: Guess, model: BentWell) -> None:
        """In a periodic box, where rotations count: translation is no mode."""

        def freed(structure: Structure) -> Structure:
            return replace(structure, fixed=np.zeros(3, bool), cell=np.eye(3) * 20, pbc=np.ones(3, bool))

        free = replace(guess, structure=freed(guess.structure), path=tuple(freed(image) for image in guess.path))
        found, _ = self.solve(search(fmax=self.fmax), free, model)
        assert found.converged
        assert found.prediction.energy == pytest.approx(HEIGHT, abs=1e-4)
        assert found.mode is not None
        assert np.linalg.norm(found.mode.sum(axis=0)) < 0.1
