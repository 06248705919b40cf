"""FairChem's own trainer around which a run is resumable, on our data; compared with FairChem left to itself."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fairchem.core._cli import Runner
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config, setup_imports

from rlpath_core.backends import load_model
from rlpath_core.data import read_labelled
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import FatalError, InputError
from rlpath_core.locks import exclusive
from rlpath_core.structure import Structure
from rlpath_core.training import train
from rlpath_core.training.fairchem import dataset
from rlpath_core.training.options import read_run

ROOT = Path(__file__).parents[2]
OC22 = ROOT / "tests" / "data" / "oc22_emt"
EPOCHS = 12
KILLED_TRAINING = Path(__file__).with_name("killed_training.py")


def checkpoint(run_dir, name="checkpoint.pt"):
    return torch.load(run_dir / "checkpoints" / name, weights_only=True)


def log(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def same(a, b):
    """Nested containers that are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def test_killed_and_stopped_runs_end_as_uninterrupted_ones(configure, tmp_path):
    """Dropout, drop path, random edge frames, moving average, validation and checkpoints at odd steps: the same losses,
    weights and state to the last bit, wherever the run was killed or asked to end."""
    for name in ("whole", "killed", "asked"):
        configure(name, optim={"max_epochs": 4, "eval_every": 3, "checkpoint_every": 2})
    command = [sys.executable, "-W", "ignore", str(KILLED_TRAINING), str(tmp_path), "4", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    logs = "\n".join(path.read_text()[-3000:] for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stderr[-2000:] + logs
    print(done.stdout)
    stops = json.loads(done.stdout.rpartition("steps ")[2])
    assert stops[0] in (5, 6)  # the step it was in, or the next where that had just begun
    assert stops[0] <= stops[1] <= stops[0] + 2
    whole = checkpoint(tmp_path / "whole")
    for name in ("killed", "asked"):
        found = checkpoint(tmp_path / name)
        for key in (
            "state_dict",
            "optimizer",
            "scheduler",
            "ema",
            "step",
            "best_val_metric",
            "normalizers",
            "elementrefs",
        ):
            assert same(found[key], whole[key]), key
        assert same(found["rlpath"]["random"], whole["rlpath"]["random"])
        assert log(tmp_path / name) == log(tmp_path / "whole")
        best = [torch.load(tmp_path / n / "artifacts" / "best_model.pt", weights_only=True) for n in (name, "whole")]
        assert same(*best)
    assert [line["global_step"] for line in log(tmp_path / "whole") if line["event"] == "validation"] == [
        3,
        6,
        9,
        12,
        15,
        16,
    ]


def test_fairchems_own_dataset_trains_on_our_lmdb_as_ours_does(configure, lmdb, tmp_path):
    """FairChem by itself (its LmdbDataset, which opens our own file's pickles) against a run of ours: one epoch."""
    path = configure("ours", optim={"max_epochs": 1}, data={"val_indices": {"max_samples": 4}})
    train(read_run(path))
    config = yaml.safe_load((tmp_path / "ours" / "fairchem.yml").read_text())
    split = {"format": "lmdb", "no_shuffle": True, "key_mapping": {"y": "energy", "force": "forces"}}
    transforms = config["dataset"]["train"]["transforms"]
    config["dataset"] = {"train": {**split, "src": str(lmdb / "train.lmdb"), "transforms": transforms}}
    config["logger"] = "tensorboard"
    (tmp_path / "plain.yml").write_text(yaml.safe_dump(config))
    setup_imports()
    words = ["--mode", "train", "--config-yml", str(tmp_path / "plain.yml"), "--run-dir", str(tmp_path / "plain")]
    words += ["--cpu", "--seed", "0", "--timestamp-id", ""]
    plain = build_config(*flags.get_parser().parse_known_args(words))
    plain["optim"] |= {"eval_every": 100, "checkpoint_every": 4}
    Runner()(plain)
    ours, theirs = checkpoint(tmp_path / "ours"), checkpoint(tmp_path / "plain")
    for key, value in theirs["state_dict"].items():
        # energies go through float32 there, float64 here
        torch.testing.assert_close(ours["state_dict"][key], value, atol=2e-3, rtol=1e-2)
    assert ours["step"] == theirs["step"] == 4
    refs = [state["elementrefs"]["energy"]["element_references"].double() for state in (ours, theirs)]
    torch.testing.assert_close(*refs, atol=1e-3, rtol=1e-3)


class Learned:
    """A run of FairChem's trainer on 36 structures; ``result`` and what its folder holds before it is resumed."""

    def __init__(self, backend, configure, folder):
        networks = {
            "equiformer_v2": {"alpha_drop": 0.0, "drop_path_rate": 0.0, "sphere_channels": 16, "edge_channels": 16},
            "gemnet_oc": {"emb_size_atom": 16, "emb_size_edge": 16, "quad_interaction": False},
        }
        self.backend, self.folder = backend, folder
        self._configure, self._network = configure, networks[backend]
        self.result = train(self.spec("run"))
        self.checkpoint = checkpoint(folder / "run")
        scales = folder / "run" / "scale_factors.json"
        self.scales = json.loads(scales.read_text()) if scales.exists() else {}

    def spec(self, name, optim=None, data=None, **parts):
        known = {"max_epochs": EPOCHS, "batch_size": 4, "lr_initial": 0.01, "eval_batch_size": 12}
        sets = {"train": str(OC22 / "train"), "val": str(OC22 / "val.lmdb")}
        given = {"data": sets | (data or {}), **parts}
        return read_run(self._configure(name, self.backend, known | (optim or {}), self._network, **given))

    def resumed(self, **optim):
        return self.spec("run", optim, task="resume", model_in=str(self.folder / "run"))


@pytest.fixture(scope="module", params=["equiformer_v2", "gemnet_oc"])
def learned(request, configuring, lmdb, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Learned(request.param, configuring(folder, lmdb), folder)


@pytest.fixture(scope="module")
def longer(learned):
    """The same run, resumed for one more epoch."""
    return train(learned.resumed(max_epochs=EPOCHS + 1))


def test_force_error_falls_by_half(learned):
    """To less than half the error of a network that predicts zero."""
    zero = np.mean([np.abs(one.forces).mean() for one in read_labelled(OC22 / "val.lmdb")])
    print(f"{learned.backend}: force MAE {learned.result.metrics['force_mae']:.3f} of {zero:.3f} eV/Å")
    assert learned.result.metrics["force_mae"] < 0.5 * zero
    assert learned.result.metrics["global_step"] == math.ceil(36 / 4) * EPOCHS


def test_references_and_scales_are_fitted(learned):
    references = learned.checkpoint["elementrefs"]["energy"]["element_references"]
    assert references.dtype == torch.float64
    if learned.backend == "gemnet_oc":
        assert len(learned.scales) > 5
        assert all(value > 0 for value in learned.scales.values())
        normalizers = learned.checkpoint["normalizers"]
        assert normalizers["energy"]["rmsd"] == normalizers["forces"]["rmsd"]
        assert load_model(learned.result.manifest).conservative


def test_resume_for_more_epochs(learned, longer):
    assert longer.metrics["global_step"] == learned.result.metrics["global_step"] + 9
    assert log(learned.folder / "run")[0]["global_step"] == 1
    assert longer.metrics["force_mae"] < 1.1 * learned.result.metrics["force_mae"]
    steps = [line for line in log(learned.folder / "run") if line["event"] == "step"]
    for line in steps[-9:]:  # the cosine of all epochs, and not the smallest rate of the first ones
        part = (line["global_step"] - 1) / (9 * (EPOCHS + 1))
        assert line["lr"] == pytest.approx(0.01 * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2))


def test_resume_refuses_another_batch_size(learned, longer):
    with pytest.raises(InputError, match="batch_size: cannot resume: it was 4 and is 6 now"):
        train(learned.resumed(batch_size=6))
    stored = json.loads((learned.folder / "run" / "result.json").read_text())
    assert stored["digest"] == longer.digest, "the refused run changed nothing"


def test_finetune_from_the_artifacts(learned, longer):
    spec = learned.spec(
        "tuned",
        {"max_epochs": 2, "lr_initial": 1e-4},
        {"train_indices": {"max_samples": 6}, "replay": str(OC22 / "val.lmdb"), "replay_ratio": 2.0},
        task="finetune",
        model={"manifest": str(longer.manifest)},
    )
    tuned = train(spec)
    assert tuned.metrics["global_step"] == math.ceil(18 / 4) * 2
    assert tuned.metrics["force_mae"] < 1.3 * longer.metrics["force_mae"]
    before, after = checkpoint(learned.folder / "run"), checkpoint(learned.folder / "tuned")
    torch.testing.assert_close(
        after["elementrefs"]["energy"]["element_references"].double(),
        before["elementrefs"]["energy"]["element_references"],
    )
    manifest = json.loads(tuned.manifest.read_text())
    assert manifest["source"] == {"path": None, "format": "rlpath-bundle", "sha256": longer.digest}
    assert train(spec) == tuned, "a finished run is not trained again"


def test_what_the_data_set_gives(configure, lmdb, tmp_path):
    """Index controls, replay drawn by epoch, open axes closed so that neighbours stay the same, energies in float64."""
    from ase.build import molecule
    from ase.neighborlist import neighbor_list

    spec = read_run(
        configure("run", data={"indices": [5, 1, 7], "replay": str(lmdb / "val.lmdb"), "replay_ratio": 2.0})
    )
    config = {
        "src": str(spec.data.train), "split": "train", "data": spec.data.model_dump(mode="json"), "seed": 3,
        "radius": 4.0, "n_elements": 90,
    }  # fmt: skip
    made = dataset.RlpathDataset(config)
    everything, older = read_labelled(lmdb / "train.lmdb"), read_labelled(lmdb / "val.lmdb")
    assert len(made) == 9
    assert [made.entry(n).energy for n in range(3)] == [everything[i].energy for i in (5, 1, 7)]
    drawn = []
    for epoch in (0, 1, 0):
        made.set_epoch(epoch)
        drawn.append(made.replayed.tolist())
        assert sorted(made.replayed)[:4] == [0, 0, 1, 1] or len(set(drawn[-1])) == len(older)
    assert drawn[0] == drawn[2] != drawn[1]
    assert made[0].energy.dtype == torch.float64
    assert made.get_metadata("natoms", [[0, 1]]).tolist() == [
        len(everything[5].structure),
        len(everything[1].structure),
    ]
    with pytest.raises(InputError, match="atomic number 29"):
        dataset.RlpathDataset(config | {"n_elements": 20})[0]
    for pbc in ((False, False, False), (True, False, True)):
        atoms = molecule("CH3CH2OH", cell=[[6, 1, 0], [0, 6, 0], [0, 2, 7]] if any(pbc) else None, pbc=pbc)
        atoms.positions += [3, -8, 50]
        structure = Structure.from_ase(atoms)
        data = dataset.to_data(Labelled(structure, 0.0, np.zeros((len(atoms), 3))), 0, 4.0)
        closed = atoms.copy()
        closed.cell, closed.pbc = data.cell.numpy()[0], True
        assert sorted(np.round(neighbor_list("d", closed, 4.0), 3)) == sorted(
            np.round(neighbor_list("d", atoms, 4.0), 3)
        )


def test_the_process_ends_with_its_parent(configure, tmp_path):
    """kill -9 of the parent: FairChem's process writes a checkpoint after its step and ends; the next takes it up."""
    path = configure("run", optim={"max_epochs": 400, "eval_every": 1000})
    code = "import sys; from rlpath_core.training.options import read_run; from rlpath_core.training import train; "
    parent = subprocess.Popen([sys.executable, "-c", f"{code} train(read_run(sys.argv[1]))", str(path)])
    log_path, lock = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / ".lock"
    until = time.monotonic() + 240
    while not log_path.is_file() or not log_path.read_text().count("\n") > 2:
        assert parent.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    with exclusive(lock, "training", wait=60):  # the child has let go of it
        done = checkpoint(tmp_path / "run")["step"]
    assert 2 < done < 1600
    more = {"max_epochs": -(-done // 4) + 1, "eval_every": 1000}
    path = configure("run", optim=more, task="resume", model_in=str(tmp_path / "run"))
    assert train(read_run(path)).metrics["global_step"] == 4 * more["max_epochs"]
    steps = [line["global_step"] for line in log(tmp_path / "run") if line["event"] == "step"]
    assert steps == list(range(1, 4 * more["max_epochs"] + 1))


def test_a_configuration_of_before_fairchem_2(configure, tmp_path):
    """Losses in ``optim``, normalisers in ``dataset``: FairChem brings it up to date itself."""
    path = configure(
        "run", optim={"max_epochs": 1, "loss_energy": "mae", "energy_coefficient": 1, "force_coefficient": 9}
    )
    config = yaml.safe_load((tmp_path / "run.yml").read_text())
    for section in ("loss_functions", "evaluation_metrics", "outputs"):
        config.pop(section, None)
    config["task"] = {"dataset": "trajectory_lmdb", "primary_metric": "forces_mae", "train_on_free_atoms": True}
    config["dataset"] = [{"src": "elsewhere", "normalize_labels": True, "target_mean": -5.0, "target_std": 2.0,
                          "grad_target_mean": 0.0, "grad_target_std": 2.0}]  # fmt: skip
    (tmp_path / "run.yml").write_text(yaml.safe_dump(config))
    result = train(read_run(path))
    manifest = json.loads(result.manifest.read_text())
    assert manifest["normalizer"]["targets"]["energy"] == {"mean": -5.0, "rmsd": 2.0}
    assert checkpoint(tmp_path / "run")["config"]["loss_functions"][0]["energy"]["fn"] == "mae"
    assert np.isfinite(result.metrics["force_mae"])


def test_the_loss_is_said_to_diverge(configure, tmp_path):
    spec = read_run(configure("run", optim={"lr_initial": 1e30, "clip_grad_norm": 1e30, "scheduler": "Null"},
                              config={"trainer": "ocp"}))  # fmt: skip
    with pytest.raises(FatalError, match=r"not finite at update step \d+; lower optim.lr_initial"):
        train(spec)


def test_a_crash_inside_fairchem_is_one_error(configure):
    spec = read_run(configure("run", config={"optim": {"optimizer": "NoSuch"}}))
    with pytest.raises(
        FatalError, match=r"FairChem's process raised AttributeError.*NoSuch.*its log is .*fairchem.log"
    ):
        train(spec)
