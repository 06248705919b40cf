"""LMDB in the OC20 form, extxyz, ASE-LMDB; whatever is damaged or hostile is refused."""

import json
import os
import pickle
import subprocess
import zlib

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from rlpath_core.data import Labelled, S2EFReader, S2EFWriter, read_labelled, write_extxyz
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure


def sample(n=3, seed=0, pbc=(True, True, True)):
    generator = np.random.default_rng(seed)
    cell = np.array([[4.0, 0, 0], [1.0, 4.2, 0], [0, 0, 15.0]]) if any(pbc) else np.zeros((3, 3))
    found = []
    for i in range(n):
        size = 3 + i
        structure = Structure(
            generator.choice([1, 8, 12], size),
            generator.uniform(0, 4, (size, 3)),
            cell,
            np.array(pbc),
            np.arange(size) % 3,
            np.arange(size) % 2 == 0,
        )
        found.append(Labelled(structure, -1338.958632642 - i, generator.normal(size=(size, 3)), f"job-{i}"))
    return found


def same(a, b, single=True):
    places = 1e-5 if single else 1e-8
    np.testing.assert_array_equal(a.structure.numbers, b.structure.numbers)
    np.testing.assert_array_equal(a.structure.tags, b.structure.tags)
    np.testing.assert_array_equal(a.structure.fixed, b.structure.fixed)
    np.testing.assert_array_equal(a.structure.pbc, b.structure.pbc)
    np.testing.assert_allclose(a.structure.positions, b.structure.positions, atol=places)
    np.testing.assert_allclose(a.structure.cell, b.structure.cell, atol=places)
    np.testing.assert_allclose(a.forces, b.forces, atol=places)
    assert a.energy == pytest.approx(b.energy, abs=1e-9)
    assert a.sid == b.sid


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_lmdb_round_trip(tmp_path, pbc):
    data = sample(pbc=pbc)
    with S2EFWriter(tmp_path / "a.lmdb") as writer:
        assert [writer.add(one, one.sid) for one in data] == [0, 1, 2]
    for a, b in zip(read_labelled(tmp_path / "a.lmdb"), data, strict=True):
        same(a, b)


def test_lmdb_adding_a_key_again_changes_nothing(tmp_path):
    data = sample()
    for _ in range(2):
        with S2EFWriter(tmp_path / "a.lmdb") as writer:
            assert [writer.add(one, one.sid) for one in [*data, data[1]]] == [0, 1, 2, 1]
    assert len(S2EFReader(tmp_path / "a.lmdb")) == 3


def test_lmdb_values_are_what_fairchem_reads(tmp_path):
    """Plain pickle, as FairChem opens them: real PyG Data, the OC20 names, shapes and types."""
    import torch
    from torch_geometric.data import Batch, Data

    data = sample()
    with S2EFWriter(tmp_path / "a.lmdb") as writer:
        for one in data:
            writer.add(one, one.sid)
    env = lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, readonly=True, lock=False)
    with env.begin() as transaction:
        assert pickle.loads(transaction.get(b"length")) == 3
        values = [pickle.loads(transaction.get(f"{i}".encode("ascii"))) for i in range(3)]
    env.close()
    assert all(type(v) is Data for v in values)
    assert values[0].cell.shape == (1, 3, 3)
    assert values[0].pos.dtype == values[0].force.dtype == torch.float32
    assert values[0].y == data[0].energy
    assert set(values[0].to_dict()) >= {
        "pos",
        "cell",
        "atomic_numbers",
        "natoms",
        "tags",
        "fixed",
        "y",
        "force",
        "sid",
        "fid",
    }
    batch = Batch.from_data_list(values)
    assert batch.pos.shape == (12, 3)
    assert batch.sid.tolist() == [0, 1, 2]


def test_lmdb_grows_past_its_first_map(tmp_path, monkeypatch):
    monkeypatch.setattr("rlpath_core.data.lmdb.FIRST_MAP_SIZE", 1 << 16)
    data = sample(40)
    with S2EFWriter(tmp_path / "a.lmdb") as writer:
        for one in data:
            writer.add(one, one.sid)
    assert [one.sid for one in read_labelled(tmp_path / "a.lmdb")] == [one.sid for one in data]


@pytest.mark.slow
def test_lmdb_kill_leaves_whole_entries(tmp_path, program):
    with S2EFWriter(tmp_path / "whole.lmdb") as writer:
        for one in sample(8):
            writer.add(one, one.sid)
    command = program("killed_writer", tmp_path / "whole.lmdb", tmp_path / "a.lmdb")
    done = subprocess.run(command, check=False, timeout=120)
    assert done.returncode == -9
    assert len(read_labelled(tmp_path / "a.lmdb")) == 5
    with S2EFWriter(tmp_path / "a.lmdb") as writer:
        assert [writer.add(one, one.sid) for one in sample(8)] == list(range(8))


def test_reader_is_a_sequence_and_survives_fork_and_pickle(tmp_path):
    data = sample(5)
    with S2EFWriter(tmp_path / "a.lmdb") as writer:
        for one in data:
            writer.add(one, one.sid)
    reader, other = S2EFReader(tmp_path / "a.lmdb"), S2EFReader(tmp_path / "a.lmdb")
    assert reader[-1].sid == other[4].sid == "job-4"
    assert [one.sid for one in reader[1:3]] == ["job-1", "job-2"]
    with pytest.raises(IndexError):
        reader[5]
    assert pickle.loads(pickle.dumps(reader))[0].sid == "job-0"
    child = os.fork()
    if child == 0:
        ok = reader[2].sid == "job-2"
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader[3].sid == "job-3"


def test_folder_of_shards(tmp_path):
    for name, seed in (("b.lmdb", 1), ("a.lmdb", 2)):
        with S2EFWriter(tmp_path / name) as writer:
            for one in sample(2, seed):
                writer.add(one, one.sid)
    found = read_labelled(tmp_path)
    assert len(found) == 4
    same(found[0], sample(2, 2)[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        read_labelled(tmp_path / "empty")


def put(path, **values):
    env = lmdb.open(str(path), subdir=False, map_size=1 << 22)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    env.close()


class Bad:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_would_run_code(tmp_path, protocol):
    marker = tmp_path / "was-run"
    put(tmp_path / "a.lmdb", **{"0": pickle.dumps(Bad(marker), protocol), "length": pickle.dumps(1)})
    with pytest.raises(InputError, match=r"entry 0: its pickle names (_?io|builtins)\.open"):
        read_labelled(tmp_path / "a.lmdb")
    put(tmp_path / "b.lmdb", length=pickle.dumps(Bad(marker), protocol))
    with pytest.raises(InputError, match="length: its pickle names"):
        read_labelled(tmp_path / "b.lmdb")
    assert not marker.exists()


def test_code_hidden_in_a_tensor_storage(tmp_path):
    """torch's own way of pickling a tensor hands bytes to torch.load: these too are read with weights_only."""
    import io

    import torch

    marker, buffer = tmp_path / "was-run", io.BytesIO()
    torch.save(Bad(marker), buffer, _use_new_zipfile_serialization=False)

    class Hidden:
        def __reduce__(self):
            return (torch.storage._load_from_bytes, (buffer.getvalue(),))

    put(tmp_path / "a.lmdb", **{"0": pickle.dumps(Hidden()), "length": pickle.dumps(1)})
    with pytest.raises(InputError, match="entry 0"):
        read_labelled(tmp_path / "a.lmdb")
    assert not marker.exists()


def test_damaged_lmdbs(tmp_path):
    (tmp_path / "text.lmdb").write_text("no LMDB at all" * 1000)
    with pytest.raises(InputError, match="not a readable LMDB"):
        read_labelled(tmp_path / "text.lmdb")
    with S2EFWriter(tmp_path / "a.lmdb") as writer:
        for one in sample(30):
            writer.add(one, one.sid)
    whole = (tmp_path / "a.lmdb").read_bytes()
    (tmp_path / "half.lmdb").write_bytes(whole[: 4096 * 10])
    with pytest.raises(InputError, match="truncated"):
        read_labelled(tmp_path / "half.lmdb")
    put(tmp_path / "a.lmdb", length=pickle.dumps(31))
    with pytest.raises(InputError, match="entry 30: there is no such entry"):
        read_labelled(tmp_path / "a.lmdb")
    with pytest.raises(InputError, match="no such file"):
        read_labelled(tmp_path / "none.lmdb")


@pytest.mark.parametrize(
    ("energy", "forces", "message"),
    [
        (float("nan"), np.zeros((2, 3)), "not a finite number"),
        (1.0, np.full((2, 3), np.inf), "not a finite number"),
        (1.0, np.zeros((3, 3)), r"shape \(3, 3\), expected \(2, 3\)"),
        ("x", np.zeros((2, 3)), "not numbers"),
    ],
)
def test_labels_that_are_none(energy, forces, message):
    structure = Structure(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.8]]))
    with pytest.raises(InputError, match=message):
        Labelled(structure, energy, forces)


def test_extxyz_round_trip_and_constraints(tmp_path):
    """Forces of fixed atoms are the reference's own: constraints do not zero them."""
    atoms = Atoms("OH2", [[0, 0, 0], [0.95, 0, 0], [0, 0.95, 0]], constraint=FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=-3.25, forces=np.arange(9).reshape(3, 3) + 1.0)
    write(tmp_path / "a.xyz", [atoms] * 2, format="extxyz")
    found = read_labelled(tmp_path / "a.xyz")
    assert len(found) == 2
    assert found[0].energy == -3.25
    np.testing.assert_allclose(found[0].forces, np.arange(9).reshape(3, 3) + 1.0)
    assert found[0].structure.fixed.tolist() == [True, False, False]
    write_extxyz(tmp_path / "b.xyz", found)
    for a, b in zip(read_labelled(tmp_path / "b.xyz"), found, strict=True):
        same(a, b, single=False)


def test_extxyz_without_labels_names_the_frame(tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [0.95, 0, 0]])
    bare = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((2, 3)))
    write(tmp_path / "a.xyz", [atoms, bare], format="extxyz")
    with pytest.raises(InputError, match="frame 1"):
        read_labelled(tmp_path / "a.xyz")


def test_aselmdb(tmp_path):
    from ase.db.row import AtomsRow
    from ase.io.jsonio import encode

    rows = {}
    for n in (1, 2, 3):
        atoms = Atoms("OH", [[0, 0, 0], [0.9 + n / 10, 0, 0]], cell=[5, 5, 9], pbc=[1, 1, 0], constraint=FixAtoms([1]))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * n, forces=np.full((2, 3), n, float))
        row = AtomsRow(atoms)
        value = {key: row[key] for key in ("numbers", "positions", "cell", "pbc", "energy", "forces")}
        value |= {
            "unique_id": f"{n:032x}",
            "ctime": 0.0,
            "mtime": 0.0,
            "user": "x",
            "constraints": [c.todict() for c in row.constraints],
        }
        rows[str(n)] = zlib.compress(encode(value).encode())
    put(tmp_path / "a.aselmdb", **rows, nextid=zlib.compress(b"4"), deleted_ids=zlib.compress(json.dumps([2]).encode()))
    found = read_labelled(tmp_path / "a.aselmdb")
    assert [one.energy for one in found] == [-1.0, -3.0]
    assert found[1].structure.positions[1, 0] == pytest.approx(1.2)
    assert found[0].structure.pbc.tolist() == [True, True, False]
    assert found[0].structure.fixed.tolist() == [False, True]
