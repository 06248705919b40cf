"""Damaged shards and labels are refused with the file and the entry; conversions between the formats."""

import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from rlpath_core.data import S2EFWriter, open_labelled, read_labelled, write_labelled
from rlpath_core.errors import InputError

OC22 = Path(__file__).parents[2] / "data" / "oc22_emt"


@pytest.fixture
def labelled():
    return read_labelled(OC22 / "val.lmdb")[:4]


def put(path, **values):
    env = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    env.close()


def write(path, labelled):
    with S2EFWriter(path) as writer:
        for one in labelled:
            writer.add(one, one.sid)
    return path


def entry(**changes):
    fields = {
        "pos": torch.zeros(2, 3) + torch.tensor([[0.0], [1.5]]), "cell": torch.zeros(1, 3, 3), "natoms": 2,
        "atomic_numbers": torch.tensor([29, 8]), "y": 1.0, "force": torch.zeros(2, 3),
    }  # fmt: skip
    return pickle.dumps(Data(**{**fields, **changes}), protocol=-1)


def test_what_fairchem_wrote(labelled):
    """Both generations of its field names, the fixed atoms and the tags."""
    shards = read_labelled(OC22 / "train")
    assert len(shards) == 36
    assert {len(one.structure) for one in shards} == {9, 10}
    for one in (shards[0], shards[-1]):
        assert one.structure.fixed.sum() == 4
        assert set(one.structure.tags) == {0, 1, 2}
        assert 0.01 < np.abs(one.forces).max() < 20


def test_opened_lmdbs_read_what_is_asked_for(tmp_path, labelled):
    """A damaged entry that nobody asks for stops nobody."""
    path = write(tmp_path / "a.lmdb", labelled)
    put(path, **{"1": b"damaged"})
    opened = open_labelled(tmp_path)
    assert len(opened) == 4
    assert opened[-1].energy == labelled[3].energy
    assert [one.energy for one in opened[2:]] == [one.energy for one in labelled[2:]]
    with pytest.raises(InputError, match="entry 1: not a readable pickle"):
        opened[1]
    with pytest.raises(IndexError):
        opened[4]


@pytest.mark.parametrize(
    ("length", "message"), [(5, "entry 4: there is no such entry, though length says 5"), (3, "says 3, and there is")]
)
def test_shard_of_a_wrong_length(tmp_path, labelled, length, message):
    write(tmp_path / "0.lmdb", labelled)
    write(tmp_path / "1.lmdb", labelled)
    put(tmp_path / "1.lmdb", length=pickle.dumps(length))
    with pytest.raises(InputError, match=rf"1\.lmdb: .*{message}"):
        open_labelled(tmp_path)


def test_truncated_shard(tmp_path, labelled):
    write(tmp_path / "0.lmdb", labelled)
    whole = write(tmp_path / "1.lmdb", labelled).read_bytes()
    (tmp_path / "1.lmdb").write_bytes(whole[:20480])
    with pytest.raises(InputError, match=r"1\.lmdb: is truncated"):
        open_labelled(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": float("nan")}, "the energy is not a finite number"),
        ({"force": torch.full((2, 3), float("inf"))}, "forces hold a value that is not a finite number"),
        ({"force": torch.zeros(3, 3)}, r"forces have shape \(3, 3\), expected \(2, 3\)"),
        ({"pos": torch.zeros(3, 3)}, r"positions has shape \(3, 3\), expected \(2, 3\)"),
        ({"atomic_numbers": torch.tensor([29, 119])}, "atomic numbers lie between 1 and 118"),
        ({"y": None}, "has no y"),
    ],
)
def test_labels_of_an_lmdb_that_are_none(tmp_path, changes, message):
    put(tmp_path / "a.lmdb", **{"0": entry(), "1": entry(**changes), "length": pickle.dumps(2)})
    with pytest.raises(InputError, match=rf"a\.lmdb: entry 1: {message}"):
        read_labelled(tmp_path / "a.lmdb")


def test_metadata_of_another_version(tmp_path, labelled):
    write(tmp_path / "a.lmdb", labelled)
    put(tmp_path / "a.lmdb", rlpath=b'{"schema_version": 2}')
    with pytest.raises(InputError, match="rlpath: is of schema version 2; this rlpath reads 1"):
        read_labelled(tmp_path / "a.lmdb")


@pytest.mark.parametrize("name", ["b.lmdb", "b.db", "b.extxyz"])
def test_conversion_keeps_everything(tmp_path, labelled, name):
    assert write_labelled(tmp_path / name, labelled) == 4
    for a, b in zip(read_labelled(tmp_path / name), labelled, strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)
        np.testing.assert_allclose(a.structure.positions, b.structure.positions, atol=1e-6)
        np.testing.assert_array_equal(a.structure.numbers, b.structure.numbers)
        np.testing.assert_array_equal(a.structure.tags, b.structure.tags)
        np.testing.assert_array_equal(a.structure.fixed, b.structure.fixed)
        np.testing.assert_array_equal(a.structure.pbc, b.structure.pbc)
        assert a.energy == pytest.approx(b.energy, abs=1e-7)
        assert a.sid == b.sid
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="is there already"):
        write_labelled(tmp_path / name, labelled[:1])
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob(".*"))
