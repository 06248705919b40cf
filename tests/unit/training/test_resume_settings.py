"""Task resume with other settings, other data or another run_dir: whatever is given is used, or refused by name."""

import json
import logging
import shutil

import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.data import read_labelled, write_extxyz
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.files import sha256_of
from rlpath_core.training import run, train
from rlpath_core.training.checkpoint import load_checkpoint
from rlpath_core.training.loop import Trainer
from rlpath_core.training.options import DataSpec, MaceTraining
from rlpath_core.training.setup import prepare_from_checkpoint

pytestmark = pytest.mark.slow

REFUSED = {
    "accum_steps": {"accum_steps": 2},
    "batch_size": {"batch_size": 4},
    "drop_last": {"drop_last": True},
    "dtype": {"dtype": "float64"},
    "e0s": {"e0s": "given"},
    "freeze": {"freeze": "head_only"},
    "input_json": {"input_json": "other.json"},
    "new_head": {"new_head": "mine"},
    "optimizer": {"optimizer": "sgd"},
    "seed": {"seed": 1},
}
"""Of the batches, the network and the optimizer: another value is an error that names the key."""
USED = {
    "energy_loss": ({"energy_loss": "mae"}, {}),
    "energy_loss_per": ({"energy_loss_per": "configuration"}, {}),
    "energy_weight": ({"energy_weight": 50.0}, {}),
    "epochs": ({"epochs": 4}, {}),
    "force_loss": ({"force_loss": "mae"}, {}),
    "force_weight": ({"force_weight": 50.0}, {}),
    "huber_delta": ({"huber_delta": 0.5}, {"force_loss": "huber"}),
    "log_every": ({"log_every": 3}, {}),
    "lr": ({"lr": 0.02}, {}),
    "lr_min": ({"lr_min": 0.005}, {"scheduler": "cosine"}),
    "max_grad_norm": ({"max_grad_norm": 1e-3}, {"optimizer": "sgd"}),
    "max_seconds": ({"max_seconds": 1e-3}, {}),
    "save_every": ({"save_every": 3}, {}),
    "scheduler": ({"scheduler": "cosine"}, {}),
    "scheduler_gamma": ({"scheduler_gamma": 0.1}, {"scheduler": "exponential"}),
    "scheduler_step_size": ({"scheduler_step_size": 1}, {"scheduler": "step"}),
    "scheduler_step_unit": ({"scheduler_step_unit": "cycle"}, {"scheduler": "exponential", "cycle_steps": 2}),
    "cycle_steps": ({"cycle_steps": 4}, {"cycle_steps": 3}),
    "early_stop_factor": ({"early_stop_factor": 1.0001}, {"lr": 0.5}),
    "ema_decay": ({"ema_decay": 0.5}, {"ema_decay": 0.9}),
    "warmup_steps": ({"warmup_steps": 40}, {}),
    "weight_decay": ({"weight_decay": 10.0}, {"optimizer": "adamw"}),
}
"""From the resumption on: a change, and what has to be set for it to matter."""
HOW_IT_GOES = {"amp", "max_edges", "num_workers", "progress_bar", "progress_mininterval"}
"""Used, and of no effect on what comes of it (tests/unit/training/test_run_keys.py)."""
OF_SEVERAL_HEADS = {"head_key"}
DATA = {
    "refused": {"train", "indices", "indices_path", "train_indices", "replay", "replay_ratio", "replay_head",
                "energy_key", "forces_key"},
    "used": {"val", "val_indices"},
    "irrelevant": {"test", "cache"},
}  # fmt: skip


def test_every_key_is_in_a_table():
    assert set(MaceTraining.model_fields) == {*REFUSED, *USED, *HOW_IT_GOES, *OF_SEVERAL_HEADS}
    assert set(DataSpec.model_fields) == set.union(*DATA.values())


def weights(manifest):
    return torch.load(manifest.parent / "best_model.pt", weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lines(run_dir, *events):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if not events or line["event"] in events]


@pytest.fixture(scope="module")
def began(configure, tmp_path_factory):
    """``began(knobs)``: the run_dir of one epoch with them; the same knobs run once."""
    done = {}

    def of(knobs):
        key = json.dumps(knobs, sort_keys=True)
        if key not in done:
            run_dir = tmp_path_factory.mktemp("began") / "run"
            train(configure(run_dir, train={**knobs, "epochs": 1}))
            done[key] = run_dir
        return done[key]

    return of


@pytest.fixture(scope="module")
def resumed(configure, began, tmp_path_factory):
    """``resumed(context, change)``: weights and log, without times, of two more epochs in a run_dir of their own."""
    done = {}

    def of(context, change):
        key = json.dumps([context, change], sort_keys=True)
        if key not in done:
            knobs = {"input_json": None, "epochs": 3, **context, **change}
            run_dir = tmp_path_factory.mktemp("resumed") / "run"
            found = run(configure(run_dir, task="resume", model_in=str(began(context)), train=knobs))
            timeless = [{k: v for k, v in line.items() if "second" not in k} for line in lines(run_dir)]
            done[key] = weights(found.manifest), timeless
        return done[key]

    return of


@pytest.mark.parametrize("key", USED)
def test_a_key_that_may_change_is_used(resumed, key):
    change, context = USED[key]
    before, after = resumed(context, {}), resumed(context, change)
    assert not (equal(before[0], after[0]) and before[1] == after[1])


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_may_not_change_is_refused_by_name(configure, began, small, tmp_path, key):
    other = {**json.loads((small / "model.json").read_text()), "cutoff": 3.0}
    (tmp_path / "other.json").write_text(json.dumps(other))
    change = {"input_json": None, "epochs": 2, **REFUSED[key]}
    spec = configure(tmp_path / "run", task="resume", model_in=str(began({})), train=change)
    with pytest.raises(InputError, match=rf"\b{key}\b"):
        run(spec)
    assert not (tmp_path / "run").exists()


def test_the_average_cannot_be_switched_on(configure, began, tmp_path):
    with pytest.raises(InputError, match="ema: cannot resume: it was False and is True"):
        run(configure(tmp_path / "run", task="resume", model_in=str(began({})), train={"ema_decay": 0.9, "epochs": 2}))


def test_weight_decay_reaches_the_optimizer(configure, began, tmp_path):
    spec = configure(tmp_path / "run", task="resume", model_in=str(began({})), train={"weight_decay": 0.3})
    shutil.copytree(began({}) / "checkpoints", tmp_path / "run" / "checkpoints")
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "checkpoint.pt")
    trainer = Trainer(spec, prepare_from_checkpoint(spec, state), device="cpu")
    trainer.load()
    assert sorted({group["weight_decay"] for group in trainer.optimizer.param_groups}) == [0.0, 0.3]


def test_heads(configure, began, small, tmp_path):
    """A fine-tuned head is resumed by its name; the head it was copied from, or another new one, is refused."""
    parts = {"task": "finetune", "model_in": str(began({})), "train": {"new_head": "mine", "epochs": 1}}
    run(configure(tmp_path / "tuned", **parts))
    given = {"task": "resume", "model_in": str(tmp_path / "tuned")}
    for n, knobs in enumerate(({}, {"new_head": "mine"}, {"head_key": "mine"})):
        run(configure(tmp_path / f"more{n}", **given, train={"epochs": 2, **knobs}))
        assert load_checkpoint(tmp_path / f"more{n}" / "checkpoints" / "checkpoint.pt")["head"] == "mine"
    for knobs, key in (({"new_head": "other"}, "new_head"), ({"head_key": "Default"}, "head_key")):
        with pytest.raises(InputError, match=rf"train\.{key}: is '\w+', and .* trains head 'mine'"):
            run(configure(tmp_path / "no", **given, train={"epochs": 2, **knobs}))


def loss_of(line, energy_weight, force_weight):
    """The loss by its definition, from metrics that are measured without it."""
    return energy_weight * line["energy_rmse_per_atom"] ** 2 + force_weight * line["force_rmse"] ** 2


def test_the_kept_weights_are_the_best_by_the_present_loss(configure, began, small, tmp_path, caplog):
    """In the run's own run_dir: what is kept is the best of the old and the new weights by the new loss, and the
    metrics are those of the weights that are kept."""
    shutil.copytree(began({}), tmp_path / "run")
    knobs = {"epochs": 6, "force_weight": 1000.0, "energy_weight": 0.1}
    with caplog.at_level(logging.INFO, "rlpath"):
        found = run(configure(tmp_path / "run", task="resume", model_in=str(tmp_path / "run"), train=knobs))
    assert "measured anew" in caplog.text
    measured = lines(tmp_path / "run", "kept_weights", "validation")
    assert [line["event"] for line in measured[:1]] == ["kept_weights"]
    losses = [loss_of(line, 0.1, 1000.0) for line in measured]
    assert losses == pytest.approx([line["loss"] for line in measured], rel=1e-4)
    best = measured[losses.index(min(losses))]
    assert found.metrics["force_rmse"] == pytest.approx(best["force_rmse"])
    own = evaluate(load_model(found.manifest), read_labelled(small / "val.xyz"))
    assert found.metrics["force_mae"] == pytest.approx(own["force_mae"], rel=1e-4)


def test_another_validation_set_is_measured_anew(configure, began, small, tmp_path):
    shutil.copytree(began({}), tmp_path / "run")
    data = {"val": str(small / "train.xyz")}
    spec = configure(tmp_path / "run", task="resume", model_in=str(tmp_path / "run"), data=data, train={"lr": 2.0})
    found = run(spec)
    old = weights(began({}) / "artifacts" / "manifest.json")
    assert equal(weights(found.manifest), old), "a rate of 2 finds nothing better"
    own = evaluate(load_model(found.manifest), read_labelled(small / "train.xyz"))
    assert found.metrics["n_structures"] == 8
    assert found.metrics["force_mae"] == pytest.approx(own["force_mae"], rel=1e-4)


def test_in_another_run_dir_the_best_weights_travel_along(configure, began, tmp_path, caplog):
    """Where nothing better follows they are the result; a checkpoint alone has none to bring."""
    source = began({})
    worse = {"epochs": 2, "lr": 2.0}
    found = run(configure(tmp_path / "a", task="resume", model_in=str(source), train=worse))
    assert equal(weights(found.manifest), weights(source / "artifacts" / "manifest.json"))
    shutil.copy(source / "checkpoints" / "checkpoint.pt", tmp_path / "alone.pt")
    with caplog.at_level(logging.INFO, "rlpath"):
        found = run(configure(tmp_path / "b", task="resume", model_in=str(tmp_path / "alone.pt"), train=worse))
    assert "the best are chosen anew" in caplog.text
    first = lines(tmp_path / "b", "validation")[0]  # of the checkpoint's own weights
    assert found.metrics["force_mae"] == pytest.approx(first["force_mae"])


def test_a_run_that_ended_by_its_time_goes_on(configure, tmp_path):
    """The seconds count from where the session began."""
    limit = {"epochs": 100_000, "max_seconds": 0.1}
    first = train(configure(tmp_path / "run", train=limit)).metrics
    given = {"task": "resume", "model_in": str(tmp_path / "run")}
    second = run(configure(tmp_path / "run", **given, train=limit)).metrics
    assert second["stop_reason"] == "max_seconds"
    assert second["global_step"] > first["global_step"] > 0
    epochs = -(-second["global_step"] // 4) + 1
    third = run(configure(tmp_path / "run", **given, train={"epochs": epochs})).metrics
    assert (third["stop_reason"], third["global_step"]) == ("epochs", 4 * epochs)


def test_nothing_left_to_do_is_said(configure, began, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "rlpath"):
        run(configure(tmp_path / "run", task="resume", model_in=str(began({})), train={"epochs": 1}))
    assert "no update step was left to do (1 epochs are done, and train.epochs is 1)" in caplog.text


def test_other_training_data_are_refused_and_the_fix_named(configure, began, small, tmp_path):
    """More structures, as many others, or others of the same file: fine-tuning is for that."""
    everything = read_labelled(small / "train.xyz")
    write_extxyz(tmp_path / "grown.xyz", [*everything, everything[0]])
    write_extxyz(tmp_path / "others.xyz", everything[::-1])
    cases = [
        ({"train": str(tmp_path / "grown.xyz")}, r"data\.train: .*8 structures then, 9 now.*task: finetune"),
        ({"train": str(tmp_path / "others.xyz")}, r"data\.train: .*as many.*task: finetune"),
        ({"indices": [1, 0, 2, 3, 4, 5, 6, 7]}, r"data\.train: .*as many.*choice of entries.*task: finetune"),
        ({"replay": str(small / "val.xyz")}, r"data\.replay: .*0 structures then, 4 now.*task: finetune"),
    ]
    for data, message in cases:
        with pytest.raises(InputError, match=message):
            run(configure(tmp_path / "run", task="resume", model_in=str(began({})), data=data, train={"epochs": 2}))
        assert not (tmp_path / "run").exists()
    shutil.copy(small / "train.xyz", tmp_path / "moved.xyz")
    moved = {"train": str(tmp_path / "moved.xyz")}
    run(configure(tmp_path / "run", task="resume", model_in=str(began({})), data=moved, train={"epochs": 2}))


def test_a_checkpoint_is_a_model(configure, small, tmp_path):
    """The same weights as the bundle of that moment: the last ones, or their average where a run keeps one. A run_dir
    stands for its best weights in every task."""
    from mace.calculators import MACECalculator

    for name, knobs in (("plain", {}), ("average", {"ema_decay": 0.9})):
        spec = configure(tmp_path / name, data={"val": None}, train=knobs)  # without one, the last weights are kept
        last = train(spec)
        path = str(tmp_path / name / "checkpoints" / "checkpoint.pt")
        test = {"test": str(small / "val.xyz")}
        found = run(configure(tmp_path / f"{name}-e", task="evaluate", model_in=path, data=test))
        direct = evaluate(load_model(last.manifest), read_labelled(small / "val.xyz"))
        assert found["force_mae"] == direct["force_mae"]
        assert found["energy_mae"] == direct["energy_mae"]
        made = tmp_path / f"{name}-e" / "model_in" / "manifest.json"
        assert equal(weights(made), weights(last.manifest))
        exported = run(configure(tmp_path / f"{name}-x", task="export", model_in=path)).manifest
        assert equal(weights(exported), weights(last.manifest))
        atoms = read_labelled(small / "val.xyz")[0].structure.to_ase()
        atoms.calc = MACECalculator(str(exported.with_name("mace.model")), device="cpu", default_dtype="float64")
        own = load_model(made, dtype="float64").predict([read_labelled(small / "val.xyz")[0].structure])[0]
        assert own.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        tuned = run(configure(tmp_path / f"{name}-t", task="finetune", model_in=path, train={"epochs": 1}))
        assert json.loads(tuned.manifest.read_text())["source"]["sha256"] == sha256_of(
            tmp_path / f"{name}-t" / "model_in" / "manifest.json"
        )


def test_a_run_dir_is_exported_with_its_best_weights(configure, tmp_path):
    trained = train(configure(tmp_path / "run", train={"lr": 0.5, "epochs": 4}))
    exported = run(configure(tmp_path / "x", task="export", model_in=str(tmp_path / "run"))).manifest
    assert equal(weights(exported), weights(trained.manifest))
