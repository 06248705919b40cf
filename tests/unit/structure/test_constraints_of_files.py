"""Constraints in users' files: whole atoms become ``fixed``, everything else is refused where atoms move."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    FixSymmetry,
    Hookean,
    MirrorForce,
)
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.data import read_labelled
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure, read_structures
from rlpath_core.structure.constraints import fixed_atoms

CASES = Path(__file__).parents[2] / "data" / "cases" / "structures"


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6)
    atoms.info.clear()  # sites that extended XYZ cannot hold
    return atoms


PARTLY = {
    "start_partly_fixed.xyz": (16, "atom 18 is free along z only"),
    "all_slab_fixed_plus_partial.extxyz": (16, "atom 16 is free along z only"),
    "water_O_z_only.vasp": (16, "atom 17 is free along z only"),
    "ifpos.pwi": (2, "atom 2 is free along z only"),
    "fixed_plane.traj": (8, "atom 12 is held along z only"),
}


@pytest.mark.parametrize("name", list(PARTLY))
def test_partly_fixed_atoms_are_refused_where_atoms_move(name: str, caplog: pytest.LogCaptureFixture) -> None:
    fixed, says = PARTLY[name]
    with pytest.raises(InputError, match=says) as refused:
        read_structures(CASES / name)
    assert str(refused.value).startswith(f"{CASES / name}: ")
    assert "fix each of them in all directions" in str(refused.value)
    caplog.set_level(logging.INFO, "rlpath")
    (read,) = read_structures(CASES / name, will_move=False)
    assert read.fixed.sum() == fixed
    assert [line for line in caplog.messages if "do not apply" in line] == [
        f"{CASES / name}: constraints of one structure do not apply, since nothing moves ({says})"
    ]


KINDS = {
    "bonds": (FixBondLengths([[0, 1], [2, 3]]), "FixBondLengths acts on atoms 0, 1, 2, 3"),
    "com": (FixCom(), "FixCom acts on atoms 0, 1, 2, 3, 4, 5 and 6 more"),
    "spring": (Hookean(0, 1, rt=2.0, k=5.0), "Hookean acts on atoms 0, 1"),
    "tether": (Hookean(3, (0.0, 0.0, 1.0), k=5.0), "Hookean acts on atom 3"),
    "internals": (FixInternals(bonds=[[1.0, [0, 1]]]), "FixInternals acts on atoms 0, 1"),
    "symmetry": (FixSymmetry(slab()), "FixSymmetry acts on the structure"),
    "mirror": (MirrorForce(0, 1), "MirrorForce acts on atoms 0, 1"),
    "pull": (ExternalForce(0, 1, 0.2), "ExternalForce acts on atoms 0, 1"),
    "plane": (FixedPlane([0, 4], [1, 1, 0]), r"atoms 0, 4 are held along \(0.707, 0.707, 0\) only"),
    "line": (FixedLine([5], [0, 1, 0]), "atom 5 is free along y only"),
    "scaled": (FixScaled([1], [True, False, True]), "atom 1 is free along b only"),
    "cartesian": (FixCartesian([7], [True, False, False]), "atom 7 is held along x only"),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_every_other_constraint_of_ase_is_refused_by_name(name: str) -> None:
    atoms = slab()
    constraint, says = KINDS[name]
    atoms.set_constraint([FixAtoms([8, 9]), constraint])
    with pytest.raises(InputError, match=says):
        Structure.from_ase(atoms)
    assert np.flatnonzero(Structure.from_ase(atoms, will_move=False).fixed).tolist() == [8, 9]


WHOLE = {
    "cartesian": ([FixCartesian([3, 5])], [3, 5]),
    "scaled": ([FixScaled([2])], [2]),
    "three planes": ([FixedPlane(0, [1, 0, 0]), FixedPlane(0, [1, 1, 0]), FixedPlane(0, [0, 1, 1])], [0]),
    "line and plane": ([FixedLine(1, [0, 0, 1]), FixedPlane(1, [0, 0, 1])], [1]),
    "bond of two fixed atoms": ([FixAtoms([0, 1]), FixBondLengths([[0, 1]])], [0, 1]),
    "nothing": ([FixCartesian([0], [False, False, False])], []),
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_what_holds_an_atom_in_all_directions_fixes_it(name: str) -> None:
    atoms = slab()
    constraints, fixed = WHOLE[name]
    atoms.set_constraint(constraints)
    assert np.flatnonzero(Structure.from_ase(atoms).fixed).tolist() == fixed


INDEXED = st.builds(
    lambda kind, indices, mask, direction: {
        "atoms": lambda: FixAtoms(indices),
        "cartesian": lambda: FixCartesian(indices, mask),
        "scaled": lambda: FixScaled(indices, mask),
        "plane": lambda: FixedPlane(indices, direction),
        "line": lambda: FixedLine(indices, direction),
    }[kind](),
    st.sampled_from(["atoms", "cartesian", "scaled", "plane", "line"]),
    st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 2)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(INDEXED, max_size=4))
def test_fixed_atoms_are_those_that_ase_does_not_move(constraints: list) -> None:
    """Against ASE's own projection, applied until it changes nothing more: which displacements survive?"""
    atoms = fcc111("Cu", (1, 1, 5), vacuum=6)
    atoms.set_constraint(constraints)
    survives = np.zeros((5, 3))
    for step in np.random.default_rng(0).normal(size=(4, 5, 3)):
        moved = atoms.positions + step
        for _ in range(300):
            for constraint in atoms.constraints:
                constraint.adjust_positions(atoms, moved)
        survives += np.abs(moved - atoms.positions)
    fixed, rest = fixed_atoms(atoms)
    np.testing.assert_array_equal(fixed, (survives < 1e-6).all(axis=1))
    touched = {index for constraint in constraints for index in constraint.get_indices()}
    free = [c for c in constraints if isinstance(c, FixCartesian | FixScaled) and not c.mask.any()]
    if not free:
        assert bool(rest) == bool(touched - set(np.flatnonzero(fixed)))


FORMATS = ("a.traj", "a.db", "a.json", "a.extxyz", "a.vasp")


@pytest.mark.parametrize("name", FORMATS)
def test_fixed_and_partly_fixed_atoms_through_files_of_ase(name: str, tmp_path: Path) -> None:
    atoms = slab()
    atoms.set_constraint([FixAtoms([0, 1]), (FixScaled if name == "a.vasp" else FixCartesian)([4])])
    write(tmp_path / name, atoms)
    (read,) = read_structures(tmp_path / name)
    assert np.flatnonzero(read.fixed).tolist() == [0, 1, 4]
    atoms.set_constraint(
        [FixAtoms([0]), FixScaled([4], [1, 1, 0]) if name == "a.vasp" else FixCartesian([4], [1, 1, 0])]
    )
    path = tmp_path / f"partly_{name}"
    write(path, atoms)
    with pytest.raises(InputError, match="atom 4 is free along z only"):
        read_structures(path)


def test_a_mask_of_three_columns_in_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    one = {"numbers": [1, 8], "positions": [[0, 0, 0], [0, 0, 1]], "fixed": [[1, 1, 1], [0, 0, 0]]}
    path.write_text(json.dumps(one))
    assert read_structures(path)[0].fixed.tolist() == [True, False]
    path.write_text(json.dumps(one | {"fixed": [[1, 1, 1], [0, 1, 0]]}))
    with pytest.raises(InputError, match=r"a\.json: atom 1 is held along y only"):
        read_structures(path)
    assert read_structures(path, will_move=False)[0].fixed.tolist() == [True, False]


def test_labelled_frames_with_partly_fixed_atoms_are_read_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = []
    for n in range(3):
        atoms = slab()
        atoms.set_constraint([FixAtoms([0]), *([FixCartesian([5], [True, True, False])] if n else [])])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((12, 3)))
        images.append(atoms)
    write(tmp_path / "a.extxyz", images)
    caplog.set_level(logging.INFO, "rlpath")
    read = read_labelled(tmp_path / "a.extxyz")
    assert [np.flatnonzero(one.structure.fixed).tolist() for one in read] == [[0]] * 3
    assert (read[1].forces == 1).all()  # also those along directions that are held
    assert any("constraints of 2 structures do not apply" in line for line in caplog.messages)


PWO = """
     Program PWSCF v.7.2 starts on  1Jan2024 at 12: 0: 0

     bravais-lattice index     =            0
     lattice parameter (alat)  =       7.9370  a.u.
     number of atoms/cell      =            2
     number of atomic types    =            2

     celldm(1)=   7.936990  celldm(2)=   0.000000  celldm(3)=   0.000000

     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.000000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.000000   4.000000 )

     atomic species   valence    mass     pseudopotential
        Mg            10.00    24.30500     Mg( 1.00)
        O              6.00    15.99900     O ( 1.00)

   Cartesian axes

     site n.     atom                  positions (alat units)
         1           Mg  tau(   1) = (   0.0000000   0.0000000   0.5000000  )
         2           O   tau(   2) = (   0.0000000   0.0000000   1.0000000  )

!    total energy              =     -10.00000000 Ry

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =     0.00000000    0.00000000    0.10000000
     atom    2 type  2   force =     0.00000000    0.00000000   -0.10000000

ATOMIC_POSITIONS (angstrom)
Mg               0.0000000000        0.0000000000        2.1000000000    0   0   0
O                0.0000000000        0.0000000000        4.1000000000{flags}

!    total energy              =     -10.10000000 Ry

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =     0.00000000    0.00000000    0.05000000
     atom    2 type  2   force =     0.00000000    0.00000000   -0.05000000
"""


def test_if_pos_in_the_output_of_pw_x(tmp_path: Path) -> None:
    path = tmp_path / "relax.pwo"
    path.write_text(PWO.format(flags=""))
    assert [one.fixed.tolist() for one in read_structures(path)] == [[True, False]] * 2
    path.write_text(PWO.format(flags="    0   0   1"))
    with pytest.raises(InputError, match="atom 1 is free along z only"):
        read_structures(path)


ABINIT = """
acell 10 10 10
rprim 1 0 0 0 1 0 0 0 1
ntypat 1
znucl 1
natom 2
typat 1 1
{constraint}
xcart
0 0 0
0 0 1.4
chkprim 0
"""
CP2K = """&FORCE_EVAL
  &SUBSYS
    &CELL
      A 5 0 0
      B 0 5 0
      C 0 0 5
    &END CELL
    &COORD
O 0 0 0
H 0 0 1
    &END COORD
  &END SUBSYS
&END FORCE_EVAL
{constraint}
"""
XSD = "<Atom3d "
UNREAD = {
    "a.abi": (ABINIT, "natfix 1\niatfix 1", "natfix"),
    "a.restart": (CP2K, "&MOTION\n&CONSTRAINT\n&FIXED_ATOMS\nLIST 1\n&END\n&END\n&END", "FIXED_ATOMS"),
    "a.xsd": (XSD, 'RestrictedProperties="FractionalXYZ" ', "RestrictedProperties"),
}


@pytest.mark.parametrize("name", list(UNREAD))
def test_constraints_that_ase_does_not_read_are_named(name: str, tmp_path: Path) -> None:
    form, constraint, says = UNREAD[name]
    path = tmp_path / name
    if name == "a.xsd":
        write(path, slab())
        text = path.read_text()
        free, held = text, text.replace(XSD, XSD + constraint, 1)
    else:
        free, held = form.format(constraint=""), form.format(constraint=constraint)
    path.write_text(free)
    assert not read_structures(path)[0].fixed.any()
    path.write_text(held)
    with pytest.raises(InputError, match=f"{says} in the file holds atoms"):
        read_structures(path)
    assert len(read_structures(path, will_move=False)) == 1
