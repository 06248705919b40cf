"""FairChem's runs that are resumed with other settings, data or time, and values that are not finite."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from fairchem.core.common import distutils
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports

from rlpath_core.backends import load_model
from rlpath_core.data import S2EFWriter, read_labelled
from rlpath_core.data.labelled import Labelled
from rlpath_core.errors import FatalError, InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.training.fairchem import worker
from rlpath_core.training.inputs import Inputs
from rlpath_core.training.options import read_run


def checkpoint(run_dir):
    return torch.load(run_dir / "checkpoints" / "checkpoint.pt", weights_only=True)


def log(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def trained(path, **changes):
    """A run in this process: its answer and its reports by kind."""
    reports = {}
    spec = read_run(path, overrides=changes)
    Inputs.of(spec).write(spec.run_dir)
    setup_imports()
    known = registry.mapping["trainer_name_mapping"]
    before = dict(known)
    try:
        answer = worker.run(spec, lambda **line: reports.setdefault(line["event"], []).append(line))
    finally:
        known.update(before)  # other tests train with FairChem's own
        distutils.cleanup()  # FairChem leaves its group of processes behind where it fails
    return answer, reports


def rates(run_dir):
    return {line["global_step"]: line["lr"] for line in log(run_dir) if line["event"] == "step"}


def cosine(step, epochs, lr):
    """configs/fairchem/equiformer_v2.yml with four update steps an epoch: one epoch of warm-up, then a cosine."""
    if step <= 4:
        return lr * (0.2 * (1 - step / 4) + step / 4)
    return lr * (0.01 + 0.99 * (1 + math.cos(math.pi * step / (4 * epochs))) / 2)


@pytest.fixture
def began(configure, tmp_path):
    """The run_dir of two epochs, at a rate of 0.005."""
    trained(configure("run", optim={"max_epochs": 2}))
    return tmp_path / "run"


def test_rates_and_decay_are_those_of_the_resumption(configure, began, tmp_path):
    optim = {"max_epochs": 4, "lr_initial": 0.002, "optimizer_params": {"weight_decay": 0.0, "eps": 1e-6}}
    path = configure("more", optim=optim, task="resume", model_in=str(began))
    trained(path)
    before, found = rates(began), rates(tmp_path / "more")
    assert [before[n] for n in range(1, 9)] == pytest.approx([cosine(n - 1, 2, 0.005) for n in range(1, 9)])
    assert [found[n] for n in range(9, 17)] == pytest.approx([cosine(n - 1, 4, 0.002) for n in range(9, 17)])
    group = checkpoint(tmp_path / "more")["optimizer"]["param_groups"][0]
    assert (group["eps"], group["initial_lr"]) == (1e-6, 0.002)
    decay = {"max_epochs": 4, "optimizer_params": {"weight_decay": 0.1}}
    path = configure("no", optim=decay, task="resume", model_in=str(began))
    with pytest.raises(InputError, match=r"optim\.optimizer_params\.weight_decay: .*switched on or off"):
        trained(path)


def test_kept_weights_are_measured_by_the_present_set(configure, began, lmdb, tmp_path):
    """At a rate of nearly zero nothing better follows: the old best weights are the result, measured on the new set."""
    optim = {"max_epochs": 3, "lr_initial": 1e-12}
    other = {"val": str(lmdb / "train.lmdb")}
    answer, reports = trained(configure("more", optim=optim, task="resume", model_in=str(began), data=other))
    kept = reports["kept_weights"][0]
    assert kept["global_step"] == 8
    own = evaluate(load_model(tmp_path / "more" / "artifacts"), read_labelled(lmdb / "train.lmdb"))
    assert answer["metrics"]["force_mae"] == pytest.approx(own["force_mae"], rel=1e-4)
    assert reports["trained"][0]["best"] <= kept["forces_mae"]
    (began / "checkpoints" / "best_checkpoint.pt").unlink()
    _, reports = trained(configure("alone", optim=optim, task="resume", model_in=str(began)))
    assert "kept_weights" not in reports
    assert reports["trained"][0]["best"] == pytest.approx(reports["validation"][-1]["forces_mae"], rel=1e-3)


def test_other_data_and_transforms_are_refused_by_name(configure, began, lmdb, tmp_path):
    for data, message in (
        ({"train": str(lmdb / "val.lmdb")}, r"data\.train: .*8 structures then, 4 now.*task: finetune"),
        ({"indices": [1, 0, 2, 3, 4, 5, 6, 7]}, r"data\.train: .*as many.*task: finetune"),
    ):
        path = configure("no", optim={"max_epochs": 3}, task="resume", model_in=str(began), data=data)
        with pytest.raises(InputError, match=message):
            trained(path)
        shutil.rmtree(tmp_path / "no")
    mean = {"dataset": {"train": {"transforms": {"normalizer": {"energy": {"mean": -1.0, "stdev": 2.0}}}}}}
    path = configure("no", optim={"max_epochs": 3}, config=mean, task="resume", model_in=str(began))
    with pytest.raises(InputError, match="transforms: cannot resume"):
        trained(path)


def test_a_run_that_ended_by_its_time_goes_on(configure, tmp_path):
    limit = {"train": {"max_seconds": 0.3}}
    _, first = trained(configure("run", optim={"max_epochs": 1000}), **limit)
    path = configure("run", optim={"max_epochs": 1000}, task="resume", model_in=str(tmp_path / "run"))
    _, second = trained(path, **limit)
    assert first["trained"][0]["stop_reason"] == second["trained"][0]["stop_reason"] == "max_seconds"
    assert second["trained"][0]["global_step"] > first["trained"][0]["global_step"]


def test_structures_that_are_not_finite_are_named(configure, lmdb, tmp_path):
    """Two atoms in one place before anything starts; an absurd label where it makes a loss that is not finite."""
    found = read_labelled(lmdb / "val.lmdb")
    positions = found[1].structure.positions.copy()
    positions[3] = positions[0]
    twice = replace(found[1], structure=replace(found[1].structure, positions=positions))
    absurd = Labelled(found[2].structure, found[2].energy, np.full_like(found[2].forces, 1e38), found[2].sid)
    for name, entries in (("twice", [found[0], twice]), ("absurd", [found[0], found[1], absurd])):
        with S2EFWriter(tmp_path / f"{name}.lmdb") as writer:
            for n, one in enumerate(entries):
                writer.add(one, str(n))
    path = configure("a", data={"val": str(tmp_path / "twice.lmdb")})
    with pytest.raises(InputError, match=r"twice\.lmdb: data\.val, entry 1: atoms 0 and 3 are 0 Å apart"):
        trained(path)
    path = configure("b", optim={"eval_batch_size": 1}, data={"val": str(tmp_path / "absurd.lmdb")})
    with pytest.raises(FatalError, match=r"not finite in the validation at update step 4; .*data\.val, entry 2"):
        trained(path)
    for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    state = checkpoint(tmp_path / "b")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
