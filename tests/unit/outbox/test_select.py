"""Choosing within the budget: descriptors that see shapes only, farthest points against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule

from rlpath_core.errors import InputError
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.outbox.select import Pool, check_selection, choose, farthest_points, pair_histograms
from rlpath_core.structure import Structure
from rlpath_core.testing.distribution import write_distribution


def slab(shift: float = 0.0) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6)
    atoms.pbc = True
    add_adsorbate(atoms, molecule("CO"), 1.8 + shift, "fcc")
    return atoms


def row(atoms: Atoms, *others: Atoms) -> np.ndarray:
    return pair_histograms([Structure.from_ase(a) for a in (atoms, *others)])


def test_histograms_see_the_shape_only() -> None:
    atoms = slab()
    turned, wrapped = atoms.copy(), atoms.copy()
    turned.rotate(50, "z", rotate_cell=True)
    wrapped.translate([1.3, 0.4, 9.0])
    wrapped.wrap()
    mixed = atoms[np.random.default_rng(0).permutation(len(atoms))]
    rows = row(atoms, turned, wrapped, mixed)
    for other in rows[1:]:
        np.testing.assert_allclose(other, rows[0], atol=1e-8)


def test_histograms_are_smooth_and_tell_shapes_apart() -> None:
    rows = row(slab(), slab(1e-4), slab(0.3), slab(1.0))
    steps = np.linalg.norm(rows - rows[0], axis=1)
    assert steps[1] < 1e-3 * steps[2]
    assert steps[2] < steps[3]


def test_histograms_equal_counting_pairs() -> None:
    """The total weight is the cosine-damped number of neighbours, counted here by ASE."""
    from ase.neighborlist import neighbor_list

    atoms = slab()
    distance = neighbor_list("d", atoms, 6.0)
    expected = (0.5 * (1 + np.cos(np.pi * distance / 6.0)) * 0.5).sum()
    # A Gaussian of width 0.2 on a grid of 0.2 sums to sqrt(2 pi); pairs near the ends lose a part of theirs.
    assert row(atoms).sum() * np.sqrt(len(atoms)) / np.sqrt(2 * np.pi) == pytest.approx(expected, rel=0.01)


def test_farthest_points_equal_brute_force() -> None:
    rng = np.random.default_rng(1)
    rows, known = rng.normal(size=(40, 5)), rng.normal(size=(7, 5))
    chosen = farthest_points(rows, known, 12, first=3)
    expected = [3]
    while len(expected) < 12:
        taken = np.concatenate((known, rows[expected]))
        distance = [min(np.linalg.norm(taken - r, axis=1)) if k not in expected else -1 for k, r in enumerate(rows)]
        expected.append(int(np.argmax(distance)))
    assert chosen == expected
    assert farthest_points(rows, known, 100, first=0)[0] == 0
    assert sorted(farthest_points(rows, known, 100, first=0)) == list(range(40))


def candidates() -> tuple[list[Structure], list[float]]:
    """Twenty near one shape with high scores, three far shapes with low ones."""
    rng = np.random.default_rng(0)
    near = [slab(0.02 * rng.normal()) for _ in range(20)]
    far = [slab(shift) for shift in (0.8, 1.6, 2.4)]
    return [Structure.from_ase(a) for a in [*near, *far]], [*np.linspace(2, 3, 20), 1.0, 1.1, 1.2]


def test_diverse_finds_what_score_misses() -> None:
    structures, scores = candidates()
    diverse = choose(Pool(structures, scores, []), 4, OutboxConfig())
    assert diverse[0] == 19
    assert set(diverse[1:]) == {20, 21, 22}
    assert choose(Pool(structures, scores, []), 4, OutboxConfig(select="score")) == [19, 18, 17, 16]


def test_diverse_keeps_away_from_what_is_labelled() -> None:
    structures, scores = candidates()
    chosen = choose(Pool(structures[:22], scores[:22], [structures[22], structures[21]]), 2, OutboxConfig())
    assert chosen == [19, 20]


def test_random_is_reproducible_and_differs_by_round() -> None:
    structures, scores = candidates()
    config = OutboxConfig(select="random", seed=5)
    draws = [tuple(choose(Pool(structures, scores, [], k), 6, config)) for k in (None, 0, 1)]
    assert draws[0] == tuple(choose(Pool(structures, scores, []), 6, config))
    assert len(set(draws)) == 3
    assert all(len(set(draw)) == 6 for draw in draws)


def test_small_rounds() -> None:
    structures, scores = candidates()
    assert choose(Pool([], [], structures), 4, OutboxConfig()) == []
    assert choose(Pool(structures, scores, []), 0, OutboxConfig()) == []
    assert len(choose(Pool(structures[:3], scores[:3], []), 64, OutboxConfig())) == 3


SOURCE = """
def last(pool, budget, config):
    return list(range(len(pool.candidates)))[-budget:]

def greedy(pool, budget, config):
    return [0] * budget
"""


def test_a_selection_joins_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"rlpath.selections": {"last": "own_selections:last"}}
    monkeypatch.syspath_prepend(write_distribution(tmp_path, "own_selections", SOURCE, points))
    structures, scores = candidates()
    config = OutboxConfig(select="last")
    check_selection(config)
    assert choose(Pool(structures, scores, []), 2, config) == [len(structures) - 2, len(structures) - 1]
    with pytest.raises(InputError, match=r"returned \[0, 0\]: expected at most 2 different indices"):
        choose(Pool(structures, scores, []), 2, OutboxConfig(select="own_selections:greedy"))


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(InputError, match=r"mine.yaml: outbox.select: no selection is called 'divers'.* 'diverse'"):
        check_selection(OutboxConfig(select="divers"), "mine.yaml", "outbox.")
