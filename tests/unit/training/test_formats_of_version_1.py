"""Files of version 1 in tests/data/formats_1 are read by whatever version this is."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.architecture import read_architecture
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.data import S2EFWriter, read_labelled
from rlpath_core.errors import InputError
from rlpath_core.training import run
from rlpath_core.training.checkpoint import load_checkpoint, save_checkpoint

FOLDER = Path(__file__).parents[2] / "data" / "formats_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_manifest_model_json_and_weights():
    assert read_manifest(FOLDER / "artifacts").schema_version == 1
    assert read_architecture(FOLDER / "artifacts" / "model.json").z_table == [1, 8, 29]
    structures = [one.structure for one in read_labelled(FOLDER / "labels.lmdb")]
    found = [answer.energy for answer in load_model(FOLDER / "artifacts").predict(structures)]
    assert found == pytest.approx(EXPECTED["energies"], abs=1e-4)


def test_lmdb_metadata(tmp_path):
    assert [one.energy for one in read_labelled(FOLDER / "labels.lmdb")] == EXPECTED["labels"]
    shutil.copy(FOLDER / "labels.lmdb", tmp_path / "more.lmdb")
    with S2EFWriter(tmp_path / "more.lmdb") as writer:
        again = read_labelled(FOLDER / "labels.lmdb")[1]
        assert writer.add(again, "1") == 1  # the keys of the old file are known
        assert writer.add(again, "new") == 4
    assert len(read_labelled(tmp_path / "more.lmdb")) == 5


def test_checkpoint_goes_on(configure, tmp_path):
    data = {"train": str(FOLDER / "labels.lmdb"), "val": str(FOLDER / "labels.lmdb")}
    knobs = {"epochs": 3, "lr": 0.001, "input_json": None}
    spec = configure(tmp_path / "run", task="resume", model_in=str(FOLDER / "checkpoint.pt"), data=data, train=knobs)
    before = (FOLDER / "checkpoint.pt").read_bytes()
    assert run(spec).metrics["global_step"] == 6
    assert (FOLDER / "checkpoint.pt").read_bytes() == before


def test_checkpoint_of_a_later_version(tmp_path):
    state = load_checkpoint(FOLDER / "checkpoint.pt")
    save_checkpoint(tmp_path / "new.pt", {**state, "schema_version": 2})
    with pytest.raises(InputError, match="not a checkpoint of schema 1"):
        load_checkpoint(tmp_path / "new.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "list.pt")
