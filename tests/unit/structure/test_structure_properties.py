"""Content ids and round trips of any structure: what changes an id, and what a file gives back."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.data import Labelled, read_labelled, write_extxyz
from rlpath_core.errors import InputError
from rlpath_core.store.npz import read_npz, write_npz
from rlpath_core.structure import Structure
from rlpath_core.structure.io import from_mapping

GRID = 1e-4
"""Å, the precision of a content id."""


def rounded(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers of four decimals."""
    return st.integers(round(low / GRID), round(high / GRID)).map(lambda n: n / 10_000)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Molecules and periodic structures, with cells of any handedness and angles, tags, fixed atoms and moments."""
    n = draw(st.integers(1, 6))

    def arrays(of: st.SearchStrategy[Any], *shape: int) -> Any:
        return np.array(draw(st.lists(of, min_size=(size := int(np.prod(shape))), max_size=size))).reshape(shape)

    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    if draw(st.booleans()):
        cell = np.tril(arrays(rounded(-3, 3), 3, 3), -1)
        cell += np.diag(arrays(rounded(2, 20), 3) * arrays(st.sampled_from([-1, 1]), 3))
        pbc = arrays(st.booleans(), 3)
    return Structure(
        numbers=arrays(st.integers(1, 118), n),
        positions=arrays(rounded(-30, 30), n, 3),
        cell=cell,
        pbc=pbc,
        tags=arrays(st.integers(0, 2), n),
        fixed=arrays(st.booleans(), n),
        magmoms=arrays(rounded(-5, 5), n) * draw(st.booleans()),
    )


def same_arrays(a: Structure, b: Structure, atol: float = 0.0) -> bool:
    return all(np.allclose(getattr(a, f.name), getattr(b, f.name), rtol=0, atol=atol) for f in fields(Structure))


@given(structures(), st.randoms(use_true_random=False))
def test_an_id_does_not_see_what_is_below_its_precision(structure: Structure, random: Any) -> None:
    noise = [[random.uniform(-0.4, 0.4) * GRID for _ in range(3)] for _ in range(len(structure))]
    assert structure.moved(structure.positions + noise).id == structure.id
    negative = np.where(structure.positions == 0, -0.0, structure.positions)
    assert structure.moved(negative).id == structure.id


@given(structures(), st.data())
def test_an_id_sees_every_change_above_it(structure: Structure, data: st.DataObject) -> None:
    atom, axis = data.draw(st.integers(0, len(structure) - 1)), data.draw(st.integers(0, 2))
    positions = structure.positions.copy()
    positions[atom, axis] += data.draw(st.sampled_from([-2, 2])) * GRID
    changed = [structure.moved(positions)]
    for name, value in (
        ("numbers", structure.numbers % 118 + 1),
        ("tags", structure.tags + 1),
        ("magmoms", structure.magmoms + 2 * GRID),
    ):
        array = getattr(structure, name).copy()
        array[atom] = value[atom]
        changed.append(replace(structure, **{name: array}))
    fixed = structure.fixed.copy()
    fixed[atom] ^= True
    changed.append(replace(structure, fixed=fixed))
    if structure.cell.any():
        pbc = structure.pbc.copy()
        pbc[axis] ^= True
        changed += [replace(structure, pbc=pbc), replace(structure, cell=structure.cell * 1.01)]
    ids = {structure.id, *(one.id for one in changed)}
    assert len(ids) == 1 + len(changed)


@given(structures(), st.randoms(use_true_random=False))
def test_an_id_depends_on_the_order_of_atoms_that_differ(structure: Structure, random: Any) -> None:
    order = list(range(len(structure)))
    random.shuffle(order)
    arrays = {name: getattr(structure, name)[order] for name in ("numbers", "positions", "tags", "fixed", "magmoms")}
    shuffled = replace(structure, **arrays)
    assert (shuffled == structure) is same_arrays(shuffled, structure)


@given(structures())
def test_the_documented_json_gives_the_structure_back(structure: Structure) -> None:
    text = json.dumps({f.name: getattr(structure, f.name).tolist() for f in fields(Structure)})
    assert same_arrays(from_mapping(json.loads(text)), structure)


@given(structures())
def test_ase_gives_the_structure_back(structure: Structure) -> None:
    assert same_arrays(Structure.from_ase(structure.to_ase()), structure)


@settings(max_examples=30)
@given(structures(), st.floats(-1e4, 1e4))
def test_files_give_the_structure_back(structure: Structure, energy: float) -> None:
    """Bitwise from npz; to the precision of the text, and so with the same id, from extended XYZ."""
    with tempfile.TemporaryDirectory() as folder:
        write_npz(Path(folder) / "one.npz", structure)
        assert same_arrays(read_npz(Path(folder) / "one.npz", structure.id), structure)
        forces = np.arange(3.0 * len(structure)).reshape(-1, 3)
        write_extxyz(Path(folder) / "one.xyz", [Labelled(structure, energy, forces, "a")])
        (read,) = read_labelled(Path(folder) / "one.xyz")
    assert read.structure.id == structure.id
    assert abs(read.energy - energy) < 1e-6
    assert np.allclose(read.forces, forces)


@given(structures())
def test_moments_of_zero_leave_the_id_that_a_structure_had_before_there_were_any(structure: Structure) -> None:
    digest = hashlib.sha256(b"rlpath-structure-1")
    for name in ("numbers", "positions", "cell", "pbc", "tags", "fixed"):
        array = getattr(structure, name)
        array = np.round(array, 4) + 0.0 if array.dtype.kind == "f" else array
        for part in (name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), array.tobytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    assert replace(structure, magmoms=None).id == digest.hexdigest()
    assert (structure.id == digest.hexdigest()) is not structure.magmoms.any()


def test_moments_of_three_components_are_refused() -> None:
    atoms = Atoms("Ni2", positions=[[0, 0, 0], [0, 0, 2.0]], magmoms=[[0, 0, 1.0], [0, 1.0, 0]])
    with pytest.raises(InputError, match="non-collinear"):
        Structure.from_ase(atoms)
