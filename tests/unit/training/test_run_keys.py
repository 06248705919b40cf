"""What each key of run.yaml does, beyond being read."""

import json

import numpy as np
import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.data import read_labelled
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.training import run, train
from rlpath_core.training.dataset import choose_indices, split_by_edges
from rlpath_core.training.loop import Trainer
from rlpath_core.training.losses import POINT_LOSSES, EnergyForceLoss
from rlpath_core.training.optim import MovingAverage, Schedule
from rlpath_core.training.options import DataSpec, IndexSpec, MaceTraining
from rlpath_core.training.setup import prepare, read_splits

pytestmark = pytest.mark.slow

CHANGES = {
    "accum_steps": ({"accum_steps": 2}, {}),
    "batch_size": ({"batch_size": 4}, {}),
    "cycle_steps": ({"cycle_steps": 3}, {}),
    "drop_last": ({"drop_last": True}, {"batch_size": 3}),
    "dtype": ({"dtype": "float64"}, {}),
    "early_stop_factor": ({"early_stop_factor": 1.0001}, {"lr": 0.5, "epochs": 5}),
    "ema_decay": ({"ema_decay": 0.5}, {}),
    "energy_loss": ({"energy_loss": "mae"}, {}),
    "energy_loss_per": ({"energy_loss_per": "configuration"}, {}),
    "energy_weight": ({"energy_weight": 50.0}, {}),
    "epochs": ({"epochs": 3}, {}),
    "force_loss": ({"force_loss": "mae"}, {}),
    "force_weight": ({"force_weight": 50.0}, {}),
    "freeze": ({"freeze": "head_only"}, {}),
    "huber_delta": ({"huber_delta": 0.5}, {"force_loss": "huber"}),
    "log_every": ({"log_every": 3}, {}),
    "lr": ({"lr": 0.02}, {}),
    "lr_min": ({"lr_min": 0.005}, {"scheduler": "cosine"}),
    "max_grad_norm": ({"max_grad_norm": 1e-3}, {"optimizer": "sgd"}),
    "max_seconds": ({"max_seconds": 1e-3}, {}),
    "optimizer": ({"optimizer": "sgd"}, {}),
    "save_every": ({"save_every": 2}, {}),
    "scheduler": ({"scheduler": "cosine"}, {}),
    "scheduler_gamma": ({"scheduler_gamma": 0.1}, {"scheduler": "exponential"}),
    "scheduler_step_size": ({"scheduler_step_size": 1}, {"scheduler": "step"}),
    "scheduler_step_unit": ({"scheduler_step_unit": "cycle"}, {"scheduler": "exponential", "cycle_steps": 2}),
    "seed": ({"seed": 1}, {}),
    "warmup_steps": ({"warmup_steps": 4}, {}),
    "weight_decay": ({"weight_decay": 10.0}, {"optimizer": "adamw"}),
}
"""Key of ``train``: a change of it, and what has to be set for it to matter."""
CHANGES_NOTHING = {"amp": True, "num_workers": 2, "progress_bar": True, "progress_mininterval": 0.0}
"""On a CPU, or ever: how a run goes and not what comes of it."""
OTHER_TESTS = {"e0s", "head_key", "input_json", "max_edges", "new_head"}
"""Keys that need another model or other data, or change no more than rounding: each has a test below."""


def test_every_key_of_the_trainer_is_changed_below():
    assert set(MaceTraining.model_fields) == {*CHANGES, *CHANGES_NOTHING, *OTHER_TESTS}


@pytest.fixture(scope="module")
def outcome(configure, tmp_path_factory):
    """``outcome(knobs)``: the kept weights and the log of a run, without its times; the same knobs run once."""
    done = {}

    def of(knobs):
        key = json.dumps(knobs, sort_keys=True)
        if key not in done:
            result = train(configure(tmp_path_factory.mktemp("run") / "run", train=knobs))
            text = (result.manifest.parents[1] / "metrics.jsonl").read_text()
            log = [json.loads(line) for line in text.splitlines()]
            timeless = [{k: v for k, v in line.items() if "second" not in k} for line in log]
            done[key] = weights(result.manifest), timeless
        return done[key]

    return of


def equal(one, other):
    same_weights = all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())
    return same_weights and one[1] == other[1]


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_changes_the_run(outcome, key):
    change, context = CHANGES[key]
    assert not equal(outcome(context), outcome({**context, **change}))


@pytest.mark.parametrize("key", CHANGES_NOTHING)
def test_a_key_changes_nothing_but_how(outcome, key):
    assert equal(outcome({}), outcome({key: CHANGES_NOTHING[key]}))


@pytest.fixture(scope="module")
def trained(configure, tmp_path_factory):
    return train(configure(tmp_path_factory.mktemp("trained") / "run"))


def trainer_of(spec):
    return Trainer(spec, prepare(spec), device="cpu")


def lines(folder, event):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == event]


def weights(manifest):
    return torch.load(manifest.parent / "best_model.pt", weights_only=True)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("backend_python", "/usr/bin/python3"),
        ("backend_env", {"A": "b"}),
        ("backend_args", ["--x"]),
        ("train.config_yml", "c.yml"),
        ("train.identifier", "mine"),
    ],
)
def test_keys_of_fairchem_are_errors_for_mace(configure, tmp_path, where, value):
    section, _, key = where.rpartition(".")
    with pytest.raises(InputError, match=f"{where}: belongs to the FairChem backends"):
        configure(tmp_path / "run", **({section: {key: value}} if section else {key: value}))


def test_weights_in_place_of_the_manifests(configure, trained, tmp_path):
    state = weights(trained.manifest)
    torch.save({name: torch.zeros_like(t) if "readouts" in name else t for name, t in state.items()}, tmp_path / "w.pt")
    plain = run(configure(tmp_path / "a", task="evaluate", model={"manifest": str(trained.manifest)}))
    given = {"manifest": str(trained.manifest), "weights": str(tmp_path / "w.pt")}
    other = run(configure(tmp_path / "b", task="evaluate", model=given))
    assert other["force_mae"] != plain["force_mae"]
    assert other["by_tag"]["2"]["force_cosine"] == 0.0  # a network without readouts has no forces


def test_finetune_a_foreign_model_with_trust_pickle(configure, trained, tmp_path):
    exported = run(configure(tmp_path / "x", task="export", model_in=str(trained.manifest))).manifest.parent
    given = {"model_in": str(exported / "mace.model"), "task": "finetune"}
    with pytest.raises(InputError, match=r"model\.trust_pickle"):
        run(configure(tmp_path / "no", **given))
    assert not (tmp_path / "no").exists()
    spec = configure(tmp_path / "yes", **given, model={"trust_pickle": True}, train={"epochs": 1, "dtype": "float64"})
    tuned = run(spec)
    assert (tmp_path / "yes" / "model_in" / "manifest.json").is_file()
    assert tuned.metrics["global_step"] == 4
    assert run(spec) == tuned  # the run is finished: nothing is opened or trained again


def test_splits_and_their_indices(configure, oc22, tmp_path):
    """Which entries train, and which validate, under every control; two shards count as one data set."""
    (tmp_path / "chosen.json").write_text("[30, 2]")
    everything = read_labelled(oc22 / "train")
    energies = [one.energy for one in everything]
    held_out = [one.energy for one in read_labelled(oc22 / "val.lmdb")]

    def found(**data):
        spec = configure(tmp_path / "run", data={"train": str(oc22 / "train"), "val": str(oc22 / "val.lmdb"), **data})
        splits = read_splits(spec, [1, 8, 29])
        return [one.energy for one in splits.new], [one.energy for one in splits.val]

    assert found() == (energies, held_out)
    file = str(tmp_path / "chosen.json")
    assert found(indices=[3, 25])[0] == [energies[3], energies[25]]
    assert found(indices_path=file)[0] == [energies[30], energies[2]]
    assert found(indices=[1], indices_path=file)[0] == [energies[1]]
    assert found(indices=[1])[1] == held_out  # the active split is the one that trains
    for n, split, pool in ((0, "train_indices", energies), (1, "val_indices", held_out)):
        assert found(**{split: {"max_samples": 5}})[n] == pool[:5]
        drawn = found(**{split: {"max_samples": 5, "shuffle": True, "seed": 3}})[n]
        assert drawn == [pool[i] for i in np.random.default_rng(3).permutation(len(pool))[:5]]
        assert drawn != found(**{split: {"max_samples": 5, "shuffle": True, "seed": 4}})[n]
        (tmp_path / "two.json").write_text("[1, 0]")
        listed = {"indices_path": str(tmp_path / "two.json"), "max_samples": 1}
        assert found(**{split: listed})[n] == [pool[1], pool[0]]
    assert choose_indices(4, DataSpec(indices=[2]), IndexSpec(), False) == [0, 1, 2, 3]


def test_cache_and_max_edges_change_nothing_but_how(configure, trained, tmp_path, monkeypatch):
    """Bitwise the same with neighbour lists from disk, built once; the same update in pieces of few edges."""
    cached = {"data": {"cache": str(tmp_path / "cache")}}
    first = train(configure(tmp_path / "a", **cached))
    assert weights(first.manifest).keys() == weights(trained.manifest).keys()
    assert all(torch.equal(a, weights(first.manifest)[k]) for k, a in weights(trained.manifest).items())
    monkeypatch.setattr("rlpath_core.data.neighbour_cache._build", lambda *_: pytest.fail("built again"))
    assert train(configure(tmp_path / "b", **cached)).metrics == first.metrics
    whole = train(configure(tmp_path / "c", train={"dtype": "float64"}))
    pieces = train(configure(tmp_path / "d", train={"dtype": "float64", "max_edges": 1}))
    for name, tensor in weights(whole.manifest).items():
        torch.testing.assert_close(weights(pieces.manifest)[name], tensor, rtol=1e-6, atol=1e-9)
    assert split_by_edges([4, 0, 1, 2], np.array([3, 3, 9, 0, 2]), 5) == [[4, 0], [1], [2]]


def test_dtype_and_input_json(configure, small, tmp_path):
    narrow = {**json.loads((small / "model.json").read_text()), "hidden_irreps": "2x0e"}
    (tmp_path / "narrow.json").write_text(json.dumps(narrow))
    trainer = trainer_of(
        configure(tmp_path / "run", train={"dtype": "float64", "input_json": str(tmp_path / "narrow.json")})
    )
    assert {p.dtype for p in trainer.parameters} == {torch.float64}
    assert trainer.net.node_embedding.linear.irreps_out.dim == 2


def test_epochs_batch_size_save_every_and_log_every(configure, tmp_path):
    spec = configure(tmp_path / "run", train={"epochs": 3, "batch_size": 4, "save_every": 2, "log_every": 2})
    assert train(spec).metrics["global_step"] == 6
    assert [line["global_step"] for line in lines(tmp_path / "run", "step")] == [2, 4, 6]
    assert [line["epoch"] for line in lines(tmp_path / "run", "validation")] == [2, 3]  # the last is always measured


def test_weight_decay_shrinks_what_it_acts_on(configure, tmp_path):
    def after(decay):
        knobs = {"weight_decay": decay, "optimizer": "adamw", "epochs": 1}
        state = weights(train(configure(tmp_path / str(decay), train=knobs)).manifest)
        return [float(state[f"{part}.linear.weight"].square().sum()) for part in ("products.0", "readouts.0")]

    none, strong = after(0.0), after(30.0)
    assert strong[0] < 0.5 * none[0]
    assert strong[1] > 0.5 * none[1]


def test_amp_asks_for_autocast_on_a_gpu_only(configure, trained, tmp_path, monkeypatch):
    """On a CPU it changes nothing; on a GPU the network runs in bfloat16."""
    same = train(configure(tmp_path / "run", train={"amp": True}))
    assert same.metrics["force_mae"] == trained.metrics["force_mae"]
    spec = configure(tmp_path / "e", task="evaluate", model_in=str(trained.manifest), eval={"amp": True})
    assert run(spec)["force_mae"] == pytest.approx(trained.metrics["force_mae"], rel=1e-4)
    asked = []
    monkeypatch.setattr("rlpath_core.training.predicting.load_model", lambda *a, **k: asked.append(k) or _stop())
    with pytest.raises(StopIteration):
        run(spec)
    assert asked[0]["amp"] is True
    trainer = trainer_of(configure(tmp_path / "gpu", train={"amp": True}))
    entered = []

    class Autocast:
        def __init__(self, kind, dtype, enabled):
            entered.append((kind, dtype, enabled))

        def __enter__(self):
            _stop()

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(torch, "autocast", Autocast)
    for device in ("cpu", "cuda:0"):
        trainer.device = device
        with pytest.raises(StopIteration):
            trainer._outputs({}, training=True, needs_forces=True)
    assert entered == [("cpu", torch.bfloat16, False), ("cuda", torch.bfloat16, True)]


def _stop():
    raise StopIteration


def test_drop_last_and_cycle_steps(configure, tmp_path):
    """8 structures by 3 are 3 update steps, or 2 whole ones; cycles force the latter and set when to measure."""
    all_steps = train(configure(tmp_path / "a", train={"batch_size": 3, "epochs": 1})).metrics
    whole = train(configure(tmp_path / "b", train={"batch_size": 3, "epochs": 1, "drop_last": True})).metrics
    cycles = train(configure(tmp_path / "c", train={"batch_size": 3, "epochs": 2, "cycle_steps": 2})).metrics
    assert (all_steps["global_step"], whole["global_step"], cycles["global_step"]) == (3, 2, 4)
    assert [line["global_step"] for line in lines(tmp_path / "c", "validation")] == [2, 4, 4]


def test_max_grad_norm_bounds_an_sgd_step(configure, tmp_path):
    knobs = {"optimizer": "sgd", "lr": 1.0, "max_grad_norm": 1e-3, "epochs": 1, "batch_size": 8}
    trainer = trainer_of(configure(tmp_path / "run", train=knobs))
    before = [p.detach().clone() for p in trainer.parameters]
    group = trainer._groups(0)[0]
    trainer.update_step(iter([trainer._batch(group[0])]), group, 1)
    moved = sum(float((p.detach() - b).square().sum()) for p, b in zip(trainer.parameters, before, strict=True)) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_progress_bar_and_progress_mininterval(configure, tmp_path, capfd):
    train(configure(tmp_path / "off"))
    assert "%|" not in capfd.readouterr().err
    train(configure(tmp_path / "often", train={"progress_bar": True, "progress_mininterval": 0.0, "epochs": 1}))
    often = capfd.readouterr().err.count("\r")
    train(configure(tmp_path / "seldom", train={"progress_bar": True, "progress_mininterval": 60.0, "epochs": 1}))
    assert often > capfd.readouterr().err.count("\r") > 0


def test_loss_by_hand():
    energy, forces = torch.tensor([2.0, -4.0]), torch.tensor([[0.1, 0, 0], [0, 0.5, 0], [0, 0, -0.3]])
    target = {"energy": torch.zeros(2), "forces": torch.zeros(3, 3), "n_atoms": torch.tensor([1.0, 2.0])}

    def total(energy_weight=1.0, force_weight=1.0, energy_loss="mse", force_loss="mse", huber_delta=0.2, per="atom"):
        knobs = MaceTraining(
            energy_weight=energy_weight, force_weight=force_weight, energy_loss=energy_loss, force_loss=force_loss,
            huber_delta=huber_delta, energy_loss_per=per,
        )  # fmt: skip
        loss = EnergyForceLoss(
            knobs.energy_weight, knobs.force_weight, POINT_LOSSES[knobs.energy_loss], POINT_LOSSES[knobs.force_loss],
            knobs.huber_delta, knobs.energy_loss_per == "atom",
        )  # fmt: skip
        return float(loss(energy, forces, target, 2, 3)[0])

    assert total(force_weight=0.0) == pytest.approx((4 + 4) / 2)
    assert total(force_weight=0.0, per="configuration") == pytest.approx((4 + 16) / 2)
    assert total(energy_weight=3.0, force_weight=0.0, energy_loss="mae") == pytest.approx(3 * 2)
    assert total(energy_weight=0.0) == pytest.approx((0.01 + 0.25 + 0.09) / 9)
    assert total(energy_weight=0.0, force_weight=2.0, force_loss="mae") == pytest.approx(2 * 0.9 / 9)
    huber = 0.01 + 0.2 * (1.0 - 0.2) + 0.2 * (0.6 - 0.2)
    assert total(energy_weight=0.0, force_loss="huber") == pytest.approx(huber / 9)
    assert total(energy_weight=0.0, force_loss="huber", huber_delta=9.0) == total(energy_weight=0.0)


def test_plateau_drops_after_evaluations_down_to_lr_min():
    spec = MaceTraining(scheduler="plateau", scheduler_step_size=1, scheduler_gamma=0.1, lr=1.0, lr_min=0.05)
    schedule = Schedule(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), spec, 1)
    rates = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.1):
        schedule.end_unit("epoch")
        schedule.after_evaluation(loss)
        rates.append(schedule.rate())
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.05, 0.05])


def test_ema_decay_by_hand():
    parameter = torch.nn.Parameter(torch.zeros(1))
    average = MovingAverage([parameter], MaceTraining(ema_decay=0.5).ema_decay)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update(1)  # early: (1 + 1) / (10 + 1) of the old
    average.update(1000)
    expected = 1 - 0.5 * 2 / 11
    average.swap()
    assert float(parameter.detach()) == pytest.approx(expected)
    average.swap()
    assert float(parameter.detach()) == 1.0


def test_new_head_learns_and_replay_head_keeps_the_old(configure, trained, small, tmp_path):
    """A second head for shifted labels. Replayed data go to the old one, whose answers then stay close."""
    from dataclasses import replace

    from rlpath_core.data import write_extxyz

    old = read_labelled(small / "val.xyz")
    shifted = [replace(one, energy=one.energy + 2.0 * (one.structure.numbers == 29).sum()) for one in old]
    write_extxyz(tmp_path / "shifted.xyz", shifted)
    spec = configure(
        tmp_path / "run",
        task="finetune",
        model_in=str(trained.manifest),
        data={
            "train": str(tmp_path / "shifted.xyz"), "val": str(tmp_path / "shifted.xyz"),
            "replay": str(small / "train.xyz"), "replay_head": "Default",
        },
        train={"new_head": "slab", "e0s": "lstsq", "epochs": 3},
    )  # fmt: skip
    tuned = train(spec)
    before = evaluate(load_model(trained.manifest), old)["energy_mae_per_atom"]
    kept = evaluate(load_model(tuned.manifest, head="Default"), old)["energy_mae_per_atom"]
    own = evaluate(load_model(tuned.manifest, head="slab"), shifted)["energy_mae_per_atom"]
    wrong = evaluate(load_model(tuned.manifest, head="Default"), shifted)["energy_mae_per_atom"]
    assert kept < before + 0.3
    assert own < 0.3 * wrong
    assert load_model(tuned.manifest).architecture.heads == ["Default", "slab"]
    by_key = {"task": "evaluate", "model_in": str(tuned.manifest), "data": {"test": str(tmp_path / "shifted.xyz")}}
    first = run(configure(tmp_path / "e1", **by_key, train={"head_key": "slab"}))
    assert first["energy_mae_per_atom"] == pytest.approx(own, rel=1e-5)
    with pytest.raises(InputError, match="Did you mean 'slab'"):
        run(configure(tmp_path / "e2", **by_key, train={"head_key": "slob"}))


def test_e0s_given_lstsq_or_the_models(configure, trained, small, tmp_path):
    value = {**json.loads((small / "model.json").read_text()), "e0_values": [-1.0, -2.0, -3.0]}
    (tmp_path / "e0.json").write_text(json.dumps(value))

    def table(**parts):
        trainer = trainer_of(configure(tmp_path / "run", **parts))
        return trainer.architecture.e0_table[0].tolist()

    given = {"input_json": str(tmp_path / "e0.json")}
    assert table(train=given) == table(train={**given, "e0s": "given"}) == [-1, -2, -3]
    fitted = table(train={**given, "e0s": "lstsq"})
    assert fitted == table() != [-1, -2, -3]
    tuned = {"task": "finetune", "model_in": str(trained.manifest)}
    own = load_model(trained.manifest).architecture.e0_table[0].tolist()
    assert table(**tuned) == table(**tuned, train={"e0s": "model"}) == own
    half = table(**tuned, train={"e0s": "lstsq"}, data={"indices": [0, 1, 2, 3]})
    assert half != own
    with pytest.raises(InputError, match=r"train\.e0s: model: there is none"):
        table(train={"e0s": "model"})


def test_eval_batch_size_and_formats(configure, trained, tmp_path, monkeypatch):
    from rlpath_core.backends.mace.model import MaceModel

    sizes = []
    predict = MaceModel.predict
    monkeypatch.setattr(MaceModel, "predict", lambda self, s, **k: sizes.append(len(s)) or predict(self, s, **k))
    pytest.importorskip("pyarrow")
    spec = configure(
        tmp_path / "run",
        task="infer",
        model_in=str(trained.manifest),
        eval={"batch_size": 3, "formats": ["parquet", "lmdb"]},
    )
    assert run(spec).name == "predictions.parquet"
    assert sizes == [3, 1]
    run_dir = tmp_path / "run"
    assert {p.name for p in run_dir.iterdir()} == {"predictions.parquet", "predictions.lmdb", "infer.yaml"}


def test_infer_needs_no_labels(configure, trained, small, tmp_path):
    from ase.io import read, write

    bare = [one.structure.to_ase() for one in read_labelled(small / "val.xyz")]
    write(tmp_path / "bare.xyz", bare, format="extxyz")
    given = {"model_in": str(trained.manifest), "data": {"test": str(tmp_path / "bare.xyz")}}
    predicted = read(run(configure(tmp_path / "run", task="infer", **given)), ":")
    known = evaluate(load_model(trained.manifest), read_labelled(small / "val.xyz"))
    labels = read_labelled(small / "val.xyz")
    errors = [a.get_potential_energy() - b.energy for a, b in zip(predicted, labels, strict=True)]
    assert np.abs(errors).mean() == pytest.approx(known["energy_mae"], rel=1e-4)
    with pytest.raises(InputError, match="frame 0: has no REF_forces or forces or force; 4 of 4 frames lack forces"):
        run(configure(tmp_path / "no", task="evaluate", **given))
