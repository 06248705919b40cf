"""What every backend must do. Subclass ``BackendConformance`` in a test and override the fixtures.

class TestMyBackend(BackendConformance):
    @pytest.fixture
    def model(self): return load_model("...", dtype="float64")
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rlpath_core.backends import Model, Prediction
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

ENERGY_TOLERANCE = 1e-8
FORCE_TOLERANCE = 1e-7


def _rotation(generator: np.random.Generator) -> NDArray[np.float64]:
    matrix, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def forces_of(prediction: Prediction) -> NDArray[np.float64]:
    assert prediction.forces is not None, "forces were asked for"
    return prediction.forces


def nodes_of(prediction: Prediction) -> NDArray[np.float64]:
    assert prediction.node_embedding is not None, "embeddings were asked for"
    return prediction.node_embedding


class BackendConformance:
    """Tolerances are for float64; a backend without it overrides ``energy_tolerance`` and ``force_tolerance``.

    ``rotation_factor`` times them is for rotations: a network that is equivariant only up to the points of a grid says
    how far. What follows from the model's nature follows from what it declares (``Model.conservative``).
    """

    energy_tolerance = ENERGY_TOLERANCE
    force_tolerance = FORCE_TOLERANCE
    rotation_factor = 100.0

    @pytest.fixture
    def model(self) -> Model:
        raise NotImplementedError("override this fixture with a loaded model, in float64 where the backend has it")

    @pytest.fixture
    def elements(self, model: Model) -> list[int]:
        """Atomic numbers to build structures of."""
        return sorted(model.elements)

    @pytest.fixture
    def element(self, elements: list[int]) -> int:
        return elements[0]

    @pytest.fixture
    def unknown_element(self, model: Model) -> int:
        return next(z for z in range(1, 119) if z not in model.elements)

    @pytest.fixture
    def structures(self, elements: list[int]) -> list[Structure]:
        """A triclinic cell, a slab open along z, a molecule without a cell."""
        generator = np.random.default_rng(7)
        known = np.array(elements)

        def grid(n: int, step: float) -> NDArray[np.float64]:
            points = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3) * step
            return points + generator.normal(0, 0.08, points.shape)

        triclinic = np.array([[4.4, 0, 0], [1.1, 4.3, 0], [0.4, -0.7, 4.6]])
        slab = np.diag([4.4, 4.4, 14.0])
        bulk, layer, cluster = grid(2, 2.1), grid(2, 2.1) + [0, 0, 5], grid(2, 1.9)[:5]
        return [
            Structure(generator.choice(known, 8), bulk, triclinic, np.ones(3, bool)),
            Structure(generator.choice(known, 8), layer, slab, np.array([True, True, False])),
            Structure(generator.choice(known, 5), cluster),
        ]

    @pytest.fixture
    def same(self) -> Callable[[Model, Structure, Structure], None]:
        """Checks that two structures have the same energy and forces."""

        def check(model: Model, first: Structure, second: Structure) -> None:
            a, b = model.predict([first, second])
            assert abs(a.energy - b.energy) < self.energy_tolerance * max(1.0, abs(a.energy))
            np.testing.assert_allclose(forces_of(a), forces_of(b), atol=self.force_tolerance)

        return check

    def test_shapes_and_types(self, model: Model, structures: list[Structure]) -> None:
        for structure, found in zip(
            structures, model.predict(structures, embeddings=model.has_embeddings), strict=True
        ):
            assert isinstance(found.energy, float)
            assert forces_of(found).shape == (len(structure), 3)
            assert forces_of(found).dtype == np.float64
            if model.has_embeddings:
                assert found.graph_embedding is not None
                assert nodes_of(found).shape == (len(structure), *found.graph_embedding.shape)
            assert np.abs(forces_of(found)).max() > 1e-3, (
                "all forces are zero: the rest of the suite would show nothing"
            )

    def test_only_what_is_asked_for(self, model: Model, structures: list[Structure]) -> None:
        full, bare = model.predict(structures[:1])[0], model.predict(structures[:1], forces=False)[0]
        assert bare.forces is None
        assert bare.node_embedding is None
        assert full.graph_embedding is None
        assert bare.energy == pytest.approx(full.energy, rel=self.energy_tolerance)

    def test_embeddings_that_a_model_does_not_have(self, model: Model, structures: list[Structure]) -> None:
        if not model.has_embeddings:
            with pytest.raises(InputError, match="embeddings"):
                model.predict(structures, embeddings=True)

    def test_empty_list(self, model: Model) -> None:
        assert model.predict([]) == []

    def test_input_is_not_changed(self, model: Model, structures: list[Structure]) -> None:
        before = [(s.positions.copy(), s.cell.copy(), s.numbers.copy()) for s in structures]
        model.predict(structures, embeddings=model.has_embeddings)
        for structure, (positions, cell, numbers) in zip(structures, before, strict=True):
            np.testing.assert_array_equal(structure.positions, positions)
            np.testing.assert_array_equal(structure.cell, cell)
            np.testing.assert_array_equal(structure.numbers, numbers)

    def test_batch_equals_single(self, model: Model, structures: list[Structure]) -> None:
        embeddings = model.has_embeddings
        for structure, together in zip(structures, model.predict(structures, embeddings=embeddings), strict=True):
            alone = model.predict([structure], embeddings=embeddings)[0]
            assert alone.energy == pytest.approx(together.energy, rel=self.energy_tolerance)
            np.testing.assert_allclose(forces_of(alone), forces_of(together), atol=self.force_tolerance)
            if embeddings:
                np.testing.assert_allclose(nodes_of(alone), nodes_of(together), atol=self.force_tolerance)

    def test_shift_across_the_boundary(
        self, model: Model, structures: list[Structure], same: Callable[[Model, Structure, Structure], None]
    ) -> None:
        for structure in structures:
            images = np.random.default_rng(3).integers(-2, 3, (len(structure), 3)) * structure.pbc
            same(model, structure, structure.moved(structure.positions + images @ structure.cell + [0.3, -11.0, 0.7]))

    def test_permutation(self, model: Model, structures: list[Structure]) -> None:
        for structure in structures:
            order = np.random.default_rng(5).permutation(len(structure))
            shuffled = Structure(structure.numbers[order], structure.positions[order], structure.cell, structure.pbc)
            a, b = model.predict([structure, shuffled])
            assert a.energy == pytest.approx(b.energy, rel=self.energy_tolerance)
            np.testing.assert_allclose(forces_of(a)[order], forces_of(b), atol=self.force_tolerance)

    def test_rotation(self, model: Model, structures: list[Structure]) -> None:
        turn = _rotation(np.random.default_rng(11))
        for structure in structures:
            turned = Structure(structure.numbers, structure.positions @ turn, structure.cell @ turn, structure.pbc)
            a, b = model.predict([structure, turned], embeddings=model.has_embeddings)
            assert a.energy == pytest.approx(b.energy, rel=self.rotation_factor * self.energy_tolerance)
            np.testing.assert_allclose(
                forces_of(a) @ turn, forces_of(b), atol=self.rotation_factor * self.force_tolerance
            )
            if model.has_embeddings:
                tolerance = self.rotation_factor * self.force_tolerance
                np.testing.assert_allclose(nodes_of(a), nodes_of(b), atol=tolerance)

    def test_forces_are_minus_the_gradient(self, model: Model, structures: list[Structure]) -> None:
        """And where the model says that they are not, they are not: it could be told to give them else."""
        step, given, gradient = 1e-4, [], []
        for structure in structures:
            forces = forces_of(model.predict([structure])[0])
            for atom, axis in ((0, 0), (1, 2), (len(structure) - 1, 1)):
                move = np.zeros_like(structure.positions)
                move[atom, axis] = step
                up, down = model.predict(
                    [structure.moved(structure.positions + sign * move) for sign in (1, -1)], forces=False
                )
                gradient.append((up.energy - down.energy) / (2 * step))
                given.append(forces[atom, axis])
        difference = np.abs(np.array(given) + gradient)
        if model.conservative:
            np.testing.assert_allclose(given, -np.array(gradient), atol=1e-5)
        else:
            assert difference.max() > 1e-3, "the model says that its forces are not the gradient, and they are"

    def test_one_atom_in_a_small_cell(self, model: Model, element: int) -> None:
        """It sees its own images: twice the cell has twice the energy, and forces that sum to zero are zero."""
        cell = np.array([[2.6, 0, 0], [0.5, 2.5, 0], [0, 0.3, 2.7]])
        one = Structure(np.array([element]), np.zeros((1, 3)), cell, np.ones(3, bool))
        doubled = np.diag([2, 1, 1]) @ cell
        two = Structure(np.array([element] * 2), np.array([np.zeros(3), cell[0]]), doubled, np.ones(3, bool))
        a, b = model.predict([one, two])
        if model.conservative:
            np.testing.assert_allclose(forces_of(a), 0, atol=self.force_tolerance)
        np.testing.assert_allclose(forces_of(b), np.repeat(forces_of(a), 2, axis=0), atol=self.force_tolerance)
        assert 2 * a.energy == pytest.approx(b.energy, rel=self.energy_tolerance)

    def test_a_lone_atom_and_atoms_far_apart(self, model: Model, element: int) -> None:
        alone = Structure(np.array([element]), np.array([[40.0, -3.0, 8.0]]))
        apart = Structure(np.array([element] * 2), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1e4]]))
        a, b = model.predict([alone, apart])
        assert 2 * a.energy == pytest.approx(b.energy, rel=self.energy_tolerance)
        np.testing.assert_array_equal(np.concatenate((forces_of(a), forces_of(b))), 0)

    def test_unknown_element(self, model: Model, unknown_element: int) -> None:
        from ase.data import chemical_symbols

        with pytest.raises(InputError, match=chemical_symbols[unknown_element]):
            model.predict([Structure(np.array([unknown_element]), np.zeros((1, 3)))])
