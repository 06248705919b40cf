"""Which atoms move and which are the adsorbate: inputs that were wrong once, by kind, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import (
    add_adsorbate,
    bulk,
    diamond100,
    fcc100,
    fcc110,
    fcc111,
    graphene,
    molecule,
    mx2,
    nanotube,
    surface,
)
from ase.cluster import Octahedron
from ase.constraints import FixAtoms
from ase.spacegroup import crystal

from rlpath_core.errors import InputError
from rlpath_core.geometry.fragments import periodicity
from rlpath_core.geometry.slab import heights, infer_roles
from rlpath_core.structure import Structure, read_structures

CASES = Path(__file__).resolve().parents[2] / "data" / "cases" / "structures"
CO = Atoms("CO", [[0, 0, 0], [0, 0, 1.15]])


def case(name: str) -> Structure:
    return read_structures(CASES / name)[0]


def on(slab: Atoms, guest: Atoms, height: float = 1.8, where: tuple[float, float] = (0.3, 0.4)) -> Atoms:
    """``guest`` that far above the highest atom (below the lowest, if negative), all without tags."""
    atoms, guest = slab.copy(), guest.copy()
    z = guest.positions[:, 2]
    sign = np.sign(height)
    guest.positions[:, 2] = sign * (z - z.min())
    edge = atoms.positions[:, 2].max() if sign > 0 else atoms.positions[:, 2].min()
    guest.positions += [*where, edge + height]
    atoms += guest
    atoms.set_tags(0)
    atoms.pbc = True
    return atoms


def cu(layers: int = 3, size: int = 2) -> Atoms:
    return fcc111("Cu", (size, size, layers), vacuum=8, periodic=True)


def rutile() -> Atoms:
    cell = [4.594, 4.594, 2.959, 90, 90, 90]
    unit = crystal(["Ti", "O"], [(0, 0, 0), (0.3053, 0.3053, 0)], spacegroup=136, cellpar=cell)
    return surface(unit, (1, 1, 0), 2, vacuum=8) * (2, 1, 1)


def passivated() -> Atoms:
    """Si(100) with two hydrogen atoms below each of its lowest atoms."""
    slab = diamond100("Si", (2, 2, 4), vacuum=8)
    lowest = slab.positions[slab.positions[:, 2] < slab.positions[:, 2].min() + 0.1]
    slab += Atoms("H8", np.concatenate([lowest + [0, 1.2, -0.9], lowest - [0, 1.2, 0.9]]))
    return slab


def rough() -> Atoms:
    """Every other atom of the top layer lacks."""
    slab = cu(4)
    del slab[[13, 15]]
    return slab


def half_a_step() -> Atoms:
    """A row of copper atoms along the cell on Cu(100)."""
    slab = fcc100("Cu", (3, 3, 3), vacuum=8)
    row = slab.positions[slab.positions[:, 2] > slab.positions[:, 2].max() - 0.1][:3] + [1.28, 1.28, 1.8]
    return slab + Atoms("Cu3", row)


def missing_row() -> Atoms:
    """Au(110)-(1x2)."""
    slab = fcc110("Au", (2, 2, 5), vacuum=8)
    del slab[np.flatnonzero(slab.positions[:, 2] > slab.positions[:, 2].max() - 0.1)[:2]]
    return slab


def full_of_hydroxyl() -> Atoms:
    """OH on every atom of Cu(111)."""
    slab = cu(3)
    for at in slab.positions[8:12]:
        slab += Atoms("OH", [at + [0, 0, 1.9], at + [0.3, 0.2, 2.8]])
    return slab


def magnesia(noise: float = 0.0, size: int = 2) -> Atoms:
    slab = surface(bulk("MgO", "rocksalt", a=4.21, cubic=True), (0, 0, 1), 2, vacuum=9) * (size, size, 1)
    slab.positions += np.random.default_rng(0).normal(0, noise, slab.positions.shape)
    return slab


def amorphous() -> Atoms:
    slab = fcc111("Cu", (4, 4, 5), vacuum=9)
    slab.positions += np.random.default_rng(0).normal(0, 0.6, slab.positions.shape)
    return slab


def vacancy() -> Atoms:
    slab = magnesia()
    oxygen = np.flatnonzero((slab.numbers == 8) & (slab.positions[:, 2] > slab.positions[:, 2].max() - 0.1))
    del slab[oxygen[0]]
    return slab


# name: (structure, the adsorbate's atoms)
GUESSED: dict[str, tuple[Callable[[], Atoms], list[int]]] = {
    "adatom of the slab's element": (lambda: on(cu(), Atoms("Cu"), 2.1), [12]),
    "oxygen on an oxide": (
        lambda: on(
            surface(bulk("MgO", "rocksalt", a=4.21, cubic=True), (0, 0, 1), 1, vacuum=8) * (2, 2, 1), Atoms("O")
        ),
        [32],
    ),
    "a full layer of oxygen": (lambda: on(cu(4, 1), Atoms("O"), 1.1), [4]),
    "a full layer of CO": (lambda: on(cu(4, 1), CO), [4, 5]),
    "more atoms than a layer": (lambda: on(cu(3), molecule("C6H6"), 2.2), list(range(12, 24))),
    "hydrogen in a hollow": (lambda: on(fcc100("Pd", (2, 2, 3), vacuum=8), Atoms("H"), 0.2), [12]),
    "physisorbed": (lambda: on(graphene("C2", size=(3, 3, 1), vacuum=8), molecule("H2O"), 3.2), [18, 19, 20]),
    "epoxide": (lambda: on(graphene("C2", size=(3, 3, 1), vacuum=8), Atoms("O"), 1.25, (0.7, 0)), [18]),
    "on MoS2": (lambda: on(mx2("MoS2", "2H", 3.18, 3.19, size=(3, 3, 1), vacuum=8), CO, 3.0), [27, 28]),
    "MoS2 alone": (lambda: mx2("MoS2", "2H", 3.18, 3.19, size=(3, 3, 1), vacuum=8), []),
    "bridging oxygen on both sides": (rutile, []),
    "beside bridging oxygen": (lambda: on(rutile(), molecule("H2O"), 1.5), [24, 25, 26]),
    "passivation": (passivated, []),
    "on a passivated slab": (lambda: on(passivated(), Atoms("H"), 1.5, (0, 0)), [24]),
    "defects": (lambda: on(rough(), CO), [14, 15]),
    "a step edge": (lambda: on(half_a_step(), CO), [30, 31]),
    "a missing row": (missing_row, []),
    "on a missing row": (lambda: on(missing_row(), CO), [18, 19]),
    "a full layer of hydroxyl": (full_of_hydroxyl, list(range(12, 20))),
    "a cluster on an oxide": (lambda: on(magnesia(size=3), Octahedron("Pt", 2, 0), 2.1, (3, 3)), list(range(144, 150))),
    "an oxygen vacancy": (vacancy, []),
    "a rumpled oxide": (lambda: magnesia(0.15), []),
    "on a rumpled oxide": (lambda: on(magnesia(0.15), molecule("H2O"), 2.1), [64, 65, 66]),
    "on an amorphous metal": (lambda: on(amorphous(), CO, 1.2), [80, 81]),
    "below": (lambda: on(cu(), CO, -1.8), [12, 13]),
    "on both sides": (lambda: on(on(cu(), CO), CO, -1.8), [12, 13, 14, 15]),
    "far up": (lambda: on(fcc111("Cu", (2, 2, 3), vacuum=15), molecule("H2O"), 9.0), [12, 13, 14]),
    "ice": (lambda: Atoms("Ar9", fcc111("Ar", (3, 3, 1), a=5.3).positions, cell=[11.2, 11.2, 30]), []),
}


@pytest.mark.parametrize("name", list(GUESSED))
def test_the_adsorbate_is_guessed(name: str) -> None:
    make, adsorbate = GUESSED[name]
    atoms = make()
    atoms.set_tags(0)
    atoms.pbc = True
    roles = infer_roles(Structure.from_ase(atoms))
    assert np.flatnonzero(roles.adsorbate).tolist() == adsorbate, roles.describe()
    assert roles.normal is not None
    assert roles.conflict is None
    assert "guessed from bonds and layers" in roles.describe()


NO_SURFACE: dict[str, tuple[Callable[[], Atoms], str]] = {
    "molecule": (lambda: molecule("CH3CH2OH"), "a molecule or a cluster"),
    "cluster in a box": (lambda: Atoms(Octahedron("Cu", 3, 1), pbc=True, cell=[20, 20, 20]), "a molecule or a cluster"),
    "cluster with c open": (
        lambda: Atoms(Octahedron("Cu", 3, 1), pbc=(1, 1, 0), cell=[20, 20, 20]),
        "a molecule or a cluster",
    ),
    "tube": (lambda: nanotube(6, 0, vacuum=8), "vacuum along a and b, as around a wire"),
    "tube, only c periodic": (
        lambda: Atoms(nanotube(6, 0, vacuum=8), pbc=(False, False, True)),
        "vacuum along a and b, as around a wire",
    ),
    "molecule in a narrow box": (
        lambda: Atoms("OH2", ADDED, cell=[4, 4, 20], pbc=True),
        "vacuum along c, but it is a single molecule or chain",
    ),
    "porous crystal": (lambda: sponge(), "no vacuum, as in a crystal"),
    "layered crystal": (
        lambda: Atoms(graphene("C2", size=(2, 2, 1), vacuum=1.7) * (1, 1, 2), pbc=True),
        "the widest gap is 3.4 Å along c",
    ),
    "crystal": (lambda: bulk("Cu", cubic=True) * 2, "no vacuum, as in a crystal"),
    "too little vacuum": (
        lambda: fcc111("Cu", (2, 2, 3), vacuum=2.2, periodic=True),
        "the widest gap is 4.4 Å along c",
    ),
}


def sponge() -> Atoms:
    """Copper with a pore of 12 Å."""
    atoms = bulk("Cu", cubic=True) * 4
    del atoms[np.flatnonzero(np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1) < 6)]
    return atoms


ADDED = [[0, 0, 0], [0.76, 0, 0.59], [-0.76, 0, 0.59]]


@pytest.mark.parametrize("name", list(NO_SURFACE))
def test_what_has_no_surface_moves_as_a_whole(name: str) -> None:
    make, said = NO_SURFACE[name]
    roles = infer_roles(Structure.from_ase(make()))
    assert roles.normal is None
    assert roles.axis is None
    assert roles.movable.all()
    assert said in roles.describe()


@pytest.mark.parametrize(
    ("make", "rank"),
    [
        (lambda: molecule("C6H6"), 0),
        (lambda: Atoms(molecule("C6H6"), cell=[15, 15, 15], pbc=True), 0),
        (lambda: nanotube(6, 0, vacuum=8), 1),
        (lambda: Atoms("C2H2", [[0, 0, 0], [1.2, 0.7, 0], [0, -1.1, 0], [1.2, 1.8, 0]], cell=[2.4, 9, 9], pbc=True), 1),
        (lambda: graphene("C2", size=(1, 1, 1), vacuum=8), 2),
        (lambda: Atoms("Cu", cell=[2.5, 2.5, 20], pbc=True), 2),
        (lambda: fcc111("Cu", (1, 1, 3), vacuum=8, periodic=True), 2),
        (lambda: bulk("Cu"), 3),
        (lambda: bulk("MgO", "rocksalt", a=4.21), 3),
    ],
)
def test_in_how_many_directions_bonds_go_on(make: Callable[[], Atoms], rank: int) -> None:
    assert periodicity(Structure.from_ase(make())).tolist() == [rank] * len(make())


def test_the_shared_cases() -> None:
    two_layers = infer_roles(case("two_layer_builder_tags.traj"))
    assert np.flatnonzero(two_layers.adsorbate).tolist() == [8, 9]
    assert np.flatnonzero(~two_layers.movable).tolist() == [0, 1, 2, 3], "the lower layer"
    assert "layers numbered from the top" in two_layers.describe()
    ethanol = infer_roles(case("ethanol_in_periodic_box.xyz"))
    assert ethanol.normal is None
    assert ethanol.movable.all()
    below = infer_roles(case("water_below_slab.xyz"))
    assert np.flatnonzero(below.adsorbate).tolist() == [16, 17, 18]
    assert below.normal == pytest.approx([0, 0, -1])
    assert np.flatnonzero(below.movable).tolist() == list(range(8, 19)), "the layer that the water is on"
    assert below.describe() == (
        "11 of 19 atoms move (nothing is fixed: the lower half of the slab stays); the adsorbate is H2O (atoms 16-18), "
        "guessed from bonds and layers; the normal points along -c (0 0 -1)"
    )


@pytest.mark.parametrize("name", ["slab_TTF_c6.xyz", "slab_TTF_c12.xyz", "slab_TTF_no_c.xyz"])
@pytest.mark.parametrize("sign", [1, -1])
def test_c_of_an_open_direction_does_not_matter(name: str, sign: int) -> None:
    given = case(name)
    structure = given.moved(given.positions * [1, 1, sign])
    for wanted in (None, f"{'-' if sign < 0 else ''}c"):
        roles = infer_roles(structure, normal=wanted)
        assert np.flatnonzero(roles.adsorbate).tolist() == [16, 17, 18]
        assert roles.normal == pytest.approx([0, 0, sign])
        assert f"along {'+' if sign > 0 else '-'}c (0 0 {sign})" in roles.describe()


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_tags_of_a_builder_and_of_the_catalyst_sets(layers: int) -> None:
    slab = cu(layers)
    clean = infer_roles(Structure.from_ase(slab))
    assert not clean.adsorbate.any()
    add_adsorbate(slab, CO, 1.9, "ontop")
    built = Structure.from_ase(slab)
    guest = np.arange(len(slab)) >= 4 * layers
    np.testing.assert_array_equal(infer_roles(built).adsorbate, guest)
    slab.set_tags(np.where(guest, 2, slab.get_tags() == 1))
    catalyst = infer_roles(Structure.from_ase(slab))
    np.testing.assert_array_equal(catalyst.adsorbate, guest)
    assert "0 slab, 1 surface, 2 adsorbate" in catalyst.describe()


def test_a_fixed_layer_tells_which_tags_it_has() -> None:
    """One atom a layer and all of one element: only what is fixed tells ASE's tags 2 1 0 from 0 1 2."""
    slab = cu(2, 1)
    add_adsorbate(slab, "Cu", 2.1, "fcc")
    assert slab.get_tags().tolist() == [2, 1, 0]
    slab.set_constraint(FixAtoms([0]))
    assert np.flatnonzero(infer_roles(Structure.from_ase(slab)).adsorbate).tolist() == [2]
    slab.set_tags([0, 1, 2])
    assert np.flatnonzero(infer_roles(Structure.from_ase(slab)).adsorbate).tolist() == [2]


def test_fixed_atoms_are_no_adsorbate_and_tell_where_a_clean_slab_ends() -> None:
    slab = cu(4)
    slab.set_tags(0)
    slab.set_constraint(FixAtoms(range(8, 16)))
    roles = infer_roles(Structure.from_ase(slab))
    assert roles.normal == pytest.approx([0, 0, -1]), "away from what is fixed"
    slab = on(cu(4), CO, -1.8)
    slab.set_constraint(FixAtoms([16, 17]))
    assert not infer_roles(Structure.from_ase(slab)).adsorbate.any()


def test_tags_that_cannot_be() -> None:
    slab = cu(3)
    slab.set_tags(2)
    assert "none is slab" in str(infer_roles(Structure.from_ase(slab)).conflict)
    held = on(cu(3), CO)
    held.set_tags([0] * 12 + [2, 2])
    held.set_constraint(FixAtoms([12, 13]))
    assert "all fixed" in str(infer_roles(Structure.from_ase(held)).conflict)
    odd = on(cu(3), CO)
    odd.set_tags([7, 3, 5] + [1] * 11)
    roles = infer_roles(Structure.from_ase(odd))
    assert np.flatnonzero(roles.adsorbate).tolist() == [12, 13]
    assert "the tags follow no known convention" in roles.describe()


# -- as the user says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "atoms"),
    [
        ("H2O", [16, 17, 18]),
        ("OH2", [16, 17, 18]),
        ([16, 17, 18], [16, 17, 18]),
        ([18, 16], [16, 18]),
        ([3], [3]),
        ([], []),
    ],
)
def test_the_adsorbate_by_name(wanted: list[int] | str, atoms: list[int]) -> None:
    roles = infer_roles(case("water_below_slab.xyz"), wanted)
    assert np.flatnonzero(roles.adsorbate).tolist() == atoms
    assert roles.movable[atoms].all()


def test_a_formula_means_every_such_molecule_or_all_of_it() -> None:
    two = on(on(cu(3, 3), CO), CO, 1.8, (3.5, 3.0))
    for formula in ("CO", "OC", "C2O2"):
        assert np.flatnonzero(infer_roles(Structure.from_ase(two), formula).adsorbate).tolist() == [27, 28, 29, 30]
    mixed = on(on(cu(3, 3), CO), molecule("H2O"), 2.0, (3.5, 3.0))
    assert np.flatnonzero(infer_roles(Structure.from_ase(mixed), "H2O").adsorbate).tolist() == [29, 30, 31]
    alone = Structure.from_ase(Atoms(molecule("CH3OH"), cell=[15, 15, 15], pbc=True))
    assert infer_roles(alone, "CH4O").adsorbate.all()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([19], "19 is no atom: the structure has 19, numbered 0 to 18"),
        ([-1], "-1 is no atom"),
        ([16, 16], "atom 16 is given twice"),
        ("CO", "no atoms that move are bonded into CO"),
        ("O", "9 groups of atoms are O"),
        ("water", "'water' is no formula"),
        ("", "'' is no formula"),
        (list(range(19)), "all atoms are the adsorbate"),
    ],
)
def test_an_adsorbate_that_cannot_be_is_refused(wanted: list[int] | str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        infer_roles(case("water_below_slab.xyz"), wanted)
    assert refused.value.key == "adsorbate"


def test_a_fixed_adsorbate_is_refused() -> None:
    slab = on(cu(3), CO)
    slab.set_constraint(FixAtoms([0, 13]))
    with pytest.raises(InputError, match="atom 13 is fixed"):
        infer_roles(Structure.from_ase(slab), [12, 13])


@pytest.mark.parametrize("normal", ["-z", "-c", [0, 0, -2.0], [0.1, 0, -1]])
def test_a_normal_is_taken(normal: str | list[float]) -> None:
    roles = infer_roles(case("water_below_slab.xyz"), normal=normal)
    assert roles.normal == pytest.approx([0, 0, -1])


@pytest.mark.parametrize(
    ("normal", "said"),
    [
        ("z", r"H2O \(atoms 16-18\) is on the other side of the slab"),
        ("x", "no vacuum along a"),
        ([1, 1, 0], "along none of the cell's directions"),
        ("up", "none of x, y, z"),
        ([0, 0, 0], "three numbers"),
    ],
)
def test_a_normal_that_cannot_be_is_refused(normal: str | list[float], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        infer_roles(case("water_below_slab.xyz"), normal=normal)
    assert refused.value.key == "normal"


def test_a_normal_makes_a_clean_slab_end_below_and_a_thin_vacuum_one() -> None:
    slab = Structure.from_ase(cu(4))
    roles = infer_roles(slab, normal="-z")
    assert np.flatnonzero(roles.movable).tolist() == list(range(8))
    thin = Structure.from_ase(fcc111("Cu", (2, 2, 3), vacuum=2.2, periodic=True))
    assert infer_roles(thin).normal is None
    roles = infer_roles(thin, normal="z")
    assert roles.normal == pytest.approx([0, 0, 1])
    assert "4.4 Å" in roles.describe()
    with pytest.raises(InputError, match="no vacuum along c"):
        infer_roles(Structure.from_ase(bulk("Cu", cubic=True)), normal="z")
    with pytest.raises(InputError, match="fewer than two directions"):
        infer_roles(Structure.from_ase(molecule("CH4")), normal="z")


def test_little_vacuum_is_said() -> None:
    for vacuum, said in ((3.2, True), (4.9, True), (5.1, False)):  # on either side
        roles = infer_roles(Structure.from_ase(fcc111("Cu", (2, 2, 3), vacuum=vacuum, periodic=True)))
        assert (f"only {2 * vacuum:.1f} Å" in roles.describe()) == said


def test_far_up_the_user_may_choose_the_side() -> None:
    """Water 13 Å above the slab is 11 Å below the next image's underside."""
    slab = Structure.from_ase(on(fcc111("Cu", (2, 2, 3), vacuum=12), molecule("H2O"), 13.0))
    assert infer_roles(slab).normal == pytest.approx([0, 0, -1])
    roles = infer_roles(slab, normal="z")
    assert roles.normal == pytest.approx([0, 0, 1])
    assert (roles.sides == 1).all()
    assert "nearer to the other side" in roles.describe()


@pytest.mark.parametrize("seed", range(5))
def test_heights_against_all_periodic_images(seed: int) -> None:
    """Each atom's image nearest to the slab's middle, among many images of a slab that the cell's boundary cuts."""
    rng = np.random.default_rng(seed)
    atoms = on(on(cu(3), CO), molecule("H2O"), -2.0, (2.0, 2.0))
    z = atoms.positions[:, 2] - atoms.positions[:12, 2].min()
    atoms.cell[2] += atoms.cell[0] - 2 * atoms.cell[1]
    atoms.positions += rng.uniform(-9, 9, 3)
    atoms.wrap()
    structure, slab = Structure.from_ase(atoms), np.arange(len(atoms)) < 12
    up = np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(heights(structure, 2, up, slab), z, atol=1e-8)
    np.testing.assert_allclose(heights(structure, 2, -up, slab), z[:12].max() - z, atol=1e-8)
    period = atoms.cell[2, 2]
    images = structure.positions[:, 2, None] + np.arange(-6, 7) * period
    bottom = images[0, 6] - z[0]
    near = images - (bottom + z[:12].max() / 2)
    nearest = np.take_along_axis(near, abs(near).argmin(axis=1)[:, None], 1)[:, 0] + z[:12].max() / 2
    np.testing.assert_allclose(heights(structure, 2, up, slab), nearest, atol=1e-8)
