"""A finished run is returned, and an unfinished one goes on, only where its inputs hold what they held."""

import json
import os
import shutil

import pytest

from rlpath_core.data import S2EFWriter, read_labelled, write_extxyz
from rlpath_core.errors import InputError
from rlpath_core.training import inputs as module
from rlpath_core.training import train
from rlpath_core.training.inputs import Inputs, digest_of

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(small, tmp_path):
    """The small data set, in a folder that a test may change."""
    shutil.copytree(small, tmp_path / "data")
    return tmp_path / "data"


def of(configure, copied, run_dir, **parts):
    data = {"train": str(copied / "train.xyz"), "val": str(copied / "val.xyz"), **parts.pop("data", {})}
    knobs = {"input_json": str(copied / "model.json"), "epochs": 1, **parts.pop("train", {})}
    return configure(run_dir, data=data, train=knobs, **parts)


@pytest.mark.parametrize("name", ["train.xyz", "val.xyz", "model.json", "chosen.json", "replay.xyz"])
def test_an_input_that_changed_is_named(configure, copied, tmp_path, name):
    (copied / "chosen.json").write_text("[0, 1, 2, 3]")
    write_extxyz(copied / "replay.xyz", read_labelled(copied / "val.xyz"))
    more = {"indices_path": str(copied / "chosen.json"), "replay": str(copied / "replay.xyz")}
    spec = of(configure, copied, tmp_path / "run", data=more)
    done = train(spec)
    before = (copied / name).read_bytes()
    key = {"train.xyz": "data.train", "val.xyz": "data.val", "model.json": "train.input_json"}.get(name)
    key = key or {"chosen.json": "data.indices_path", "replay.xyz": "data.replay"}[name]
    (copied / name).write_bytes(before.replace(b"0", b"1", 1) if name != "chosen.json" else b"[0, 1, 2, 5]")
    for finished in (True, False):
        if not finished:
            (tmp_path / "run" / "result.json").unlink()
        with pytest.raises(InputError, match=rf"run: {key} holds something else"):
            train(spec)
    (copied / name).write_bytes(before)  # put back, with another time
    assert train(spec).digest == done.digest


def test_a_file_that_was_touched_or_is_gone_is_no_change(configure, copied, tmp_path, monkeypatch):
    spec = of(configure, copied, tmp_path / "run")
    done = train(spec)
    monkeypatch.setattr(module, "digest_of", lambda path: pytest.fail(f"{path} was read again"))
    assert train(spec) == done
    monkeypatch.undo()
    os.utime(copied / "train.xyz")
    assert train(spec) == done
    (copied / "train.xyz").unlink()
    assert train(spec) == done


def test_shards_and_the_model_that_is_fine_tuned(configure, copied, tmp_path):
    with S2EFWriter(copied / "shards" / "0.lmdb") as writer:
        for one in read_labelled(copied / "train.xyz"):
            writer.add(one, one.sid)
    data = {"train": str(copied / "shards")}
    first = train(of(configure, copied, tmp_path / "a", data=data))
    spec = of(configure, copied, tmp_path / "b", data=data, task="finetune", model_in=str(tmp_path / "a"))
    done = train(spec)
    with S2EFWriter(copied / "shards" / "0.lmdb") as writer:
        again = read_labelled(copied / "train.xyz")[0]
        assert writer.add(again, again.sid) == 0  # is there already: nothing is added
    assert train(spec) == done
    manifest = json.loads(first.manifest.read_text())
    first.manifest.write_text(json.dumps(manifest | {"config": {**manifest["config"], "global_step": 99}}))
    with pytest.raises(InputError, match="model_in holds something else"):
        train(spec)
    first.manifest.write_text(json.dumps(manifest, indent=2) + "\n")
    with S2EFWriter(copied / "shards" / "1.lmdb") as writer:
        writer.add(read_labelled(copied / "val.xyz")[0], "0")
    with pytest.raises(InputError, match=r"data\.train holds something else"):
        train(spec)


def test_a_run_of_an_older_version_goes_on(configure, copied, tmp_path, caplog):
    spec = of(configure, copied, tmp_path / "run")
    done = train(spec)
    (tmp_path / "run" / "inputs.json").unlink()
    with caplog.at_level("INFO", "rlpath"):
        assert train(spec) == done
    assert "cannot be told" in caplog.text


def test_very_large_files_are_known_by_time_size_and_blocks(configure, copied, tmp_path, monkeypatch):
    path = copied / "train.xyz"
    whole = digest_of(path)
    monkeypatch.setattr(module, "WHOLE", 100)
    monkeypatch.setattr(module, "BLOCK", 8)
    found = digest_of(path)
    assert found != whole
    assert digest_of(path) == found
    os.utime(path, ns=(1, 1))
    assert digest_of(path) != found


def test_inputs_json_that_is_damaged(configure, copied, tmp_path):
    spec = of(configure, copied, tmp_path / "run")
    train(spec)
    (tmp_path / "run" / "inputs.json").write_text("{")
    with pytest.raises(InputError, match=r"inputs\.json: is damaged"):
        train(spec)


def test_config_of_fairchem_counts_without_its_comments(copied, tmp_path):
    from rlpath_core.training.options import RunSpec

    (tmp_path / "base.yml").write_text("optim: {lr_initial: 0.1}\n")
    (tmp_path / "c.yml").write_text("includes: [base.yml]\ntrainer: ocp\n")
    value = {"backend": "gemnet_oc", "task": "train", "run_dir": tmp_path / "run"}
    value |= {"data": {"train": copied / "train.xyz"}, "train": {"config_yml": tmp_path / "c.yml"}}
    spec = RunSpec.model_validate(value)
    Inputs.of(spec).write(tmp_path / "run")
    (tmp_path / "base.yml").write_text("# slower\noptim: {lr_initial: 0.1}\n")
    assert Inputs.of(spec).changed(tmp_path / "run") is None
    (tmp_path / "base.yml").write_text("optim: {lr_initial: 0.2}\n")
    assert Inputs.of(spec).changed(tmp_path / "run") == "train.config_yml"
