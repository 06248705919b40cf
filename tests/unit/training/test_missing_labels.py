"""Data with energies or forces alone, and labels by name: what the loss does not use need not be there."""

import json
import logging
import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from ase.io import read, write
from torch_geometric.data import Data

from rlpath_core.backends import load_model
from rlpath_core.data import read_labelled, write_labelled
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.training import run, train
from rlpath_core.training.losses import POINT_LOSSES, EnergyForceLoss

pytestmark = pytest.mark.slow

CASES = Path(__file__).parents[2] / "data" / "cases" / "training"
UNUSED = {"energy": "energy_weight", "forces": "force_weight"}
KEYS = {"energy": ("energy_mae", "energy_rmse_per_atom"), "forces": ("force_mae", "force_cosine")}


@pytest.fixture(scope="module")
def complete(small, tmp_path_factory):
    """The model.json of ``small`` with all that is otherwise taken from the labels."""
    path = tmp_path_factory.mktemp("complete") / "model.json"
    given = json.loads((small / "model.json").read_text())
    statistics = {"e0_values": [0.5, 1.0, 2.0], "scale_shift": {"scale": 0.8, "shift": 0.1}}
    path.write_text(json.dumps(given | statistics))
    return path


@pytest.fixture(scope="module")
def without(small, tmp_path_factory):
    """``without(label)``: the data of ``small`` without that label."""
    folder = tmp_path_factory.mktemp("without")
    for label in UNUSED:
        for name in ("train.xyz", "val.xyz"):
            images = read(small / name, ":")
            for atoms in images:
                del atoms.calc.results[label]
            (folder / label).mkdir(exist_ok=True)
            write(folder / label / name, images)
    return lambda label: {split: str(folder / label / f"{split}.xyz") for split in ("train", "val")}


def weights(result):
    return torch.load(result.manifest.with_name("best_model.pt"), weights_only=True)


@pytest.mark.parametrize("label", UNUSED)
def test_a_label_without_weight_changes_nothing_when_it_is_gone(configure, complete, without, tmp_path, caplog, label):
    """The same weights to the last bit, and metrics that lack what cannot be measured, and say so."""
    knobs = {"input_json": str(complete), UNUSED[label]: 0.0, "epochs": 1}
    there = train(configure(tmp_path / "there", train=knobs))
    with caplog.at_level(logging.INFO, "rlpath"):
        gone = train(configure(tmp_path / "gone", train=knobs, data=without(label)))
    one, other = weights(there), weights(gone)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    left_out = {key for key in there.metrics if key.startswith(label.removesuffix("s"))}
    assert left_out > set(KEYS[label])
    assert set(there.metrics) - set(gone.metrics) == left_out
    for key in set(gone.metrics) - {"seconds"}:
        assert gone.metrics[key] == there.metrics[key]
    for split, n in (("train", 8), ("val", 4)):
        assert f"{split}.xyz: {n} of {n} structures lack {label}: none is used or measured" in caplog.text


@pytest.mark.parametrize("label", UNUSED)
def test_a_label_with_weight_must_be_there(configure, without, tmp_path, label):
    with pytest.raises(InputError, match=rf"frame 0: .*; 8 of 8 frames lack {label}: train.{UNUSED[label]}: 0 trains"):
        train(configure(tmp_path / "run", data=without(label)))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_some_frames_without_forces(configure, small, tmp_path):
    """Refused with the frame in the file and how many there are; frames that are not chosen do not matter."""
    images = read(small / "train.xyz", ":")
    for n in (3, 5):
        del images[n].calc.results["forces"]
    write(tmp_path / "mixed.xyz", images)
    data = {"train": str(tmp_path / "mixed.xyz")}
    with pytest.raises(InputError, match=r"mixed\.xyz: frame 3: .*; 2 of 8 frames lack forces"):
        train(configure(tmp_path / "a", data=data))
    with pytest.raises(InputError, match=r"mixed\.xyz: frame 5: .*; 1 of 2 frames lack forces"):
        train(configure(tmp_path / "b", data={**data, "indices": [0, 5]}))
    assert train(configure(tmp_path / "c", data={**data, "indices": [0, 1]})).metrics["force_mae"] > 0


def test_statistics_without_a_label(configure, without, tmp_path):
    """Without energies those of free atoms are 0; without forces the scale is the spread of the energies."""
    energies = train(configure(tmp_path / "e", data=without("forces"), train={"force_weight": 0, "epochs": 1}))
    labelled = read_labelled(without("forces")["train"], ["energy"])
    counts = np.array([[np.sum(one.structure.numbers == z) for z in (1, 8, 29)] for one in labelled])
    totals = np.array([one.energy for one in labelled])
    e0s = np.linalg.lstsq(counts, totals, rcond=None)[0]
    left = (totals - counts @ e0s) / counts.sum(axis=1)
    found = json.loads(energies.manifest.with_name("model.json").read_text())
    assert found["scale_shift"]["scale"] == pytest.approx(np.std(left), rel=1e-6)
    assert found["scale_shift"]["shift"] == pytest.approx(np.mean(left), abs=1e-9)
    forces = train(configure(tmp_path / "f", data=without("energy"), train={"energy_weight": 0, "epochs": 1}))
    found = json.loads(forces.manifest.with_name("model.json").read_text())
    assert found["e0_values"] == [0.0] * 3
    assert found["scale_shift"]["shift"] == 0.0
    with pytest.raises(InputError, match=r"train\.e0s: lstsq fits energies"):
        train(configure(tmp_path / "g", data=without("energy"), train={"energy_weight": 0, "e0s": "lstsq"}))


def test_the_loss_of_what_is_not_there():
    """A missing target is no target of zero."""
    loss = EnergyForceLoss(2.0, 3.0, POINT_LOSSES["mse"], POINT_LOSSES["mse"], 0.05)
    energy, forces = torch.tensor([4.0, 8.0]), torch.ones(4, 3)
    sizes = torch.tensor([2.0, 2.0])
    energies_alone = loss(energy, forces, {"n_atoms": sizes, "energy": torch.zeros(2)}, 2, 4)
    forces_alone = loss(energy, forces, {"n_atoms": sizes, "forces": torch.zeros(4, 3)}, 2, 4)
    assert [float(part) for part in energies_alone] == [20.0, 10.0, 0.0]
    assert [float(part) for part in forces_alone] == [3.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def model(configure, tmp_path_factory):
    return train(configure(tmp_path_factory.mktemp("model") / "run", train={"epochs": 1})).manifest


def test_evaluate_what_is_there(configure, model, without, small, tmp_path, caplog):
    full = evaluate(load_model(model), read_labelled(small / "val.xyz"))

    def measured(name, **parts):
        return run(configure(tmp_path / name, task="evaluate", model_in=str(model), **parts))

    with pytest.raises(InputError, match=r"frame 0: .*; 4 of 4 frames lack forces: eval.energy_only: true leaves them"):
        measured("a", data={"test": without("forces")["val"]})
    energies = measured("b", data={"test": without("forces")["val"]}, eval={"energy_only": True})
    assert energies["energy_mae"] == pytest.approx(full["energy_mae"])
    assert "force_mae" not in energies
    with caplog.at_level(logging.INFO, "rlpath"):
        forces = measured("c", data={"test": without("energy")["val"]})
    assert forces["force_mae"] == pytest.approx(full["force_mae"])
    assert "energy_mae" not in forces
    assert "val.xyz: no energies: their errors are left out" in caplog.text
    assert (tmp_path / "c" / "parity.png").is_file()
    images = read(small / "val.xyz", ":")
    del images[2].calc.results["energy"]
    write(tmp_path / "mixed.xyz", images)
    with pytest.raises(InputError, match=r"mixed\.xyz: frame 2: .*; 1 of 4 frames lack energy"):
        measured("d", data={"test": str(tmp_path / "mixed.xyz")})


def test_infer_on_an_lmdb_without_labels(configure, model, small, tmp_path):
    """The same predictions as with labels, which are not needed, and the ids of the entries."""
    labelled = read_labelled(small / "val.xyz")
    env = lmdb.open(str(tmp_path / "bare.lmdb"), subdir=False, map_size=1 << 22)
    with env.begin(write=True) as transaction:
        transaction.put(b"length", pickle.dumps(4))
        for n, s in enumerate(one.structure for one in labelled):
            arrays = {"pos": s.positions, "cell": s.cell, "atomic_numbers": s.numbers, "pbc": s.pbc}
            fields = {name: torch.tensor(array) for name, array in arrays.items()}
            transaction.put(str(n).encode(), pickle.dumps(Data(**fields, natoms=len(s), sid=f"s-{n}"), protocol=-1))
    env.close()
    given = {"task": "infer", "model_in": str(model), "data": {"test": str(tmp_path / "bare.lmdb")}}
    predicted = read(run(configure(tmp_path / "run", **given)), ":")
    assert [atoms.info["sid"] for atoms in predicted] == [f"s-{n}" for n in range(4)]
    expected = load_model(model).predict([one.structure for one in labelled])
    for atoms, one in zip(predicted, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(one.energy, abs=1e-4)
    with pytest.raises(InputError, match=r"bare\.lmdb: entry 0: has no force or forces; 4 of 4 entries"):
        run(configure(tmp_path / "no", **(given | {"task": "evaluate"})))


def test_labels_by_name_train_as_those_of_the_usual_name(configure, small, tmp_path):
    for name in ("train.xyz", "val.xyz"):
        images = read(small / name, ":")
        for atoms in images:
            atoms.info["dft"] = atoms.calc.results["energy"]
            atoms.arrays["dft_forces"] = atoms.calc.results["forces"]
            atoms.calc.results = {"energy": 1.0, "forces": np.ones((len(atoms), 3))}
        write(tmp_path / name, images)
    named = {split: str(tmp_path / f"{split}.xyz") for split in ("train", "val")}
    usual = train(configure(tmp_path / "usual", train={"epochs": 1}))
    data = {**named, "energy_key": "dft", "forces_key": "dft_forces"}
    one, other = weights(usual), weights(train(configure(tmp_path / "named", train={"epochs": 1}, data=data)))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_shared_cases(tmp_path):
    """Energies alone are read as such; mace's names are read as labels; nothing is a zero that nobody gave."""
    alone = read_labelled(CASES / "06_energy_only.xyz", ["energy"])
    assert len(alone) == 8
    assert all(one.forces is None and one.energy < -900 for one in alone)
    (water,) = read_labelled(CASES / "03_mace_keys_REF.xyz")
    assert water.energy == -156.0
    assert water.forces.tolist() == [[0.1, 0, 0]] * 3
    kept = [Labelled(one.structure, one.energy, None, one.sid) for one in alone]
    write_labelled(tmp_path / "again.xyz", kept)
    assert [one.energy for one in read_labelled(tmp_path / "again.xyz", ["energy"])] == [one.energy for one in alone]
