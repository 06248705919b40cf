"""Bundles that are damaged or hostile are refused with one clear line, and nothing in them is run."""

import json
import pickle
import shutil

import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.architecture import Architecture, ScaleShift, read_architecture
from rlpath_core.backends.mace.build import build, state_of
from rlpath_core.backends.mace.bundle import load_state, write_bundle
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    architecture = Architecture(
        z_table=[1, 8],
        e0_values=[-1.0, -2.0],
        cutoff=4.0,
        hidden_irreps="4x0e",
        max_ell=1,
        avg_num_neighbors=5.0,
        scale_shift=ScaleShift(scale=1.0, shift=0.0),
    )
    net = build(architecture, torch.float32)
    write_bundle(folder, architecture, state_of(net, architecture), head="Default", dtype="float32")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of a bundle, to be damaged."""
    return shutil.copytree(written, tmp_path / "bundle")


def change(folder, **parts):
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    for key, new in parts.items():
        value[key] = {**value[key], **new} if isinstance(new, dict) else new
    path.write_text(json.dumps(value))
    return path


def test_round_trip(folder):
    manifest = read_manifest(folder)
    assert manifest.weights.sha256 == sha256_of(folder / "best_model.pt")
    model = load_model(folder)
    assert model.digest == sha256_of(folder / "manifest.json")
    assert model.elements == {1, 8}


def test_weights_with_another_digest(folder):
    (folder / "best_model.pt").write_bytes((folder / "best_model.pt").read_bytes() + b"x")
    with pytest.raises(InputError, match=r"manifest.json: weights.sha256: best_model.pt has another digest"):
        load_model(folder)


def test_changed_model_json(folder):
    path = folder / "model.json"
    path.write_text(path.read_text().replace("4.0", "4.5"))
    with pytest.raises(InputError, match="another digest"):
        load_model(folder)


@pytest.mark.parametrize("path", ["../best_model.pt", "/etc/passwd", "a/../../b"])
def test_path_outside_the_folder(folder, path):
    with pytest.raises(InputError, match="inside the manifest's folder"):
        load_model(change(folder, weights={"path": path}))


def test_link_that_leads_outside(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "best_model.pt"
    (folder / "best_model.pt").rename(outside)
    (folder / "best_model.pt").symlink_to(outside)
    with pytest.raises(InputError, match="outside the manifest's folder"):
        load_model(folder)


def test_unknown_key_and_version(folder):
    with pytest.raises(InputError, match="Did you mean 'weights'"):
        load_model(change(folder, weight="x"))


def test_other_schema_version(folder):
    with pytest.raises(InputError, match="schema_version"):
        load_model(change(folder, schema_version=7))


def test_weights_that_would_run_code(folder, tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-run"), "w"))

    for data in (pickle.dumps(Bad()), None):
        if data is None:
            torch.save({"a": Bad()}, folder / "bad.pt")
        else:
            (folder / "bad.pt").write_bytes(data)
        with pytest.raises(InputError, match="never run"):
            load_model(folder, weights=folder / "bad.pt")
    assert not (tmp_path / "was-run").exists()


def test_truncated_weights(folder):
    data = (folder / "best_model.pt").read_bytes()
    (folder / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_state(folder / "half.pt")


def test_weights_of_another_network(folder):
    state = load_state(folder / "best_model.pt")
    state.pop(next(iter(state)))
    torch.save(state, folder / "other.pt")
    with pytest.raises(InputError, match=r"do not fit model\.json"):
        load_model(folder, weights=folder / "other.pt")


@pytest.mark.parametrize(
    ("change_to", "message"),
    [
        ({"z_table": [8, 1]}, "ascending"),
        ({"e0_values": [-1.0]}, "one value per element"),
        ({"cutof": 3.0}, "Did you mean 'cutoff'"),
        ({"readouts": [{"type": "LinearReadoutBlock"}]}, "readouts has 1 entries, expected 2"),
        ({"interactions": [{"type": "Nonsense"}, {}]}, "interactions.0.type"),
    ],
)
def test_model_json_errors_name_the_key(folder, change_to, message):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change_to}))
    with pytest.raises(InputError, match=message):
        read_architecture(path)
