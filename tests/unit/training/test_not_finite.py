"""Values that are not finite: the structure is named, nothing that is kept holds one, every line of a log is JSON."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read

from rlpath_core.backends import load_model
from rlpath_core.data import Labelled, read_labelled, write_extxyz
from rlpath_core.data.batches import build_graph
from rlpath_core.data.neighbour_cache import cached_graphs
from rlpath_core.errors import FatalError, InputError
from rlpath_core.evaluation import predict
from rlpath_core.structure import Structure
from rlpath_core.training import run, train
from rlpath_core.training.checkpoint import load_checkpoint
from rlpath_core.training.distances import closest
from rlpath_core.training.not_finite import not_finite

pytestmark = pytest.mark.slow
CASES = Path(__file__).parents[2] / "data" / "cases" / "training"


@pytest.fixture(scope="module")
def trained(configure, tmp_path_factory):
    return train(configure(tmp_path_factory.mktemp("trained") / "run", train={"epochs": 1}))


def moved(one, a, b, distance):
    """``one`` with atom b ``distance`` Å from atom a."""
    positions = one.structure.positions.copy()
    positions[b] = positions[a] + [0, 0, distance]
    return replace(one, structure=replace(one.structure, positions=positions))


def valid_json(run_dir):
    refuse = pytest.fail
    return [
        json.loads(line, parse_constant=refuse) for line in (run_dir / "metrics.jsonl").read_text().splitlines() if line
    ]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "replay"])
def test_two_atoms_in_one_place_are_named_before_training(configure, small, tmp_path, split, cache):
    found = read_labelled(small / "train.xyz")
    write_extxyz(tmp_path / "bad.xyz", [*found[:5], moved(found[5], 1, 4, 1e-3), *found[6:]])
    more = {"cache": str(tmp_path / "cache")} if cache else {}
    with pytest.raises(InputError, match=rf"bad\.xyz: data\.{split}, entry 5: atoms 1 and 4 are 0\.001 Å apart"):
        train(configure(tmp_path / "run", data={split: str(tmp_path / "bad.xyz"), **more}))
    assert not (tmp_path / "run").exists()
    if split == "train":
        chosen = {split: str(tmp_path / "bad.xyz"), "indices": [0, 1, 2, 6]}
        train(configure(tmp_path / "run", data=chosen, train={"epochs": 1}))


def test_the_case_of_the_issue(tmp_path):
    from rlpath_core.training.options import read_run

    given = {"run_dir": str(tmp_path / "run")}
    with pytest.raises(InputError, match=r"05_val.*\.xyz: data\.val, entry 5: atoms 0 and 1 are 0 Å apart"):
        run(read_run(CASES / "resume_other_loss.yaml", "nan", given))


def test_close_atoms_are_said(configure, small, tmp_path, caplog):
    found = read_labelled(small / "train.xyz")
    write_extxyz(tmp_path / "close.xyz", [*found[:3], moved(found[3], 0, 2, 0.4), moved(found[4], 0, 2, 0.3)])
    train(configure(tmp_path / "run", data={"train": str(tmp_path / "close.xyz")}, train={"epochs": 1}))
    assert "close.xyz: 2 structures with atoms closer than 0.5 Å; in data.train, entry 4 atoms 0 and 2" in caplog.text


def test_shortest_distances_are_those_of_ase(small, tmp_path):
    from ase.neighborlist import neighbor_list

    structures = [one.structure for one in read_labelled(small / "train.xyz")]
    structures.append(Structure(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 90.0]])))
    numbers = np.array([1, 8, 29])
    expected = [neighbor_list("d", s.to_ase(), 3.5).min(initial=np.inf) for s in structures]
    assert closest([build_graph(s, 3.5, numbers) for s in structures]) == pytest.approx(expected, abs=1e-9)
    cached = cached_graphs(tmp_path / "cache", structures, 3.5, numbers)
    assert closest(cached) == pytest.approx(expected, abs=1e-9)
    next((tmp_path / "cache").glob("*/closest.npy")).unlink()  # as rlpath 0.2 left it
    older = cached_graphs(tmp_path / "cache", structures, 3.5, numbers)
    assert closest(older) == pytest.approx(expected, abs=1e-9)
    assert next((tmp_path / "cache").glob("*/closest.npy")).is_file()


def test_which_structures_are_not_finite():
    energies = np.array([1.0, np.inf, 2.0, 3.0])
    forces = np.zeros((10, 3))
    forces[7, 1] = np.nan
    sizes = np.array([2, 3, 1, 4])
    assert not_finite(energies, forces, sizes).tolist() == [1, 3]
    assert not_finite(None, forces, sizes).tolist() == [3]
    assert not_finite(energies, None, sizes).tolist() == [1]
    assert not_finite(energies[[0, 2]], None, sizes[[0, 2]]).tolist() == []


def absurd(one):
    """Forces whose square is too large for single precision."""
    return Labelled(one.structure, one.energy, np.full_like(one.forces, 1e25), one.sid)


def test_validation_that_is_not_finite(configure, small, tmp_path):
    """One frame with an absurd label: the run ends with one line, its checkpoint is finite and its log JSON."""
    found = read_labelled(small / "val.xyz")
    write_extxyz(tmp_path / "val.xyz", [found[0], found[1], absurd(found[2]), found[3]])
    message = (
        r"the validation at update step 4 is not finite for data\.val, entry 2 \(val\.xyz\)\. The checkpoint of step 4"
    )
    spec = configure(tmp_path / "run", data={"val": str(tmp_path / "val.xyz")})
    with pytest.raises(FatalError, match=message):
        train(spec)
    assert [line["event"] for line in valid_json(tmp_path / "run")][-1] == "epoch"
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "checkpoint.pt")
    assert all(torch.isfinite(t).all() for t in state["model"].values() if t.is_floating_point())
    with pytest.raises(FatalError, match=message):
        train(spec)


def test_training_loss_that_is_not_finite(configure, trained, small, tmp_path):
    """The architecture of a trained network, so that no statistics of the absurd label are taken."""
    found = read_labelled(small / "train.xyz")
    write_extxyz(tmp_path / "train.xyz", [*found[:3], absurd(found[3]), *found[4:]])
    given = {"task": "finetune", "model_in": str(trained.manifest), "data": {"train": str(tmp_path / "train.xyz")}}
    with pytest.raises(FatalError, match=r"the loss is inf at update step \d, for data\.train, entry 3 \(train\.xyz\)"):
        train(configure(tmp_path / "run", **given))
    assert all("nan" not in json.dumps(line).lower() for line in valid_json(tmp_path / "run"))


def test_a_rate_that_is_too_high_keeps_finite_weights(configure, tmp_path):
    knobs = {"optimizer": "sgd", "lr": 1e30, "max_grad_norm": None, "epochs": 3, "cycle_steps": 1}
    with pytest.raises(FatalError, match=r"not finite|loss is (nan|inf)|has norm (nan|inf)"):
        train(configure(tmp_path / "run", train=knobs))
    valid_json(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "checkpoint.pt"
    if path.is_file():
        assert all(torch.isfinite(t).all() for t in load_checkpoint(path)["model"].values() if t.is_floating_point())


def test_mace_has_no_finite_force_for_atoms_in_one_place(trained, small, monkeypatch):
    """mace's own network, without the compiled loops, which give some number."""
    monkeypatch.setenv("RLPATH_MACE_ACCELERATION", "off")
    found = read_labelled(small / "val.xyz")
    model = load_model(trained.manifest, device="cpu")
    with pytest.raises(InputError, match=r"some\.xyz: entry 9: .* no finite energy and forces: its atoms \d+ and \d+"):
        predict(model, [found[0], moved(found[1], 0, 3, 0.0)], where=Path("some.xyz"), places=[4, 9])
    assert len(predict(model, found)) == 4


@pytest.mark.parametrize("task", ["infer", "evaluate"])
def test_weights_that_are_not_finite_write_nothing(configure, trained, tmp_path, task):
    state = torch.load(trained.manifest.with_name("best_model.pt"), weights_only=True)
    spoilt = {name: t * torch.nan if name.startswith("readouts.0") else t for name, t in state.items()}
    torch.save(spoilt, tmp_path / "w.pt")
    model = {"manifest": str(trained.manifest), "weights": str(tmp_path / "w.pt")}
    with pytest.raises(InputError, match=r"val\.xyz: entry 0: the model predicts no finite .*weights are not finite"):
        run(configure(tmp_path / "run", task=task, model=model))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["infer", "evaluate"])
def test_a_structure_with_atoms_in_one_place_is_refused(configure, trained, small, tmp_path, task):
    found = read_labelled(small / "val.xyz")
    write_extxyz(tmp_path / "bad.xyz", [*found[:2], moved(found[2], 0, 3, 0.0), found[3]])
    given = {"task": task, "model_in": str(trained.manifest)}
    with pytest.raises(InputError, match=r"bad\.xyz: data\.test, entry 2: atoms 0 and 3 are 0 Å apart"):
        run(configure(tmp_path / "run", **given, data={"test": str(tmp_path / "bad.xyz")}))
    assert not (tmp_path / "run").exists()
    run(configure(tmp_path / "run", **given, data={"test": str(tmp_path / "bad.xyz"), "indices": [0, 1, 3]}))
    if task == "infer":
        assert np.isfinite([a.get_potential_energy() for a in read(tmp_path / "run" / "predictions.extxyz", ":")]).all()
