"""Whole files, or a line that says what is wrong: nothing is read in part, guessed or changed without a word."""

from __future__ import annotations

import gzip
import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.test
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.data import read_labelled
from rlpath_core.errors import InputError
from rlpath_core.structure import io, read_images, read_structures
from rlpath_core.structure.xyz import info_text

CASES = Path(__file__).parents[2] / "data" / "cases"
VASP = Path(ase.test.__file__).parent / "testdata" / "vasp"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "rlpath")

    def lines() -> list[str]:
        found = list(caplog.messages)
        caplog.clear()
        return found

    return lines


def frames(n: int = 6, cell: bool = True) -> list[Atoms]:
    """Frames that differ in everything, the number of atoms included."""
    found = []
    for k in range(n):
        atoms = bulk("MgO", "rocksalt", 4.2) * (1, 1, 1 + k % 2)
        atoms.rattle(0.1, seed=k)
        atoms.set_tags(range(len(atoms)))
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * k, forces=atoms.positions * 0.1)
        found.append(atoms)
    return found


def test_an_empty_line_does_not_end_a_file(said: Callable[[], list[str]]) -> None:
    path = CASES / "training" / "01_blank_line.xyz"
    independent = sum(line.strip().isdigit() for line in path.read_text().splitlines())  # lines that announce a frame
    assert independent == 22
    assert len(read(path, index=":")) == 6, "ASE stops at the empty line"
    assert len(read_labelled(path)) == 22
    assert said() == [f"read 22 structures from {path}"]
    assert len(read_structures(path)) == 22


@pytest.mark.parametrize("name", ["a.traj", "a.xyz", "a.extxyz", "a.xyz.gz", "a.xyz.bz2", "a.db", "a.json"])
def test_frames_of_different_sizes_come_back_whole(name: str, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    images = frames()
    write(tmp_path / name, images)
    found = read_structures(tmp_path / name)
    assert said() == [f"read 6 structures from {tmp_path / name}"]
    for one, image in zip(found, images, strict=True):
        assert one.numbers.tolist() == image.numbers.tolist()
        np.testing.assert_allclose(one.positions, image.positions, atol=1e-7)
        np.testing.assert_allclose(one.cell, image.cell.array, atol=1e-7)
        assert one.pbc.tolist() == image.pbc.tolist()
        assert one.fixed.tolist() == [True] + [False] * (len(one) - 1)
        assert one.tags.tolist() == list(range(len(one)))


def dump(images: list[Atoms]) -> str:
    out = ""
    for k, atoms in enumerate(images):
        out += f"ITEM: TIMESTEP\n{k}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\nITEM: BOX BOUNDS pp pp pp\n"
        out += "0 9\n0 9\n0 9\nITEM: ATOMS id element x y z\n"
        for n, atom in enumerate(atoms, start=1):
            out += f"{n} {atom.symbol} {atom.x:.4f} {atom.y:.4f} {atom.z:.4f}\n"
    return out


def vasprun() -> bytes:
    """Four ionic steps: the one of a real file four times."""
    text = (VASP / "vasprun_pstress.xml").read_bytes()
    start, end = text.index(b"<calculation>"), text.index(b"</calculation>") + len(b"</calculation>\n")
    return text[:end] + text[start:end] * 3 + text[end:]


def outcar() -> bytes:
    """Two ionic steps, the one of a real file twice."""
    text = (VASP / "OUTCAR_example_1").read_bytes()
    start, end = text.rindex(b"\n", 0, text.index(b"Iteration")), text.rindex(b"\n", 0, text.index(b"General timing"))
    return text[:end] + text[start:end].replace(b"Iteration    1(", b"Iteration    2(") + text[end:]


def content(name: str, folder: Path) -> bytes:
    if name == "vasprun.xml":
        return vasprun()
    if name == "OUTCAR":
        return outcar()
    if name == "a.lammpstrj":
        return dump(frames()).encode()
    images = frames()[::2] if name in ("XDATCAR", "a.xsf") else frames()
    write(folder / f"whole_{name}", images, format={"XDATCAR": "vasp-xdatcar", "a.pdb": "proteindatabank"}.get(name))
    return (folder / f"whole_{name}").read_bytes()


MARKS = {
    "a.traj": None,
    "a.db": None,
    "a.json": None,
    "a.xyz.gz": None,
    "a.xyz": b"Lattice",
    "a.lammpstrj": b"ITEM: TIMESTEP",
    "XDATCAR": b"Direct configuration",
    "a.xsf": b"PRIMCOORD",
    "vasprun.xml": b"<calculation>",
    "OUTCAR": b"(   1)  ---",
}


@pytest.mark.parametrize("name", list(MARKS))
def test_a_file_that_is_cut_off_is_refused_or_it_is_said(
    name: str, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    """Whatever is read without a word is every structure that has begun in what is left of the file."""
    whole, mark = content(name, tmp_path), MARKS[name]
    path = tmp_path / name
    path.write_bytes(whole)
    full = len(read_images(path))
    said()
    outcomes = set()
    for length in np.linspace(0.02 * len(whole), len(whole) - 2, 50).astype(int):
        path.write_bytes(whole[:length])
        try:
            n = len(read_images(path))
        except InputError:
            outcomes.add("refused")
            continue
        if "has not ended" in " ".join(said()):
            outcomes.add("said")
        elif mark is None:
            assert n == full, "the end of a container holds nothing of its structures"
        else:
            assert n == whole[:length].count(mark)
    assert "refused" in outcomes
    assert ("said" in outcomes) is (name in ("vasprun.xml", "OUTCAR"))


def test_a_last_line_that_is_cut_within_a_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    write(path, frames(2))
    path.write_text(path.read_text()[:-3])  # -0.1234 has become -0.1
    assert len(read(path, index=":")) == 2, "ASE takes it"
    with pytest.raises(InputError, match="line 10: ends in the middle of a line"):
        read_structures(path)
    path.write_text("3\n\nH 0 0 0\nH 0 0 1.234\nH 0 0 2")  # columns of no fixed width, no newline at the end
    assert len(read_structures(path)) == 1


def test_what_is_between_two_frames_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\n\nH 0 0 0\n\n\n1\n\nH 0 0 1\nH 0 0 2\n1\n\nH 0 0 3\n")
    with pytest.raises(InputError, match="line 9: a frame begins with its number of atoms, found 'H 0 0 2'"):
        read_structures(path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("XDATCAR", lambda text: text.replace(b"Direct configuration=     2", b"\nDirect configuration=     2")),
        ("a.pdb", lambda text: text.replace(b"ENDMDL", b"", 1)),
    ],
)
def test_a_damaged_line_within_a_file_hides_no_frames(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(damage(content(name, tmp_path)))
    with pytest.raises(InputError):
        read_structures(path)


def test_several_molecules_in_an_sdf_are_not_one(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    write(path, Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]]))
    assert len(read_structures(path)) == 1
    path.write_text(path.read_text() * 2)
    assert len(read(path, index=":")) == 1, "ASE reads the first"
    with pytest.raises(InputError, match="holds 2 structures, and only 1 of them can be read"):
        read_structures(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xyz"
    write(path, frames(2))
    reads = io.read_extxyz

    def while_another_writes(given: Path) -> list[Atoms]:
        images = reads(given)
        with given.open("a") as stream:
            stream.write("1\n\nH 0 0 0\n")
        return images

    monkeypatch.setattr(io, "read_extxyz", while_another_writes)
    with pytest.raises(InputError, match="changed while it was read"):
        read_structures(path)


HEAD = 'Lattice="4 0 0 0 5 0 0 0 6"'
ATOMS = "H 0 0 0\nO 0 0 1\n"
HEADERS: dict[str, tuple[str, str]] = {
    "lattice in lower case": (f'2\nlattice="4 0 0 0 5 0 0 0 6"\n{ATOMS}', "line 2: key 'lattice' is not read"),
    "cell": (f'2\ncell="4 0 0 0 5 0 0 0 6"\n{ATOMS}', "line 2: key 'cell' is not read: write 'Lattice'"),
    "PBC in upper case": (f'2\n{HEAD} PBC="T T F"\n{ATOMS}', "line 2: key 'PBC' is not read: write 'pbc'"),
    "pbc in one word": (f"2\n{HEAD} pbc=TTF\n{ATOMS}", "line 2: pbc is 'TTF': write it as"),
    "pbc in lower case": (f'2\n{HEAD} pbc="t t f"\n{ATOMS}', "line 2: pbc is 't t f': write it as"),
    "properties in lower case": (f"2\n{HEAD} properties=species:S:1:pos:R:3\n{ATOMS}", "key 'properties' is not read"),
    "no positions": (f"2\n{HEAD} Properties=species:S:1:xyz:R:3\n{ATOMS}", "line 2: .* no column 'pos'"),
    "no elements": (f"2\n{HEAD} Properties=name:S:1:pos:R:3\n{ATOMS}", "line 2: .* no column 'species'"),
    "no triples": (f"2\n{HEAD} Properties=species:S:1:pos:R\n{ATOMS}", "line 2: .* triples"),
    "a mask that ASE takes for F": (
        f"2\n{HEAD} Properties=species:S:1:pos:R:3:move_mask:L:1\nH 0 0 0 t\nO 0 0 1 F\n",
        "line 1: column move_mask holds 't'",
    ),
    "a mask of numbers": (
        f"2\n{HEAD} Properties=species:S:1:move_mask:L:3:pos:R:3\nH 1 T T 0 0 0\nO F F F 0 0 1\n",
        "column move_mask holds '1'",
    ),
    "fixed by 2": (f"2\n{HEAD} Properties=species:S:1:pos:R:3:fixed:I:1\nH 0 0 0 2\nO 0 0 1 0\n", "neither 0 nor 1"),
    "three moments": (
        f"2\n{HEAD} Properties=species:S:1:pos:R:3:initial_magmoms:R:3\nH 0 0 0 1 0 0\nO 0 0 1 0 0 0\n",
        "non-collinear",
    ),
}


@pytest.mark.parametrize("name", list(HEADERS))
def test_headers_that_ase_passes_over(name: str, tmp_path: Path) -> None:
    text, says = HEADERS[name]
    path = tmp_path / "a.xyz"
    path.write_text(text)
    assert len(read(path, index=":")) == 1
    with pytest.raises(InputError, match=says) as refused:
        read_structures(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("pbc", "expected"),
    [
        (v, "TTF")
        for v in (
            '"T T F"',
            '"True True False"',
            '"1 1 0"',
            "[True, True, False]",
            "{T T F}",
            "'T T F'",
            '"true true false"',
            '"TRUE TRUE FALSE"',
        )
    ]
    + [("T", "TTT"), ("F", "FFF")],
)
def test_periodic_directions_as_they_are_written(pbc: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"2\n{HEAD} pbc={pbc} energy=-1.0\n{ATOMS}")
    assert "".join("FT"[int(one)] for one in read_structures(path)[0].pbc) == expected


def test_a_column_fixed_is_read_as_in_json(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"2\n{HEAD} Properties=species:S:1:pos:R:3:fixed:I:1\nH 0 0 0 1\nO 0 0 1 0\n" * 2)
    assert [one.fixed.tolist() for one in read_structures(path)] == [[True, False]] * 2
    assert [line for line in said() if "'fixed'" in line] == [
        f"{path}: its column 'fixed' says which atoms do not move (1: fixed)"
    ]


TOP = "slab\n1.0\n4.2 0 0\n0 4.2 0\n0 0 20\n"
XYZ = "0 0 0\n0.5 0.5 0.5\n0.5 0 0\n"
POSCARS: dict[str, tuple[str, str]] = {
    "a title of words": (TOP + f"1 2\nDirect\n{XYZ}", "line 6: has numbers of atoms .1 2. where the species belong"),
    "a title that holds elements": (
        TOP.replace("slab", "CO on Cu") + f"1 2\nDirect\n{XYZ}",
        "line 6: has numbers of atoms",
    ),
    "a species without a number": (TOP + f"Mg O H\n1 2\nDirect\n{XYZ}", "line 7: there are 3 species .Mg O H. and 2"),
    "an atom more": (TOP + f"Mg O\n1 1\nDirect\n{XYZ}", "line 11: holds more than the 2 atoms"),
    "an atom less": (TOP + f"Mg O\n1 3\nDirect\n{XYZ}", "holds fewer than the 4 atoms"),
    "a flag missing": (TOP + "Mg\n1\nSelective\nDirect\n0 0 0 F F\n", "line 10: takes three flags"),
    "partly fixed, in Fortran's words": (TOP + "Mg\n1\nSelective\nDirect\n0 0 0 .FALSE. f .true.\n", "free along z"),
}


@pytest.mark.parametrize("name", list(POSCARS))
def test_poscars_that_are_refused(name: str, tmp_path: Path) -> None:
    text, says = POSCARS[name]
    path = tmp_path / "POSCAR"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as refused:
        read_structures(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_species_of_a_poscar_of_vasp_4(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(TOP.replace("slab", "Mg O") + f"1 2\nDirect\n{XYZ}")
    assert read_structures(path)[0].numbers.tolist() == [12, 8, 8]
    assert any("its title was taken for it: Mg O" in line for line in said())
    path.write_text(TOP + f"1 2\nDirect\n{XYZ}")
    (tmp_path / "POTCAR").write_text("   TITEL  = PAW_PBE Ni 02Aug2007\n   TITEL  = PAW_PBE O_s 07Sep2000\n")
    assert read_structures(path)[0].numbers.tolist() == [28, 8, 8]
    assert any("POTCAR or OUTCAR beside it" in line for line in said())


def test_flags_of_a_poscar_as_fortran_reads_them(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    path = tmp_path / "POSCAR"
    rows = "0 0 0 F F F\n0.5 0.5 0.5 .false. f FALSE\n0.5 0 0 t .T. T\n"
    path.write_text(TOP + f"Mg O\n1 2\nSelective dynamics\nDirect\n{rows}")
    assert read_structures(path)[0].fixed.tolist() == [True, True, False]
    said()
    path.write_text(TOP + f"Mg O\n1 2\nDirect\n{rows}")
    assert not read_structures(path)[0].fixed.any()
    assert any("do not count without a line 'Selective dynamics'" in line for line in said())


@settings(max_examples=25)
@given(st.lists(st.booleans(), min_size=3, max_size=3), st.booleans(), st.data())
def test_poscars_that_ase_writes_come_back(
    tmp_path_factory: pytest.TempPathFactory, fixed: list[bool], direct: bool, data: st.DataObject
) -> None:
    cell = np.tril(data.draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9).map(np.array)).reshape(3, 3), -1)
    atoms = Atoms("MgOMg", positions=[[0, 0, 0], [1, 2, 3], [2, 1, 0.5]], cell=cell + 5 * np.eye(3), pbc=True)
    atoms.set_constraint(FixAtoms(mask=fixed))
    path = tmp_path_factory.mktemp("poscar") / "POSCAR"
    write(path, atoms, format="vasp", direct=direct)
    (read,) = read_structures(path)
    assert read.fixed.tolist() == fixed
    np.testing.assert_allclose(read.positions, atoms.positions, atol=1e-8)


def test_lammps_types_are_not_elements(tmp_path: Path) -> None:
    path = tmp_path / "a.lammpstrj"
    path.write_text(dump(frames(2)).replace("id element", "id type").replace(" Mg ", " 1 ").replace(" O ", " 2 "))
    assert str(read(path).symbols) == "HHeHHe", "ASE takes type 1 for hydrogen"
    with pytest.raises(InputError, match="names types of atoms and no elements"):
        read_structures(path)


@pytest.mark.parametrize("reads", [read_structures, read_labelled])
def test_another_programs_database_is_not_changed(tmp_path: Path, reads: Callable[[Path], Any]) -> None:
    path = tmp_path / "rlpath.db"
    connection = sqlite3.connect(path)
    connection.execute("create table runs (id text)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="not one of ASE"):
        reads(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["a.traj", "a.xyz", "a.xyz.gz", "a.db", "a.json", "XDATCAR", "vasprun.xml", "OUTCAR"])
def test_nothing_is_written_beside_the_input(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(content(name, tmp_path))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    folder.chmod(0o555)
    try:
        assert read_images(folder / name)
    finally:
        folder.chmod(0o755)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


INFO: dict[str, Any] = {
    "array": np.arange(6.0).reshape(2, 3),
    "nested": {"a": [1, {"b": None}], "c": "text"},
    "number-like": "007",
    "flag": True,
    "words": "two words",
    "nothing": None,
}


@pytest.mark.parametrize("name", ["a.traj", "a.xyz", "a.json", "a.db"])
def test_info_and_arrays_of_any_kind_do_not_matter(name: str, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    images = frames(2)
    for image in images:
        image.info.update(INFO)
        image.set_array("weird", np.zeros((len(image), 4)))
        image.set_array("label", np.array(["x y"[:1]] * len(image)))
    write(tmp_path / name, images)
    assert [len(one) for one in read_structures(tmp_path / name)] == [2, 4]
    assert said() == [f"read 2 structures from {tmp_path / name}"]


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12))
def test_a_text_in_info_comes_back(text: str) -> None:
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    if any(c in text for c in '"\\{}') or text.strip() != text or "_JSON" in text:
        return  # what the form itself cannot hold
    assert str(key_val_str_to_dict(key_val_dict_to_str({"key": info_text(text)}))["key"]) == text


def charged() -> Atoms:
    atoms = Atoms("Na", cell=[9] * 3, pbc=True)
    atoms.set_initial_charges([1.0])
    return atoms


def heavy_water() -> Atoms:
    return Atoms("OH2", positions=[[0, 0, 0], [0, 0, 1], [0, 1, 0]], masses=[16, 2.014, 2.014])


def calculated_moments() -> Atoms:
    atoms = Atoms("Fe", cell=[9] * 3, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, magmoms=np.array([2.2]))
    return atoms


@pytest.mark.parametrize(
    ("atoms", "says"),
    [
        (charged(), "initial charges"),
        (heavy_water(), "masses"),
        (Atoms("Na", info={"charge": 1, "spin": 2}), "charge, spin"),
        (Atoms("Na", info={"charge": 0, "spin": 2}), "spin"),
        (calculated_moments(), "calculated magnetic moments"),
    ],
)
def test_what_nothing_uses_is_said(atoms: Atoms, says: str, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    path = tmp_path / "a.xyz"
    write(path, [atoms, atoms])
    read_structures(path)
    (line,) = [line for line in said() if "not used here" in line]
    assert line.startswith(f"{path}: not used here: {says}")


CIF = """data_x
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Mg1 Mg 0 0 0 {occupancy}
O1 O 0.5 0.5 0.5 1.0
"""


def test_sites_that_are_occupied_in_part_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(occupancy="1.0"))
    assert len(read_structures(path)[0]) == 2
    path.write_text(CIF.format(occupancy="0.7"))
    assert len(read(path)) == 2, "ASE takes the site for full"
    with pytest.raises(InputError, match=r"occupied in part \(0.7 Mg\)"):
        read_structures(path)


def test_an_entry_of_a_json_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = {"numbers": [1], "positions": [[0, 0, 0]]}
    path.write_text(json.dumps([good, good | {"numbers": [0]}]))
    with pytest.raises(InputError, match=r"a\.json: entry 1: atomic numbers"):
        read_structures(path)


def test_a_bom_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(b"\xef\xbb\xbf2\r\n\r\nH 0 0 0\r\nO 0 0 1\r\n\r\n1\r\n\r\nH 0 0 0\r\n")
    assert [len(one) for one in read_structures(path)] == [2, 1]
