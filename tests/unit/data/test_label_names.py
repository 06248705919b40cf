"""Which values of a file are its labels, in every form; what is missing, twice there or not finite is said by name."""

import json
import logging
import pickle
import shutil
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from torch_geometric.data import Data

from rlpath_core.data import Labelled, S2EFReader, S2EFWriter, open_labelled, read_labelled, write_labelled
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

CASES = Path(__file__).parents[2] / "data" / "cases" / "training"
OC22 = Path(__file__).parents[2] / "data" / "oc22_emt"
FORCES = np.arange(6.0).reshape(2, 3)


def frame(info=None, arrays=None, pbc=False, **results):
    """CO with labels: ``results`` as a calculator's, the others under names of their own."""
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.15]], cell=[6, 6, 6] if pbc else None, pbc=pbc)
    atoms.info |= info or {}
    for name, value in (arrays or {}).items():
        atoms.arrays[name] = np.array(value, float)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def notes_of(caplog):
    """What is said beside the number of structures."""
    messages = [r.getMessage() for r in caplog.records if r.name == "rlpath.data"]
    return [one for one in messages if not one.startswith(("read ", "opened "))]


def put(path, **values):
    env = lmdb.open(str(path), subdir=path.suffix == "", map_size=1 << 22)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    env.close()


def entry(**changes):
    fields = {
        "pos": torch.tensor([[0.0, 0, 0], [0, 0, 1.15]]), "cell": 6 * torch.eye(3)[None], "natoms": 2,
        "atomic_numbers": torch.tensor([6, 8]), "y": -5.0, "force": torch.tensor(FORCES),
    }  # fmt: skip
    return pickle.dumps(Data(**{**fields, **changes}), protocol=-1)


def shard(path, *entries):
    put(path, length=pickle.dumps(len(entries)), **{str(n): one for n, one in enumerate(entries)})
    return path


def test_mace_names_as_mace_reads_them(tmp_path):
    """The labels that mace_run_train's own reader takes from the same file, also where ASE's names stand beside."""
    pytest.importorskip("mace", reason="mace is not in this environment")
    from mace.data.utils import KeySpecification, load_from_xyz
    from mace.tools import DefaultKeys

    both = frame({"REF_energy": -7.5}, {"REF_forces": 2 * FORCES}, energy=-1.0, forces=FORCES)
    write(tmp_path / "both.xyz", [both, both])
    for path in (CASES / "03_mace_keys_REF.xyz", tmp_path / "both.xyz"):
        _, theirs = load_from_xyz(str(path), KeySpecification.from_defaults())
        assert DefaultKeys.ENERGY.value == "REF_energy"
        ours = read_labelled(path)
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert a.energy == b.properties["energy"]
            np.testing.assert_array_equal(a.forces, b.properties["forces"])


NAMES = {
    # what a frame has, the keys given, the energy and forces that are read, and what is said
    "usual": (frame(energy=-1.0, forces=FORCES), {}, -1.0, FORCES, None),
    "reference beside": (
        frame({"REF_energy": -2.0}, {"REF_forces": 2 * FORCES}, energy=-1.0, forces=FORCES),
        {}, -2.0, 2 * FORCES, "energy is there beside REF_energy, which is taken",
    ),
    "the other by name": (
        frame({"REF_energy": -2.0}, {"REF_forces": 2 * FORCES}, energy=-1.0, forces=FORCES),
        {"energy_key": "energy", "forces_key": "forces"}, -1.0, FORCES, None,
    ),
    "names of one's own": (
        frame({"dft": -3.0}, {"gradient": FORCES}, energy=-1.0, forces=2 * FORCES),
        {"energy_key": "dft", "forces_key": "gradient"}, -3.0, FORCES, None,
    ),
    "free energy beside": (
        frame(energy=-1.0, free_energy=-1.02, forces=FORCES), {}, -1.0, FORCES, "free_energy is there beside energy",
    ),
    "free energy by name": (
        frame(energy=-1.0, free_energy=-1.02, forces=FORCES), {"energy_key": "free_energy"}, -1.02, FORCES, None,
    ),
    "the same free energy": (frame(energy=-1.0, free_energy=-1.0, forces=FORCES), {}, -1.0, FORCES, None),
    "free energy alone": (frame(free_energy=-1.02, forces=FORCES), {}, -1.02, FORCES, "read from free_energy"),
    "the name of QUIP and GPUMD": (frame(arrays={"force": FORCES}, energy=-1.0), {}, -1.0, FORCES, "read from force: "),
    "energy alone": (frame(energy=-1.0), {}, -1.0, None, None),
    "forces alone": (frame(forces=FORCES), {}, None, FORCES, None),
    "nothing": (frame(), {}, None, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["extxyz", "traj", "db", "json"])
def test_names_in_files_of_ase(tmp_path, caplog, name, form):
    atoms, keys, energy, forces, said = NAMES[name]
    path = tmp_path / f"a.{form}"
    if form in ("db", "json"):
        with connect(path) as database:
            for _ in range(2):
                database.write(atoms, atoms.info, data={k: v for k, v in atoms.arrays.items() if k not in "positions"})
    elif form == "traj" and set(atoms.arrays) > {"numbers", "positions"}:
        pytest.skip("ASE's trajectories hold no arrays under other names")
    else:
        write(path, [atoms] * 2)
    with caplog.at_level(logging.INFO, "rlpath"):
        found = read_labelled(path, (), **keys)
    assert len(found) == 2
    for one in found:
        assert one.energy == pytest.approx(energy)
        if forces is None:
            assert one.forces is None
        else:
            np.testing.assert_allclose(one.forces, forces)
    assert f"read 2 structures from {path}" in caplog.text
    notes = notes_of(caplog)
    if said is None:
        assert notes == []
    else:
        assert any("all of 2 entries" in note and said in note for note in notes)


def test_a_pair_of_two_methods_is_no_label(tmp_path):
    """REF_energy beside energy, and one set of forces, which may be of either."""
    write(tmp_path / "a.xyz", frame({"REF_energy": -2.0}, energy=-1.0, forces=FORCES))
    with pytest.raises(InputError, match=r"a\.xyz: frame 0: has REF_energy beside energy, and forces alone.*_key"):
        read_labelled(tmp_path / "a.xyz")
    assert read_labelled(tmp_path / "a.xyz", ["energy"])[0].energy == -2.0
    found = read_labelled(tmp_path / "a.xyz", energy_key="energy", forces_key="forces")[0]
    assert (found.energy, found.forces.tolist()) == (-1.0, FORCES.tolist())


def test_a_name_that_may_be_meant_is_offered(tmp_path):
    write(tmp_path / "a.xyz", frame({"dft_energy": -2.0, "config_type": "bulk"}, {"dft_forces": FORCES}))
    with pytest.raises(InputError, match=r"frame 0: has no REF_energy or .*, but dft_energy \(name one with data.ener"):
        read_labelled(tmp_path / "a.xyz")
    with pytest.raises(
        InputError, match=r"has no REF_forces or forces or force, but dft_forces \(name one with data.forces_key"
    ):
        read_labelled(tmp_path / "a.xyz", energy_key="dft_energy")
    with pytest.raises(InputError, match="has no dft_enrgy, but dft_energy"):
        read_labelled(tmp_path / "a.xyz", energy_key="dft_enrgy", forces_key="dft_forces")


def test_the_first_without_a_label_and_how_many(tmp_path):
    full, bare = frame(energy=-1.0, forces=FORCES), frame(energy=-1.0)
    write(tmp_path / "a.xyz", [full, full, bare, full, bare])
    with pytest.raises(InputError, match=r"frame 2: has no REF_forces or forces or force; 2 of 5 frames lack forces"):
        read_labelled(tmp_path / "a.xyz")
    assert [one.forces is None for one in read_labelled(tmp_path / "a.xyz", ["energy"])] == [0, 0, 1, 0, 1]
    path = shard(tmp_path / "a.lmdb", entry(), entry(force=None))
    with pytest.raises(InputError, match="entry 1: has no force or forces; 1 of 2 entries lack forces"):
        read_labelled(path)


@pytest.mark.parametrize(
    ("results", "label", "message"),
    [
        ({"energy": np.nan, "forces": FORCES}, "energy", "the energy is not a finite number, got nan"),
        ({"energy": -1.0, "forces": FORCES * np.nan}, "forces", "forces hold a value that is not a finite number"),
    ],
)
def test_labels_that_are_no_numbers(tmp_path, results, label, message):
    write(tmp_path / "a.xyz", [frame(energy=-1.0, forces=FORCES), frame(**results)])
    other = "forces" if label == "energy" else "energy"
    with pytest.raises(InputError, match=f"frame 1: {message}; 1 of 2 frames lack {label}"):
        read_labelled(tmp_path / "a.xyz")
    found = read_labelled(tmp_path / "a.xyz", [other])
    assert getattr(found[1], label) is None
    assert getattr(found[1], other) is not None


SAID = {
    "stress": (frame(energy=-1.0, forces=FORCES, stress=np.zeros(6), pbc=True), "stresses are not used"),
    "virials": (frame({"virials": np.eye(3)}, energy=-1.0, forces=FORCES), "virials are not used"),
    "weight": (frame({"config_weight": 5.0}, energy=-1.0, forces=FORCES), "config_weight are not used: all structures"),
    "atom": (frame({"config_type": "IsolatedAtom"}, energy=-1.0, forces=FORCES), "config_type is IsolatedAtom"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_not_used_is_said_once(tmp_path, caplog, name):
    atoms, said = SAID[name]
    write(tmp_path / "a.xyz", [frame(energy=-1.0, forces=FORCES), atoms, atoms])
    with caplog.at_level(logging.INFO, "rlpath"):
        assert len(read_labelled(tmp_path / "a.xyz")) == 3
    notes = notes_of(caplog)
    assert len(notes) == (said is not None)
    if said:
        assert f"2 of 3 entries: {said}" in notes[0]


PBC = {
    # fields of a Data, the periodic directions that are read, what is said
    "molecule in a box": ({"pbc": torch.tensor([False] * 3)}, (0, 0, 0), None),
    "slab": ({"pbc": torch.tensor([[True, True, False]])}, (1, 1, 0), None),
    "one for all": ({"pbc": True}, (1, 1, 1), None),
    "not there": ({}, (1, 1, 1), "has no pbc: all directions are taken as periodic"),
    "no cell": ({"cell": torch.zeros(1, 3, 3)}, (0, 0, 0), None),
    "molecule, filled up": ({"cell": torch.eye(3)[None]}, (0, 0, 0), "has no pbc: directions with a lattice vector"),
    "slab, filled up": ({"cell": torch.diag(torch.tensor([6.0, 6, 1]))[None]}, (1, 1, 0), "with a lattice vector of 1"),
}


@pytest.mark.parametrize("name", PBC)
def test_periodic_directions_of_an_lmdb(tmp_path, caplog, name):
    fields, pbc, said = PBC[name]
    with caplog.at_level(logging.INFO, "rlpath"):
        found = read_labelled(shard(tmp_path / "a.lmdb", entry(**fields), entry(**fields)))
    assert [tuple(one.structure.pbc) for one in found] == [pbc] * 2
    notes = notes_of(caplog)
    assert len(notes) == (said is not None)
    assert f"opened {tmp_path / 'a.lmdb'}: 2 structures" in caplog.text
    if said:
        assert "entry 0" in notes[0]
        assert said in notes[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pbc": torch.zeros(6, dtype=torch.bool)}, "pbc has 6 values, expected 3"),
        ({"natoms": 3}, "natoms is 3, and there are 2 atoms"),
        ({"y": torch.tensor([1.0, 2.0])}, "its y is not one number"),
    ],
)
def test_fields_that_cannot_be(tmp_path, fields, message):
    with pytest.raises(InputError, match=f"entry 0: {message}"):
        read_labelled(shard(tmp_path / "a.lmdb", entry(**fields)))


def test_fields_of_an_lmdb(tmp_path, caplog):
    """Those that change nothing are passed over, those that hold something are named; ids are plain text."""
    silent = {
        "edge_index": torch.zeros(2, 0), "cell_offsets": torch.zeros(0, 3), "distances": torch.zeros(0), "oc22": 1,
        "nads": 1, "id": "0_1", "pbc": torch.tensor([[True] * 3]),
    }  # fmt: skip
    path = shard(
        tmp_path / "a.lmdb",
        entry(**silent, sid=torch.tensor(12), fid=torch.tensor([3])),
        entry(**silent, sid="mp-7", fid=0),
        entry(**silent, sid=9, pos_relaxed=torch.zeros(2, 3), y_relaxed=-6.0, stress=torch.zeros(1, 3, 3)),
        entry(**silent, y=torch.tensor(-123456.75, dtype=torch.float32)),
    )
    with caplog.at_level(logging.INFO, "rlpath"):
        found = read_labelled(path)
    assert [one.sid for one in found] == ["12_3", "mp-7_0", "9", "3"]
    assert [note.removeprefix(f"{path}: ") for note in notes_of(caplog)] == [
        "entry 2: stresses are not used",
        "entry 2: fields that are not used: pos_relaxed, y_relaxed",
        "entry 3: energies are float32, which is exact to 0.008 eV here",
    ]
    relaxed = shard(tmp_path / "is2re.lmdb", entry(y=None, force=None, y_init=-5.0, y_relaxed=-6.0))
    with pytest.raises(InputError, match=r"entry 0: has no y or energy, but y_init, y_relaxed"):
        read_labelled(relaxed)
    assert read_labelled(relaxed, ["energy"], energy_key="y_init")[0].energy == -5.0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"charge": -1}, "a charge other than 0"),
        ({"charge": 0.0, "spin": 1}, None),
        ({"spin": 3}, "a spin other than"),
    ],
)
def test_charges_and_spins_are_said(tmp_path, caplog, fields, said):
    shard(tmp_path / "a.lmdb", entry(pbc=True, **fields))
    with connect(tmp_path / "a.db") as database:
        database.write(frame(energy=-1.0, forces=FORCES), data=fields)
    for name in ("a.lmdb", "a.db"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "rlpath"):
            read_labelled(tmp_path / name)
        assert ("of which the models know nothing" in caplog.text) == (said is not None)
        assert said is None or said in caplog.text


def test_both_generations_of_names_in_one_entry(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "rlpath"):
        (found,) = read_labelled(shard(tmp_path / "a.lmdb", entry(energy=-9.0)))
    assert found.energy == -5.0
    assert "energy is there beside y, which is taken" in caplog.text
    assert read_labelled(tmp_path / "a.lmdb", energy_key="energy")[0].energy == -9.0


def ase_lmdb(path):
    from ase.db.row import AtomsRow
    from ase.io.jsonio import encode

    rows = {}
    for n in (1, 2):
        row = AtomsRow(frame(pbc=True))
        value = {key: row[key] for key in ("numbers", "positions", "cell", "pbc")}
        value |= {
            "unique_id": f"{n:032x}",
            "ctime": 0.0,
            "mtime": 0.0,
            "user": "x",
            "key_value_pairs": {"sid": f"om-{n}"},
        }
        value["data"] = {"energy": -5.0 * n, "forces": FORCES, "charge": 1}
        rows[str(n)] = zlib.compress(encode(value).encode())
    put(path, **rows, nextid=zlib.compress(b"3"))
    return path


FORMS = {
    "file.lmdb": lambda p: shard(p, entry(), entry(y=-10.0)),
    "folder": lambda p: shard(p, entry(), entry(y=-10.0)),
    "rows.aselmdb": ase_lmdb,
    "rows.lmdb": ase_lmdb,
    "rows": ase_lmdb,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("inside", [False, True])
def test_forms_of_lmdbs(tmp_path, name, inside):
    """A file, a folder with data.mdb, either in a folder of shards; pickles or rows of ASE: the content decides."""
    folder = tmp_path / "set"
    folder.mkdir()
    path = FORMS[name](folder / name)
    if name in ("folder", "rows"):
        assert (path / "data.mdb").is_file()
    found = read_labelled(folder if inside else path)
    assert [one.energy for one in found] == [-5.0, -10.0]
    np.testing.assert_array_equal(found[1].forces, FORCES)
    assert found[0].structure.pbc.all()
    if "rows" in name:
        assert [one.sid for one in found] == ["om-1", "om-2"]
    opened = open_labelled(folder)
    assert len(opened) == 2
    assert opened[1].energy == -10.0


def test_labels_in_the_data_of_a_database(tmp_path):
    """What ASE has no column for stands in key_value_pairs and data; the numbers are those of ase.db itself."""
    for name in ("a.db", "a.json"):
        with connect(tmp_path / name) as database:
            database.write(frame(), {"total": -4.5, "sid": "x-1"}, data={"forces": FORCES})
        row = connect(tmp_path / name).get(1)
        (found,) = read_labelled(tmp_path / name, energy_key="total")
        assert (found.energy, found.sid) == (row.total, "x-1")
        np.testing.assert_array_equal(found.forces, row.data["forces"])
        with pytest.raises(InputError, match=rf"{name}: .* 0: has no REF_energy or energy or free_energy"):
            read_labelled(tmp_path / name)
    (tmp_path / "bad.db").write_text("no database")
    with pytest.raises(InputError, match=r"bad\.db: not an ASE database"):
        read_labelled(tmp_path / "bad.db")


def test_structures_without_labels(tmp_path):
    """What infer reads: the documented JSON too, which has no place for labels."""
    value = {"numbers": [6, 8], "positions": [[0, 0, 0], [0, 0, 1.15]]}
    (tmp_path / "one.json").write_text(json.dumps([value, value]))
    found = read_labelled(tmp_path / "one.json", ())
    assert [(one.sid, one.energy, one.forces) for one in found] == [("0", None, None), ("1", None, None)]
    path = shard(tmp_path / "bare.lmdb", entry(y=None, force=None))
    assert read_labelled(path, ())[0].energy is None


def test_what_ours_says_of_cell_and_moments(tmp_path):
    """A slab without a third vector keeps none, though FairChem finds one there; moments survive."""
    cell = np.diag([4.0, 5.0, 0.0])
    structure = Structure([26, 8], [[0, 0, 0], [0, 0, 1.6]], cell, [True, True, False], magmoms=[2.0, -1.0])
    write_labelled(tmp_path / "a.lmdb", [Labelled(structure, -1.0, FORCES, "a")])
    (found,) = read_labelled(tmp_path / "a.lmdb")
    np.testing.assert_array_equal(found.structure.cell, cell)
    assert found.structure.magmoms.tolist() == [2.0, -1.0]
    assert found.structure.pbc.tolist() == [True, True, False]


def test_an_lmdb_takes_whole_labels_only(tmp_path):
    with (
        S2EFWriter(tmp_path / "a.lmdb") as writer,
        pytest.raises(InputError, match="an entry needs energy and forces"),
    ):
        writer.add(Labelled(Structure([6], [[0, 0, 0]]), -1.0, None), "x")
    assert write_labelled(tmp_path / "a.xyz", [Labelled(Structure([6], [[0, 0, 0]]), -1.0, None)]) == 1
    assert read_labelled(tmp_path / "a.xyz", ["energy"])[0].forces is None


def test_an_older_entry_of_ours(tmp_path):
    """rlpath 0.2 wrote the periodic directions beside the entry, where FairChem does not look."""
    path = shard(tmp_path / "a.lmdb", entry())
    put(path, **{"meta:0": json.dumps({"sid": "old", "pbc": [True, False, False]}).encode()})
    assert S2EFReader(path)[0].structure.pbc.tolist() == [True, False, False]
    shutil.copy(OC22 / "val.lmdb", tmp_path / "published.lmdb")
    assert all(one.structure.pbc.all() for one in S2EFReader(tmp_path / "published.lmdb"))
