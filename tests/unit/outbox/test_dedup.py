"""Near-duplicates: invariances, an independent RMSD by brute force, and a bound that never lies."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule, surface
from ase.cluster import Octahedron
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from ase.spacegroup import crystal

from rlpath_core.outbox import Memory, rmsd
from rlpath_core.outbox.canonicalize import Canonical, canonicalize
from rlpath_core.outbox.group import Group
from rlpath_core.structure import Structure


def mgo(fixed: bool = True) -> Atoms:
    bulk = crystal(["Mg", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[4.21] * 3 + [90] * 3)
    slab = surface(bulk, (0, 0, 1), 1, vacuum=6)
    slab.pbc = True
    add_adsorbate(slab, molecule("H2O"), 2.3, (0, 0), mol_index=0)
    if fixed:
        slab.set_constraint(FixAtoms(np.argsort(slab.positions[:, 2])[:4]))
    return slab


def copper(fixed: bool = True) -> Atoms:
    """A 60-degree cell."""
    slab = fcc111("Cu", (2, 2, 2), vacuum=6)
    slab.pbc = True
    add_adsorbate(slab, molecule("CO"), 2.0, "fcc")
    if fixed:
        slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
    return slab


def thin() -> Atoms:
    """A cell so thin that an atom is nearer to its own image than to others."""
    slab = fcc111("Cu", (1, 1, 3), vacuum=6)
    slab.pbc = True
    add_adsorbate(slab, "O", 1.3, "fcc")
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 3))
    return slab


def open_slab() -> Atoms:
    """Periodic in two directions only."""
    slab = mgo()
    slab.pbc = (True, True, False)
    return slab


SYSTEMS = {
    "orthogonal": mgo,
    "no fixed": lambda: mgo(False),
    "60 degrees": copper,
    "60 degrees, no fixed": lambda: copper(False),
    "thin": thin,
    "open": open_slab,
    "molecule": lambda: molecule("CH3CH2OH"),
    "cluster": lambda: Octahedron("Cu", 3, cutoff=1),
}


@pytest.fixture(params=SYSTEMS)
def atoms(request: pytest.FixtureRequest) -> Atoms:
    return SYSTEMS[request.param]()


def form(atoms: Atoms) -> Canonical:
    return canonicalize(Structure.from_ase(atoms))


def displaced(atoms: Atoms, sigma: float, seed: int) -> Atoms:
    out = atoms.copy()
    fixed = Structure.from_ase(atoms).fixed
    out.positions[~fixed] += np.random.default_rng(seed).normal(0, sigma, (int((~fixed).sum()), 3))
    return out


def shuffled(atoms: Atoms, seed: int) -> Atoms:
    """Equal elements exchanged."""
    out, rng = atoms.copy(), np.random.default_rng(seed)
    structure = Structure.from_ase(atoms)
    for z in np.unique(structure.numbers):
        for fixed in (True, False):
            same = np.flatnonzero((structure.numbers == z) & (structure.fixed == fixed))
            out.positions[same] = out.positions[rng.permutation(same)]
    return out


def test_the_same_is_at_zero(atoms: Atoms) -> None:
    assert rmsd(form(atoms), form(atoms)) == pytest.approx(0, abs=1e-7)


def test_shifts_wraps_and_turns_change_nothing(atoms: Atoms) -> None:
    first, second = displaced(atoms, 0.02, 0), displaced(atoms, 0.05, 1)
    expected = rmsd(form(first), form(second))
    moved = second.copy()
    moved.translate(moved.cell.array.T @ [0.3, 0.7, 0.0] if moved.pbc.any() else [3.0, -2.0, 1.0])
    moved.wrap()
    assert rmsd(form(first), form(moved)) == pytest.approx(expected, abs=1e-6)
    moved.rotate(37, "z", rotate_cell=True)
    assert rmsd(form(first), form(moved)) == pytest.approx(expected, abs=1e-6)
    if atoms.pbc.all():  # across the boundary along c, through the slab's middle
        moved = second.copy()
        moved.translate(-moved.positions[:, 2].mean() * np.array([0, 0, 1]))
        moved.wrap()
        assert rmsd(form(first), form(moved)) == pytest.approx(expected, abs=1e-6)


def test_equal_elements_may_change_places(atoms: Atoms) -> None:
    """Whatever the order of the atoms, the RMSD is no larger than in the order that was displaced."""
    for seed in range(3):
        second = displaced(atoms, 0.03, seed)
        straight = rmsd(form(atoms), form(second))
        assert rmsd(form(atoms), form(shuffled(second, seed))) == pytest.approx(straight, abs=1e-6)


def test_rmsd_is_symmetric(atoms: Atoms) -> None:
    first, second = form(displaced(atoms, 0.1, 1)), form(displaced(atoms, 0.1, 2))
    assert rmsd(first, second) == pytest.approx(rmsd(second, first), abs=1e-6)


def brute_force(first: Atoms, second: Atoms) -> float:
    """All permutations of equal elements among the movable atoms; ASE's minimum image; both in one frame."""
    structure = Structure.from_ase(first)
    movable = np.flatnonzero(~structure.fixed)
    best = 0.0
    for z in np.unique(first.numbers[movable]):
        block = movable[first.numbers[movable] == z]
        best += min(
            (find_mic(second.positions[list(order)] - first.positions[block], first.cell, first.pbc)[1] ** 2).sum()
            for order in permutations(block)
        )
    return float(np.sqrt(best / len(movable)))


@pytest.mark.parametrize("system", ["orthogonal", "60 degrees", "thin", "open"])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0])
def test_rmsd_equals_brute_force(system: str, sigma: float) -> None:
    atoms = SYSTEMS[system]()
    for seed in range(3):
        first, second = displaced(atoms, sigma, seed), displaced(atoms, sigma, 100 + seed)
        assert rmsd(form(first), form(shuffled(second, 0))) == pytest.approx(brute_force(first, second), abs=1e-6)


def test_a_free_molecule_is_turned_onto_the_other() -> None:
    atoms = molecule("CH3CH2OH")
    for seed in range(5):
        second = displaced(atoms, 0.03, seed)
        turned = second.copy()
        turned.rotate(70, np.random.default_rng(seed).normal(size=3))
        from ase.build import minimize_rotation_and_translation

        straight = second.copy()
        minimize_rotation_and_translation(atoms, straight)
        expected = np.sqrt(((straight.positions - atoms.positions) ** 2).sum(1).mean())
        assert rmsd(form(atoms), form(shuffled(turned, seed))) <= expected + 1e-6


def test_mirror_images_differ() -> None:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.3, seed=3)
    mirrored = atoms.copy()
    mirrored.positions[:, 0] *= -1
    assert rmsd(form(atoms), form(mirrored)) > 0.1


def test_the_bound_never_exceeds_the_rmsd(atoms: Atoms) -> None:
    """And it is worth having: for large differences it is far above the usual threshold."""
    many = [form(displaced(shuffled(atoms, k), [0.01, 0.1, 0.5, 2.0][k % 4], k)) for k in range(24)]
    group = Group(many[0])
    aligned, fits = group.all_aligned(many)
    assert fits.all()
    rows = group.descriptors(aligned)
    bounds = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    exact = np.array([[group.exact(a, b) for b in aligned] for a in aligned])
    assert (bounds <= exact + 1e-9).all()
    if group.reference.rigid:
        assert bounds[3::4, 3::4][np.triu_indices(6, 1)].mean() > 0.2


@pytest.mark.slow
def test_decisions_equal_comparing_everything_with_everything() -> None:
    """Greedy in the order given, threshold 0.18 Å, on displaced copies of three slabs."""
    base = [mgo(), copper(), copper(False)]
    rng = np.random.default_rng(0)
    many = [form(displaced(base[k % 3], rng.choice([0.02, 0.1, 0.3]), k // 6)) for k in range(300)]
    known, candidates = many[:60], many[60:]
    memory = Memory(0.18)
    memory.add(known)
    got = [match is None for match in memory.admit(candidates)]
    kept = list(known)
    expected = []
    for candidate in candidates:
        expected.append(not any(rmsd(other, candidate) <= 0.18 for other in kept))
        if expected[-1]:
            kept.append(candidate)
    assert got == expected
    assert 20 < sum(got) < 220


def test_a_match_names_the_structure_and_its_distance() -> None:
    first, second = form(mgo()), form(displaced(mgo(), 0.02, 1))
    memory = Memory(0.18)
    assert memory.admit([first]) == [None]
    (match,) = memory.admit([second])
    assert match is not None
    assert match.id == first.id
    assert match.rmsd == pytest.approx(rmsd(first, second))


def test_other_cells_and_compositions_are_no_duplicates() -> None:
    atoms = mgo()
    wider, other = atoms.copy(), atoms.copy()
    wider.set_cell(atoms.cell * 1.01)
    other.numbers[-1] = 9
    memory = Memory(10.0)
    assert memory.admit([form(atoms), form(wider), form(other), form(copper())]) == [None] * 4


def test_one_atom_within_the_threshold_but_another_place() -> None:
    """An adsorbate two ångström away is no duplicate, though most atoms agree."""
    second = mgo()
    second.positions[-3:] += [1.5, 1.5, 0]
    assert rmsd(form(mgo()), form(second)) > 0.5
