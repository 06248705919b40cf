"""The cell that a program gets: open directions, skewed cells, k-points. Labels do not depend on how they are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.calculator import kpts2sizeandoffsets
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.dft.engines import ENGINES, Calculation
from rlpath_core.dft.engines.ase_calculator import AseEngine
from rlpath_core.dft.engines.gpaw import GpawEngine
from rlpath_core.dft.engines.periodic import boxed, kpoint_grid, little_vacuum, unboxed
from rlpath_core.dft.engines.program import PeriodicEngine
from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.verdict import why_rejected
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure, read_structure

CASES = Path(__file__).parents[2] / "data" / "cases" / "structures"
OPEN = [[True, True, False], [True, False, True], [False, True, True], [False, False, True], [True, False, False]]


def slab(pbc: list[bool], seed: int = 0) -> Structure:
    """Some atoms in a skewed cell."""
    rng = np.random.default_rng(seed)
    cell = np.array([[4.0, 0, 0], [1.0, 5.0, 0], [0.5, -0.5, 6.0]])
    return Structure([8, 1, 1, 12], rng.uniform(0, 5, (4, 3)), cell, pbc)


def copper(vectors: list[list[int]]) -> Structure:
    """The same Cu(111), three layers, in a cell of other lattice vectors in its plane."""
    atoms = fcc111("Cu", (1, 1, 3), vacuum=7.5)
    atoms.pbc = True
    cell = atoms.cell.array.copy()
    cell[:2] = np.array(vectors) @ cell[:2]
    atoms.set_cell(cell)
    return Structure.from_ase(atoms)


def unimodular(steps: list[tuple[int, int]]) -> list[list[int]]:
    """Of determinant 1: products of shears."""
    out = np.eye(2, dtype=int)
    for which, count in steps:
        shear = np.eye(2, dtype=int)
        shear[which, 1 - which] = count
        out = shear @ out
    return out.tolist()


@pytest.mark.parametrize("pbc", [*OPEN, [False] * 3], ids=str)
def test_a_box_depends_on_nothing_that_is_given_for_an_open_direction(pbc: list[bool]) -> None:
    one = slab(pbc)
    box = boxed(one, 15.0, 5.0)
    rng = np.random.default_rng(1)
    for _ in range(5):
        cell = np.where(np.array(pbc)[:, None], one.cell, rng.normal(size=(3, 3)) * 10)
        other = boxed(replace(one, cell=cell), 15.0, 5.0)
        np.testing.assert_allclose(other.cell, box.cell, atol=1e-12)
        np.testing.assert_allclose(other.positions, box.positions, atol=1e-12)
    assert np.linalg.det(box.cell) > 0
    np.testing.assert_allclose(box.cell[pbc], one.cell[pbc])
    assert box.pbc.tolist() == pbc
    for axis in np.flatnonzero(~np.array(pbc)):
        length = np.linalg.norm(box.cell[axis])
        heights = box.positions @ box.cell[axis] / length
        assert length % 5.0 == pytest.approx(0, abs=1e-9)
        assert 15.0 < length - np.ptp(heights) <= 20.0
        assert heights.min() + heights.max() == pytest.approx(length)  # in the middle
        for periodic in np.flatnonzero(pbc):
            assert box.cell[axis] @ box.cell[periodic] == pytest.approx(0, abs=1e-9)


def test_what_needs_no_box_is_left_alone() -> None:
    for vectors in ([[1, 0], [0, 1]], [[1, 0], [-1, 1]], [[2, 0], [0, 2]]):  # 60 and 120 degrees are both shortest
        given = copper(vectors)
        assert boxed(given, 15.0, 5.0, reduce=True) is given
    tall = Structure([29], [[0, 0, 0]], np.diag([9.0, 3.0, 5.0]), [True] * 3)
    assert boxed(tall, 15.0, 5.0, reduce=True) is tall


def test_an_answer_to_the_box_is_one_to_the_structure_and_what_moved_has_moved() -> None:
    asked = slab([True, True, False])
    box = boxed(asked, 15.0, 5.0)
    answer = Calculation(True, None, None, -1.0, np.zeros((4, 3)), box.numbers, box.positions, box.cell)
    assert why_rejected(unboxed(answer, asked, box), asked, 1.0) is None
    moved = box.positions.copy()
    moved[2, 1] += 0.01
    assert "positions" in (why_rejected(unboxed(replace(answer, positions=moved), asked, box), asked, 1.0) or "")
    strained = box.cell * 1.001
    assert "cell" in (why_rejected(unboxed(replace(answer, cell=strained), asked, box), asked, 1.0) or "")


# k-points


@given(steps=st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_same_crystal_gets_the_same_k_points_in_any_cell(steps: list[tuple[int, int]]) -> None:
    """As points of reciprocal space, not as three numbers; and it is the same crystal."""
    plain = copper([[1, 0], [0, 1]])
    skewed = copper(unimodular(steps))
    box = boxed(skewed, 15.0, 5.0, reduce=True)
    grid = kpoint_grid(box, 30.0)
    assert sorted(grid) == [1, 14, 14]
    # Every point of one grid is, up to a reciprocal lattice vector, one of the other's.
    points = np.stack(np.meshgrid(*[np.arange(n) / n for n in grid], indexing="ij"), -1).reshape(-1, 3)
    cartesian = points @ np.linalg.inv(box.cell).T
    again = cartesian @ plain.cell.T * np.array(kpoint_grid(plain, 30.0))
    np.testing.assert_allclose(again, np.round(again), atol=1e-6)
    np.testing.assert_array_equal(box.positions, skewed.positions)
    whole = box.cell @ np.linalg.inv(skewed.cell)
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
    assert abs(np.linalg.det(whole)) == pytest.approx(1)


@given(
    entries=st.lists(st.floats(-2, 2), min_size=9, max_size=9),
    scale=st.floats(1.5, 8),
    length=st.floats(5, 60),
)
@settings(max_examples=100, deadline=None)
def test_no_grid_is_coarser_than_asked_in_any_cell(entries: list[float], scale: float, length: float) -> None:
    """Against ASE's own conversion of a density: the smallest grid with spacings of at most 1 / length."""
    cell = (np.eye(3) * 2.5 + np.reshape(entries, (3, 3)) * 0.5) * scale / 2.5
    atoms = Atoms("Cu", cell=cell, pbc=True)
    if atoms.get_volume() < 1.0:
        return
    filled = Structure.from_ase(
        Atoms(f"Cu{8**3}", np.indices((8, 8, 8)).reshape(3, -1).T / 8 @ cell, cell=cell, pbc=True)
    )
    assert kpoint_grid(filled, length) == pytest.approx(
        tuple(kpts2sizeandoffsets(density=length * (1 - 1e-7) / (2 * np.pi), even=None, atoms=atoms)[0]), abs=0
    )


@pytest.mark.parametrize("name", ["vasp", "gpaw", "espresso"])
def test_every_program_gets_the_grid_of_the_reduced_cell_unless_one_is_given(name: str) -> None:
    made = ENGINES[name]({})
    assert isinstance(made, PeriodicEngine)
    skewed = copper([[1, 0], [5, 1]])
    box = made.boxed(skewed)
    assert sorted(np.linalg.norm(box.cell, axis=1)[:2]) == pytest.approx([2.5527] * 2, abs=1e-3)
    explicit = ENGINES[name]({"kpoints": [12, 2, 1]})
    assert isinstance(explicit, PeriodicEngine)
    assert explicit.boxed(skewed) is skewed
    assert made.identity()["kpoint_rule"] == "reciprocal"  # labels of the old rule are other calculations
    assert "kpoint_rule" not in explicit.identity()


def test_a_given_grid_has_one_point_along_what_is_open(tmp_path: Path) -> None:
    made = GpawEngine({"kpoints": [3, 2, 4]})
    assert gpaw_input(tmp_path, made, slab([True] * 3))["parameters"]["kpts"]["size"] == [3, 2, 4]
    with pytest.raises(InputError, match="kpoints: 4 points along c, which is not periodic"):
        made.write_inputs(tmp_path, "0" * 64, slab([True, True, False]))
    one = GpawEngine({"kpoints": [3, 2, 1]})
    assert gpaw_input(tmp_path, one, slab([True, True, False]))["parameters"]["kpts"]["size"] == [3, 2, 1]


# Vacuum


@pytest.mark.parametrize(("c", "said"), [(6.0, None), (9.0, "vacuum of 5.0 Å along c"), (13.0, "9.0 Å"), (20.0, None)])
def test_little_vacuum_is_said(c: float, said: str | None) -> None:
    """Four Å of atoms; no layer of a crystal is more than 4 Å from the next."""
    atoms = Atoms("Mg3", [[0, 0, z] for z in (0, 2, 4)], cell=[3, 3, c], pbc=True)
    remark = little_vacuum(Structure.from_ase(atoms))
    assert (remark is None) if said is None else said in (remark or "")
    assert TbliteEngine().remark(Structure.from_ase(atoms)) == remark
    atoms.pbc = (True, True, False)
    assert little_vacuum(Structure.from_ase(atoms)) is None


def test_calculators_decide_for_themselves_what_an_open_direction_is() -> None:
    emt = AseEngine({"calculator": "ase.calculators.emt:EMT"})
    assert "its own affair" in (emt.remark(slab([True, True, False])) or "")
    assert emt.remark(slab([True] * 3)) is None
    assert emt.remark(slab([False] * 3)) is None


# Engines


@pytest.mark.slow
def test_the_label_of_a_slab_does_not_depend_on_the_c_of_its_file() -> None:
    """And is that of tblite's own ASE calculator with c = 1000 Å; the given cells are off by 2.7 and 0.26 eV/Å."""
    from tblite.ase import TBLite

    engine = TbliteEngine()
    names = ("slab_TTF_c6.xyz", "slab_TTF_c12.xyz", "slab_TTF_no_c.xyz")
    asked = [read_structure(CASES / name) for name in names]
    done = engine.calculate(asked)
    for one, calculation in zip(asked, done, strict=True):
        assert engine.refuse(one) is None
        assert why_rejected(calculation, one, 100.0) is None
        assert calculation.energy == pytest.approx(done[0].energy, abs=1e-5)
        np.testing.assert_allclose(calculation.forces, done[0].forces, atol=1e-5)
    atoms = read(CASES / names[1])
    atoms.cell[2, 2] = 1000.0
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    np.testing.assert_allclose(done[0].forces, atoms.get_forces(), atol=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_wires_and_molecules(axis: int) -> None:
    """A wire along any axis is the same wire; a molecule in a cell is the molecule."""
    wire = Atoms("MgOMgO", [[0, 0, 0], [0.1, 0, 2.1], [0, 0.05, 4.2], [0, 0, 6.3]], cell=[0, 0, 8.4], pbc=(0, 0, 1))
    turned = Atoms(
        wire.numbers, np.roll(wire.positions, axis + 1, axis=1), cell=np.diag(np.roll([0, 0, 8.4], axis + 1)),
        pbc=np.roll(wire.pbc, axis + 1),
    )  # fmt: skip
    turned.cell[(axis + 1) % 3] = [3.0, 4.0, 5.0] if axis != 0 else [3.0, 1.0, 0.0]
    first, second = TbliteEngine().calculate([Structure.from_ase(wire), Structure.from_ase(turned)])
    assert second.energy == pytest.approx(first.energy, abs=1e-5)
    np.testing.assert_allclose(second.forces, np.roll(first.forces, axis + 1, axis=1), atol=1e-4)
    water = molecule("H2O")
    boxes = [water.copy() for _ in range(2)]
    boxes[1].set_cell([3.0, 3.0, 3.0])
    free, inside = TbliteEngine().calculate([Structure.from_ase(one) for one in boxes])
    assert free.energy == inside.energy


def gpaw_input(folder: Path, made: GpawEngine, structure: Structure) -> dict:
    made.write_inputs(folder, "0" * 64, structure)
    return dict(json.loads((folder / "gpaw.json").read_text()))


@pytest.mark.parametrize("mode", ["pw", "fd", "lcao"])
def test_gpaw_opens_what_is_open_where_it_can(tmp_path: Path, mode: str) -> None:
    """Plane waves repeat everything, so there is vacuum; a grid ends, and the atoms keep away from its end."""
    water = Structure.from_ase(molecule("H2O"))
    value = gpaw_input(tmp_path, GpawEngine({"mode": mode}), water)
    assert value["pbc"] == [mode == "pw"] * 3
    lengths = np.diag(value["cell"])
    np.testing.assert_allclose(lengths, [20, 20, 20])
    assert np.min(value["positions"]) > 7
    assert "kpts" not in value["parameters"]
    wire = slab([True, False, False])
    value = gpaw_input(tmp_path, GpawEngine({"mode": mode, "kpoint_length": 20}), wire)
    assert value["pbc"] == ([True] * 3 if mode == "pw" else [True, False, False])
    assert value["parameters"]["kpts"]["size"] == [5, 1, 1]


@pytest.mark.parametrize(
    ("name", "given", "key"),
    [
        ("tblite", {"charge": 1}, "charge: 1"),
        ("gpaw", {"charge": -1.0}, "charge: -1"),
        ("espresso", {"pseudopotentials": {}, "input": {"SYSTEM": {"tot_charge": 1}}}, "tot_charge: 1"),
        ("vasp", {"incar": {"nelect": 41}}, "NELECT: 41"),
    ],
)
def test_charged_structures_that_are_open_are_refused_by_the_key(name: str, given: dict, key: str) -> None:
    if name == "espresso":
        given["pseudopotentials"] = {"O": "O.UPF", "H": "H.UPF", "Mg": "Mg.UPF"}
    if name == "vasp":
        given["potcar_symbols"] = ["O", "H", "Mg"]
    made = ENGINES[name](given)
    assert key in (made.refuse(slab([True, True, False])) or "")
    assert made.refuse(slab([True] * 3)) is None
