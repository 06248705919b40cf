"""Roles of slabs of known make-up: ASE's builders know what the adsorbate is, however the structure is written down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import (
    bcc100,
    bcc110,
    bulk,
    fcc100,
    fcc110,
    fcc111,
    fcc211,
    graphene,
    hcp0001,
    molecule,
    mx2,
    surface,
)
from hypothesis import given
from hypothesis import strategies as st

from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.structure import Structure

NUMBERED: dict[str, Callable[[int], Atoms]] = {
    "Cu(111)": lambda n: fcc111("Cu", (2, 2, n)),
    "Pt(100)": lambda n: fcc100("Pt", (2, 3, n)),
    "Ag(110)": lambda n: fcc110("Ag", (3, 2, n)),
    "Fe(110)": lambda n: bcc110("Fe", (2, 2, n)),
    "W(100)": lambda n: bcc100("W", (2, 2, n)),
    "Mg(0001)": lambda n: hcp0001("Mg", (3, 2, n)),
}
"""Slabs of n layers whose tags ASE numbers from the top."""
OTHERS: dict[str, Callable[[int], Atoms]] = {
    "Cu(211)": lambda n: fcc211("Cu", (3, 2, n)),
    "Cu(321)": lambda n: surface("Cu", (3, 2, 1), n + 2),
    "MgO(001)": lambda n: surface(bulk("MgO", "rocksalt", a=4.21, cubic=True), (0, 0, 1), n) * (2, 2, 1),
    "NaCl(001)": lambda n: surface(bulk("NaCl", "rocksalt", a=5.64, cubic=True), (0, 0, 1), n) * (2, 1, 1),
    "graphene": lambda n: graphene("C2", size=(3, 3, 1), vacuum=1.0),
    "BN": lambda n: graphene("BN", a=2.5, size=(3, 3, 1), vacuum=1.0),
    "MoS2": lambda n: mx2("MoS2", "2H", 3.18, 3.19, size=(3, 3, 1), vacuum=1.0),
}
ADSORBED: dict[str, Atoms] = {
    "O": Atoms("O"),
    "H": Atoms("H"),
    "OH": Atoms("OH", [[0, 0, 0], [0.3, 0.2, 0.9]]),
    "CO": Atoms("CO", [[0, 0, 0], [0, 0, 1.15]]),
    "H2O": Atoms("OH2", [[0, 0, 0], [0.76, 0, 0.59], [-0.76, 0, 0.59]]),
    "CH3OH": molecule("CH3OH"),
}


def build(slab: Atoms, sides: list[tuple[str, float]], rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """The slab with a molecule on each of ``sides`` (name and direction), and the sides by atom: 0 for the slab."""
    atoms = slab.copy()
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    thickness = atoms.positions[:, 2].max()
    side = np.zeros(len(atoms))
    for name, sign in sides:
        guest = ADSORBED[name].copy()
        guest.positions -= [*guest.positions[0, :2], guest.positions[:, 2].min()]
        guest.positions[:, 2] += rng.uniform(1.3, 2.6)
        guest.positions[:, :2] += rng.uniform(0, 1, 2) @ atoms.cell.array[:2, :2]
        guest.positions[:, 2] = guest.positions[:, 2] + thickness if sign > 0 else -guest.positions[:, 2]
        guest.set_tags(0)
        atoms += guest
        side = np.append(side, np.full(len(guest), sign))
    atoms.cell[2] = [0, 0, thickness + 24.0]
    atoms.pbc = True
    return atoms, side


def written_down(atoms: Atoms, rng: np.random.Generator) -> tuple[Structure, np.ndarray, np.ndarray]:
    """The same crystal in other words, with the order of its atoms and the rotation.

    Turned or mirrored, shifted and wrapped, other lattice vectors of the same lattice, their order and signs, the
    order of the atoms; sometimes without a period along the vacuum.
    """
    cell = atoms.cell.array.copy()
    positions = atoms.positions + rng.uniform(-15, 15, 3)
    cell[0] += rng.integers(-1, 2) * cell[1]
    cell[2] += rng.integers(-1, 2, 2) @ cell[:2]
    cell *= rng.choice([-1, 1], 3)[:, None]
    pbc = np.array([True, True, rng.random() < 0.7])
    images = rng.integers(-2, 3, positions.shape) * pbc
    positions = positions + images @ cell
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes, order = rng.permutation(3), rng.permutation(len(atoms))
    structure = Structure(
        atoms.numbers[order], positions[order] @ turn, (cell @ turn)[axes], pbc[axes], atoms.get_tags()[order]
    )
    return structure, order, turn


def check(roles: Roles, atoms: Atoms, side: np.ndarray, order: np.ndarray, turn: np.ndarray) -> None:
    """Against the heights and sides in the frame that the structure was built in."""
    z = atoms.positions[:, 2]
    known = side != 0
    np.testing.assert_array_equal(roles.adsorbate, known[order], roles.describe())
    up = 1.0 if not known.any() or side.sum() >= 0 else -1.0
    middle = (z[~known].min() + z[~known].max()) / 2
    quarter = (z[~known].max() - z[~known].min()) / 4
    if known.any():
        assert roles.normal is not None
        out = np.array([0, 0, 1]) @ turn
        if side.sum():
            np.testing.assert_allclose(roles.normal, up * out, atol=1e-9)
        np.testing.assert_allclose(
            roles.normals[roles.adsorbate], side[order][roles.adsorbate][:, None] * out, atol=1e-9
        )
        upper = abs(z - middle) > quarter + 1e-6 if {-1.0, 1.0} <= set(side) else up * (z - middle) > 1e-6
        np.testing.assert_array_equal(roles.movable, (known | upper)[order])


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(list(NUMBERED)),
    layers=st.integers(1, 4),
    guest=st.sampled_from(list(ADSORBED)),
    tags=st.sampled_from(["numbered", "none", "catalyst"]),
)
def test_the_adsorbate_of_a_builder_whatever_the_tags(seed: int, name: str, layers: int, guest: str, tags: str):
    rng = np.random.default_rng(seed)
    slab = NUMBERED[name](layers)
    atoms, side = build(slab, [(guest, 1.0)], rng)
    if tags == "none":
        atoms.set_tags(0)
    elif tags == "catalyst":
        atoms.set_tags(np.where(side != 0, 2, np.where(atoms.get_tags() == 1, 1, 0)))
    structure, order, turn = written_down(atoms, rng)
    check(infer_roles(structure), atoms, side, order, turn)


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from([*NUMBERED, *OTHERS]),
    layers=st.integers(1, 3),
    guests=st.lists(st.tuples(st.sampled_from(list(ADSORBED)), st.sampled_from([-1.0, 1.0])), min_size=1, max_size=2),
)
def test_adsorbates_above_below_and_on_both_sides(seed: int, name: str, layers: int, guests: list[tuple[str, float]]):
    """Without tags, on metals, steps, oxides, salts and single layers."""
    if {("O", 1.0), ("O", -1.0)} <= set(guests) or len({*guests}) < len(guests):
        guests = guests[:1]  # on an oxide, the same layer of its own oxygen on both sides is how the slab ends
    rng = np.random.default_rng(seed)
    atoms, side = build((NUMBERED | OTHERS)[name](layers), guests, rng)
    atoms.set_tags(0)
    structure, order, turn = written_down(atoms, rng)
    check(infer_roles(structure), atoms, side, order, turn)
