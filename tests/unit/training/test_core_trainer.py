"""The core trainer: what it learns, what it writes, and that stopping it anywhere changes nothing."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT

from rlpath_core.backends import load_model
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.data import Labelled, S2EFWriter, read_labelled, write_extxyz
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure
from rlpath_core.training import run, train
from rlpath_core.training.dataset import epoch_order, update_groups
from rlpath_core.training.options import read_run

pytestmark = pytest.mark.slow


def emt(n, seed=0, spread=0.12):
    """Cu and O clusters and small periodic cells, labelled by ASE's EMT."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        periodic = i % 2 == 0
        atoms = Atoms("Cu3O", [[0, 0, 0], [1.8, 1.8, 0], [1.8, 0, 1.8], [0.4, 1.7, 1.9]])
        if periodic:
            atoms.set_cell([3.7, 3.8, 3.9])
            atoms.pbc = True
        atoms.positions += generator.normal(0, spread, (4, 3))
        atoms.calc = EMT()
        found.append(Labelled(Structure.from_ase(atoms), atoms.get_potential_energy(), atoms.get_forces(), str(i)))
    return found


MODEL = {
    "z_table": [8, 29],
    "cutoff": 3.5,
    "hidden_irreps": "4x0e+4x1o",
    "max_ell": 1,
    "num_radial_basis": 5,
    "interactions": [{"type": "RealAgnosticInteractionBlock", "radial_mlp": [8]}, {"radial_mlp": [8]}],
    "products": [{"correlation": 2}, {"correlation": 2}],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_extxyz(folder / "train.xyz", emt(22))
    write_extxyz(folder / "val.xyz", emt(6, seed=1))
    write_extxyz(folder / "other.xyz", emt(10, seed=2, spread=0.3))
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def config(data, folder, /, **parts):
    value = {
        "backend": "mace",
        "task": parts.pop("task", "train"),
        "run_dir": str(folder),
        "device": "cpu",
        "data": {"train": str(data / "train.xyz"), "val": str(data / "val.xyz"), **parts.pop("data", {})},
        "train": {
            "input_json": str(data / "model.json"), "epochs": 4, "batch_size": 4, "seed": 3, "lr": 0.01,
            "progress_bar": False, **parts.pop("train", {}),
        },
        **parts,
    }  # fmt: skip
    path = folder.parent / f"{folder.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def weights(result):
    return torch.load(result.manifest.parent / "best_model.pt", weights_only=True)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["event"], line["global_step"], line["loss"]) for line in lines]


def final_state(folder):
    return torch.load(folder / "checkpoints" / "checkpoint.pt", weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train(read_run(config(data, folder, train={"epochs": 30, "ema_decay": 0.95})))


def test_learns_and_writes_its_artifacts(data, trained):
    """The kept model beats the mean of the data by far, and the metrics are those of an independent evaluation."""
    val = read_labelled(data / "val.xyz")
    folder = trained.manifest.parent.parent
    found = evaluate(load_model(trained.manifest), val)
    assert found["force_mae"] < 0.4 * np.mean([np.abs(one.forces).mean() for one in val])
    assert trained.metrics["force_mae"] == pytest.approx(found["force_mae"], rel=1e-4)
    assert trained.digest == sha256_of(trained.manifest)
    assert read_manifest(folder).weights.dtype == "float32"
    first, last = losses(folder)[0][2], losses(folder)[-1][2]
    assert last < 0.4 * first
    assert (folder / "checkpoints" / "checkpoint.pt").is_file()
    assert "epochs: 30" in (folder / "run.yaml").read_text()


def test_a_finished_run_returns_at_once(data, trained):
    folder = trained.manifest.parent.parent
    stamp = trained.manifest.stat().st_mtime_ns
    again = train(read_run(folder.parent / "run.yaml"))
    assert again.digest == trained.digest
    assert again.metrics == trained.metrics
    assert trained.manifest.stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="other settings"):
        train(read_run(config(data, folder, train={"epochs": 5})))


def test_what_a_kill_leaves_before_the_first_file_is_no_run(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.yaml.abc.part").write_text("half")
    assert train(read_run(config(data, tmp_path / "run", train={"epochs": 1}))).metrics["global_step"] == 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("not ours")
    with pytest.raises(InputError, match="holds no run of ours"):
        train(read_run(config(data, tmp_path / "other")))


def test_same_seed_same_model_other_seed_another(data, tmp_path):
    digests = [
        train(read_run(config(data, tmp_path / name, train={"seed": seed, "num_workers": workers}))).digest
        for name, seed, workers in (("a", 3, 0), ("b", 3, 2), ("c", 4, 0))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.fixture
def interrupted(program):
    def run_until(path, at, how):
        done = subprocess.run(program("stopped_trainer", path, at, how), check=False, capture_output=True, timeout=200)
        assert done.returncode == -getattr(signal, how), done.stderr.decode()[-2000:]

    return run_until


KNOBS = {"ema_decay": 0.9, "scheduler": "cosine", "warmup_steps": 5, "accum_steps": 2, "batch_size": 2, "log_every": 1}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    cycle = train(read_run(config(data, folder / "c", train={**KNOBS, "cycle_steps": 4})))
    epoch = train(read_run(config(data, folder / "e", train={**KNOBS, "save_every": 2})))
    return {"cycle": (cycle, folder / "c"), "epoch": (epoch, folder / "e")}


@pytest.mark.parametrize(
    ("kind", "at", "how"),
    [
        ("cycle", 6, "SIGKILL"),  # back to step 4, in the middle of epoch 0
        ("cycle", 2, "SIGKILL"),  # before the first checkpoint
        ("epoch", 15, "SIGKILL"),  # back to the end of epoch 1
        ("epoch", 15, "SIGTERM"),  # goes on at step 16, in the middle of an epoch
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(data, tmp_path, interrupted, uninterrupted, kind, at, how):
    """Bitwise: kept weights, last weights, moving average, optimizer, and every loss in the log, none twice."""
    whole, whole_folder = uninterrupted[kind]
    more = {"cycle_steps": 4} if kind == "cycle" else {"save_every": 2}
    path = config(data, tmp_path / "run", train={**KNOBS, **more})
    interrupted(path, at, how)
    if how == "SIGTERM":
        assert final_state(tmp_path / "run")["at"]["global_step"] == at
    resumed = train(read_run(path))
    assert equal(weights(resumed), weights(whole))
    assert resumed.digest == whole.digest
    a, b = final_state(tmp_path / "run"), final_state(whole_folder)
    assert equal(a["model"], b["model"])
    assert all(torch.equal(x, y) for x, y in zip(a["average"], b["average"], strict=True))
    for key, one in a["optimizer"]["state"].items():
        assert equal(one, b["optimizer"]["state"][key])
    assert losses(tmp_path / "run") == losses(whole_folder)


def test_task_resume_trains_on_for_more_epochs(data, tmp_path):
    four = train(read_run(config(data, tmp_path / "four")))
    train(read_run(config(data, tmp_path / "two", train={"epochs": 2})))
    more = run(read_run(config(data, tmp_path / "more", task="resume", model_in=str(tmp_path / "two"))))
    assert equal(weights(more), weights(four))
    with pytest.raises(InputError, match="batch_size: cannot resume: it was 4 and is 3 now"):
        run(
            read_run(
                config(data, tmp_path / "no", task="resume", model_in=str(tmp_path / "two"), train={"batch_size": 3})
            )
        )


def test_accumulation_equals_one_large_batch(data, tmp_path):
    """Also where the last group of an epoch is smaller: 22 structures are 5 groups of 4 and one of 2."""
    one = train(read_run(config(data, tmp_path / "a", train={"dtype": "float64"})))
    two = train(read_run(config(data, tmp_path / "b", train={"dtype": "float64", "batch_size": 1, "accum_steps": 4})))
    a, b = weights(one), weights(two)
    assert all(torch.allclose(a[k], b[k], atol=1e-7) for k in a)


def test_finetune_keeps_old_data_with_replay(data, trained, tmp_path):
    old, new = read_labelled(data / "val.xyz"), read_labelled(data / "other.xyz")
    base = {"task": "finetune", "model_in": str(trained.manifest)}
    quick = {"epochs": 25, "lr": 0.01, "batch_size": 5}
    found = {}
    for name, extra in (("plain", {}), ("replay", {"replay": str(data / "train.xyz"), "replay_ratio": 2})):
        path = config(
            data,
            tmp_path / name,
            **base,
            data={"train": str(data / "other.xyz"), "val": str(data / "other.xyz"), **extra},
            train=quick,
        )
        result = train(read_run(path))
        model = load_model(result.manifest)
        assert read_manifest(result.manifest).source.sha256 == trained.digest
        found[name] = evaluate(model, old)["force_mae"], evaluate(model, new)["force_mae"]
    before = evaluate(load_model(trained.manifest), new)["force_mae"]
    assert found["plain"][1] < 0.7 * before
    assert found["replay"][1] < 0.8 * before
    assert found["replay"][0] < 0.9 * found["plain"][0]


def test_freeze_head_only_changes_readouts_alone(data, trained, tmp_path):
    path = config(
        data, tmp_path / "run", task="finetune", model_in=str(trained.manifest), train={"freeze": "head_only"}
    )
    before, after = weights(trained), weights(train(read_run(path)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("readouts.") for name in changed)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "sgd"])
def test_every_optimizer_learns(data, tmp_path, optimizer):
    train(read_run(config(data, tmp_path / "run", train={"optimizer": optimizer, "epochs": 10})))
    found = [loss for event, _, loss in losses(tmp_path / "run") if event == "epoch"]
    assert found[-1] < 0.85 * found[0]


def rates(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if line["event"] == "step"]


def test_schedulers_and_warmup(data, tmp_path):
    """6 update steps an epoch; rates by hand."""

    def of(name, **knobs):
        train(read_run(config(data, tmp_path / name, train={"log_every": 1, "epochs": 3, "lr": 0.01, **knobs})))
        return rates(tmp_path / name)

    assert of("none") == [0.01] * 18
    assert of("step", scheduler="step", scheduler_step_size=2, scheduler_gamma=0.1) == pytest.approx(
        [0.01] * 12 + [0.001] * 6
    )
    assert of("exp", scheduler="exponential", scheduler_gamma=0.5) == pytest.approx(
        [0.01] * 6 + [0.005] * 6 + [0.0025] * 6
    )
    assert of("cos", scheduler="cosine")[::6] == pytest.approx(
        [0.01 * (1 + np.cos(np.pi * k / 3)) / 2 for k in range(3)]
    )
    assert of("warm", warmup_steps=4)[:6] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    cycles = of("cycle", scheduler="exponential", scheduler_gamma=0.5, scheduler_step_unit="cycle", cycle_steps=3)
    assert cycles[:9] == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.0025] * 3)  # 5 a epoch: drop_last is forced on
    assert len(cycles) == 15


def test_early_stop_and_max_seconds(data, tmp_path):
    wild = config(data, tmp_path / "wild", train={"lr": 0.1, "early_stop_factor": 1.02, "epochs": 60})
    assert train(read_run(wild)).metrics["stop_reason"] == "early_stop"
    start = time.monotonic()
    brief = train(read_run(config(data, tmp_path / "brief", train={"max_seconds": 0.2, "epochs": 100000})))
    assert brief.metrics["stop_reason"] == "max_seconds"
    assert time.monotonic() - start < 30


def test_order_of_an_epoch():
    first = epoch_order(10, 40, 1.5, seed=1, epoch=0)
    assert sorted(first[first < 10]) == list(range(10))
    replayed = first[first >= 10]
    assert len(replayed) == len(set(replayed)) == 15
    np.testing.assert_array_equal(first, epoch_order(10, 40, 1.5, seed=1, epoch=0))
    assert not np.array_equal(first, epoch_order(10, 40, 1.5, seed=1, epoch=1))
    assert len(epoch_order(10, 4, 1.5, seed=1, epoch=0)) == 25
    groups = update_groups(np.arange(11), 2, 2, drop_last=False)
    assert groups == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10]]]
    assert update_groups(np.arange(11), 2, 2, drop_last=True) == groups[:2]


def test_data_controls(data, tmp_path):
    seen = {}
    for name, controls in {
        "max": {"train_indices": {"max_samples": 6}},
        "indices": {"indices": [3, 5]},
        "file": {"train_indices": {"indices_path": "chosen.json"}},
    }.items():
        (tmp_path / "chosen.json").write_text("[1, 2, 4]")
        train(read_run(config(data, tmp_path / name, data=controls, train={"epochs": 1, "batch_size": 1})))
        seen[name] = final_state(tmp_path / name)["fixed"]["n_train"]
    assert seen == {"max": 6, "indices": 2, "file": 3}
    with pytest.raises(InputError, match="99 is out of range: there are 22 entries"):
        train(read_run(config(data, tmp_path / "bad", data={"indices": [99]})))


def test_lmdb_and_shards_train_as_extxyz_does(data, tmp_path):
    shards = tmp_path / "shards"
    for name, part in (("0.lmdb", emt(22)[:10]), ("1.lmdb", emt(22)[10:])):
        with S2EFWriter(shards / name) as writer:
            for one in part:
                writer.add(one, one.sid)
    a = train(read_run(config(data, tmp_path / "a", data={"train": str(shards)})))
    b = train(read_run(config(data, tmp_path / "b")))
    assert a.metrics["force_mae"] == pytest.approx(b.metrics["force_mae"], rel=1e-2)  # positions are float32 in LMDBs


def test_evaluate_infer_export(data, trained, tmp_path):
    from ase.io import read
    from mace.calculators import MACECalculator

    base = {"model": {"manifest": str(trained.manifest)}, "data": {"test": str(data / "val.xyz")}}
    found = run(read_run(config(data, tmp_path / "eval", task="evaluate", **base)))
    assert found["force_mae"] == pytest.approx(trained.metrics["force_mae"], rel=1e-4)
    energies = run(read_run(config(data, tmp_path / "energy", task="evaluate", **base, eval={"energy_only": True})))
    assert "force_mae" not in energies
    assert energies["energy_mae"] == pytest.approx(found["energy_mae"], rel=1e-5)
    predicted = read(run(read_run(config(data, tmp_path / "infer", task="infer", **base))), index=":")
    assert len(predicted) == 6
    for source in (trained.manifest, trained.manifest.parent.parent / "checkpoints" / "checkpoint.pt"):
        folder = tmp_path / f"export-{source.stem}"
        exported = run(read_run(config(data, folder, task="export", model_in=str(source))))
        model = load_model(exported.manifest, dtype="float64")
        calculator = MACECalculator(
            model_paths=str(folder / "artifacts" / "mace.model"), device="cpu", default_dtype="float64"
        )
        atoms = predicted[0].copy()
        atoms.calc = calculator
        ours = model.predict([Structure.from_ase(atoms)])[0]
        assert ours.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(ours.forces, atoms.get_forces(), atol=1e-5)


def test_e0s_by_least_squares_are_exact_where_energies_are_sums(tmp_path):
    from rlpath_core.backends.mace.build import least_squares_e0s

    composition = np.random.default_rng(0).integers(0, 5, (20, 3)).astype(float)
    composition[:, 2] = 0
    assert least_squares_e0s(composition, composition @ [-1.5, -20.0, 7.0], [1, 8, 12]) == pytest.approx([-1.5, -20, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"learning_rate": 1}}, "train.learning_rate: unknown key"),
        ({"train": {"epoch": 1}}, "Did you mean 'epochs'"),
        ({"train": {"epochs": 0}}, "train.epochs"),
        ({"train": {"optimizer": "adamax"}}, "train.optimizer"),
        ({"train": {"input_json": None}}, "train.input_json: task train needs"),
        ({"task": "finetune"}, "needs model_in or model.manifest"),
        ({"data": {"train": None}}, "needs data.train"),
        ({"data": {"train": "nowhere.xyz"}}, "nowhere.xyz: no such file"),
        ({"task": "evaluate", "model_in": "m", "data": {"val": None}}, "needs data.test"),
        ({"train": {"drop_last": True, "batch_size": 100}}, "leaves no update step"),
        ({"train": {"scheduler": "plateau"}, "data": {"val": None}}, "plateau follows the validation loss"),
        ({"train": {"scheduler_step_unit": "cycle"}}, "needs train.cycle_steps"),
        ({"train": {"e0s": "given"}}, "e0_values"),
        ({"device": "gpu"}, "choose cuda, cuda:N, cpu or auto"),
    ],
)
def test_bad_configs_say_what_to_mend(data, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(read_run(config(data, tmp_path / "run", **change)))
    assert not (tmp_path / "run").exists()


def test_cuda_without_a_gpu(data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="choose cpu or auto"):
        run(read_run(config(data, tmp_path / "run", device="cuda")))


def test_elements_that_the_network_lacks(data, tmp_path):
    odd = Labelled(Structure(np.array([1, 8]), np.array([[0, 0, 0], [0, 0, 1.0]])), -1.0, np.zeros((2, 3)))
    write_extxyz(tmp_path / "odd.xyz", [odd])
    with pytest.raises(InputError, match="entry 0: has H, which z_table"):
        run(read_run(config(data, tmp_path / "run", data={"train": str(tmp_path / "odd.xyz")})))


def test_a_checkpoint_that_would_run_code(data, tmp_path):
    class Bad:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "was-run"),))

    (tmp_path / "bad").mkdir()
    torch.save({"schema_version": 1, "x": Bad()}, tmp_path / "bad" / "checkpoint.pt")
    with pytest.raises(InputError, match="never run"):
        run(read_run(config(data, tmp_path / "run", task="resume", model_in=str(tmp_path / "bad" / "checkpoint.pt"))))
    assert not (tmp_path / "was-run").exists()


def test_run_yaml_with_several_runs(data, tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text(
        "runs:\n"
        "- {name: a, task: train, run_dir: out/a, data.train: t.xyz, train: {input_json: m.json}}\n"
        "- {name: b, task: export, run_dir: out/b, model_in: out/a}\n"
    )
    b = read_run(path, "b")
    assert (b.task, b.run_dir, b.model_in) == ("export", tmp_path / "out/b", tmp_path / "out/a")
    assert read_run(path, "a").data.train == tmp_path / "t.xyz"
    with pytest.raises(InputError, match=r"choose one with --run\. There are: a, b"):
        read_run(path)
    with pytest.raises(InputError, match="no run is called 'c'"):
        read_run(path, "c")
