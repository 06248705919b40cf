"""The hub: one batch for what all walkers ask, whatever they ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.vibrations import Vibrations
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.ase import attach
from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import SYSTEMS, free_molecule, thin, triclinic


class Embedding(EMTModel):
    """EMT whose embeddings are the positions; ``nonsense`` are ids of structures without a finite force."""

    def __init__(self, nonsense: Sequence[str] = ()) -> None:
        super().__init__()
        self.nonsense = nonsense
        self.embeddings: list[bool] = []

    def predict(self, structures, *, forces=True, embeddings=False):
        self.embeddings.append(embeddings)
        out = super().predict(structures, forces=forces)
        for k, structure in enumerate(structures):
            if structure.id in self.nonsense:
                out[k] = replace(out[k], forces=np.full_like(out[k].forces, np.nan))
            if embeddings:
                mean = structure.positions.mean(axis=0)
                out[k] = replace(out[k], node_embedding=structure.positions.copy(), graph_embedding=mean)
        return out


def shaken(structure: Structure, seed: int) -> Structure:
    return structure.moved(structure.positions + np.random.default_rng(seed).normal(0, 0.05, structure.positions.shape))


def same(one: Prediction, other: Prediction) -> bool:
    arrays = ("forces", "node_embedding", "graph_embedding", "force_spread")
    pairs = [(getattr(one, name), getattr(other, name)) for name in arrays]
    return one.energy == other.energy and all(
        (a is None) == (b is None) and np.array_equal(a, b) for a, b in pairs if a is not None or b is not None
    )


# what a walker asks: None for one structure, else the length of its list; and whether it wants embeddings
ASKS = st.lists(st.tuples(st.none() | st.integers(0, 4), st.booleans()), max_size=5)


@settings(max_examples=15)
@given(walkers=st.lists(ASKS, min_size=1, max_size=4))
@pytest.mark.slow
def test_whatever_is_asked_each_walker_gets_what_the_model_says_alone(walkers: list[list[tuple[int | None, bool]]]):
    systems, model, alone = [triclinic(), free_molecule(), thin()], Embedding(), Embedding()
    received: list[list[tuple[list[Structure], bool, list[Prediction]]]] = [[] for _ in walkers]
    counted = {}

    def script(w: int) -> Callable[[Evaluator], None]:
        def walk(evaluate: Evaluator) -> None:
            for n, (length, embeddings) in enumerate(walkers[w]):
                structures = [shaken(systems[(w + n + k) % 3], 100 * w + 10 * n + k) for k in range(length or 0)]
                if length is None:
                    structures = [shaken(systems[(w + n) % 3], 100 * w + 10 * n)]
                    answers = [evaluate(structures[0], embeddings=embeddings)]
                else:
                    answers = evaluate(structures, embeddings=embeddings)
                received[w].append((structures, embeddings, answers))
            counted[w] = evaluate.calls

        return walk

    hub = Hub(model)
    hub.run([script(w) for w in range(len(walkers))])
    total = 0
    for w, asks in enumerate(walkers):
        assert len(received[w]) == len(asks)
        for structures, embeddings, answers in received[w]:
            assert len(answers) == len(structures)
            for structure, answer in zip(structures, answers, strict=True):
                assert same(answer, alone.predict([structure], embeddings=embeddings)[0])
        assert counted[w] == sum(len(structures) for structures, *_ in received[w])
        total += counted[w]
    assert hub.calls == total == sum(model.batches)
    # an empty list is no call; every other call of a walker is a part of one batch
    assert hub.batches == len(model.batches) == max(sum(length != 0 for length, _ in asks) for asks in walkers)


def test_the_model_makes_embeddings_only_if_somebody_wants_them():
    model, start = Embedding(), triclinic()

    def plain(evaluate: Evaluator) -> None:
        for _ in range(3):
            assert evaluate(start).node_embedding is None

    def curious(evaluate: Evaluator) -> None:
        evaluate(start)
        (answer,) = evaluate([start], embeddings=True)
        np.testing.assert_array_equal(answer.node_embedding, start.positions)

    Hub(model).run([plain, curious])
    assert model.embeddings == [False, True, False]
    assert model.batches == [2, 2, 1]


def test_a_list_with_one_member_that_is_not_finite_is_lost_to_its_walker_alone():
    start, bad = triclinic(), shaken(triclinic(), 1)
    model, events = Embedding([bad.id]), []

    def unlucky(evaluate: Evaluator) -> None:
        with pytest.raises(NotFiniteError):
            evaluate([start, bad, start])
        events.append(("unlucky", evaluate(start).energy))  # it may go on

    def lucky(evaluate: Evaluator) -> None:
        events.append(("lucky", evaluate([start, start])[1].energy))
        events.append(("lucky", evaluate(start).energy))

    Hub(model).run([unlucky, lucky])
    energy = EMTModel().predict([start])[0].energy
    assert events == [("lucky", energy), ("unlucky", energy), ("lucky", energy)]
    assert model.batches == [5, 2]


def test_an_exception_in_one_walker_ends_all_of_them_and_is_raised():
    start, ended = triclinic(), []

    def endless(evaluate: Evaluator) -> None:
        try:
            while True:
                evaluate([start, start])
        finally:
            ended.append("endless")

    def failing(evaluate: Evaluator) -> None:
        evaluate(start)
        raise ZeroDivisionError

    model = EMTModel()
    with pytest.raises(ZeroDivisionError):
        Hub(model).run([endless, failing, endless])
    assert ended == ["endless", "endless"]
    assert model.batches == [5]


@pytest.mark.parametrize("name", ["triclinic", "thin"])
def test_a_hessian_is_one_batch_and_that_of_ase(name: str, tmp_path):
    structure = SYSTEMS[name]()
    movable = infer_roles(structure).movable
    model, hessians = EMTModel(), []

    def walk(evaluate: Evaluator) -> None:
        hessians.append(numerical_hessian(structure, movable, evaluate))

    Hub(model).run([walk])
    assert model.batches == [6 * movable.sum()]
    atoms = structure.to_ase()
    atoms.calc = EMT()
    vibrations = Vibrations(atoms, indices=np.flatnonzero(movable), name=tmp_path / "vib", delta=0.01)
    vibrations.run()
    expected = vibrations.get_vibrations().get_hessian_2d()
    np.testing.assert_allclose(hessians[0], expected, atol=1e-6 * np.abs(expected).max())
    assert np.linalg.eigvalsh(expected)[-1] > 1


def test_a_known_prediction_is_not_asked_for_again():
    start, model, forces = triclinic(), EMTModel(), []

    def walk(evaluate: Evaluator) -> None:
        atoms = attach(start, ~start.fixed, evaluate, evaluate(start))
        forces.append(atoms.get_forces(apply_constraint=False))
        atoms.positions[-1, 2] += 0.1
        forces.append(atoms.get_forces(apply_constraint=False))
        atoms.get_potential_energy()

    Hub(model).run([walk])
    assert model.batches == [1, 1]
    np.testing.assert_array_equal(forces[0], EMTModel().predict([start])[0].forces)
    assert np.abs(forces[1] - forces[0]).max() > 0.01
