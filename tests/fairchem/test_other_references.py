"""Fine-tuning on labels of another code: said before the first step, and mended by train.e0s: lstsq."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlpath_core.backends import load_model
from rlpath_core.data import read_labelled, write_extxyz
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.training import train
from rlpath_core.training.fairchem.config import read_config
from rlpath_core.training.options import read_run

ROOT = Path(__file__).parents[2]
OC22 = ROOT / "tests" / "data" / "oc22_emt"
TINY = {
    "num_layers": 1, "sphere_channels": 8, "attn_hidden_channels": 8, "attn_alpha_channels": 4, "lmax_list": [1],
    "attn_value_channels": 4, "ffn_hidden_channels": 8, "edge_channels": 8, "num_heads": 2, "mmax_list": [1],
    "max_radius": 4.0,
}  # fmt: skip
SHIFTS = {1: -13.0, 8: 400.0, 29: -1500.0}


def references(manifest):
    found = json.loads(manifest.read_text())["normalizer"]["element_references"]["energy"]["values"]
    return {int(z): value for z, value in found.items()}


def test_labels_of_another_code(tmp_path, caplog):
    sets = {"train": read_labelled(OC22 / "train")[:12], "val": read_labelled(OC22 / "val.lmdb")[:4]}
    for name, labelled in sets.items():
        write_extxyz(tmp_path / f"{name}.xyz", labelled)
        moved = [
            replace(one, energy=one.energy + sum(SHIFTS[int(z)] for z in one.structure.numbers)) for one in labelled
        ]
        write_extxyz(tmp_path / f"{name}_other.xyz", moved)
    config = read_config(ROOT / "configs" / "fairchem" / "equiformer_v2.yml")
    config["model"]["backbone"] |= TINY

    def run(name, data, lr, epochs, task="finetune", **more):
        config["optim"] |= {"batch_size": 4, "max_epochs": epochs, "lr_initial": lr}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(config))
        spec = {
            "backend": "equiformer_v2", "task": task, "run_dir": str(tmp_path / name), "device": "cpu",
            "data": {"train": str(tmp_path / f"train{data}.xyz"), "val": str(tmp_path / f"val{data}.xyz")},
            "train": {"config_yml": str(tmp_path / f"{name}.yml"), "progress_bar": False, **more.pop("train", {})},
            **more,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(json.dumps(spec))
        caplog.clear()
        with caplog.at_level(logging.INFO, "rlpath"):
            return train(read_run(tmp_path / f"{name}.yaml"))

    base = run("base", "", 3e-3, 6, task="train")
    start = {"model": {"manifest": str(base.manifest)}}
    run("same", "", 1e-9, 1, **start)
    assert [r.levelname for r in caplog.records if "eV/atom from the model's" in r.message] == ["INFO"]

    plain = run("plain", "_other", 1e-9, 1, **start)
    (said,) = [r for r in caplog.records if "eV/atom from the model's" in r.message]
    assert said.levelname == "WARNING"
    assert "other reference energies" in said.message
    assert "train.e0s: lstsq" in said.message
    assert references(plain.manifest) == pytest.approx(references(base.manifest), abs=1e-3)

    fitted = run("fitted", "_other", 1e-9, 1, **start, train={"e0s": "lstsq"})
    before = evaluate(load_model(base.manifest), sets["val"])["energy_mae_per_atom"]
    after = fitted.metrics["energy_mae_per_atom"]
    assert plain.metrics["energy_mae_per_atom"] > 100
    assert after < 2 * before + 0.05  # a shift per element is all that differed
    found, old = references(fitted.manifest), references(base.manifest)
    counts = np.array([[(one.structure.numbers == z).sum() for z in SHIFTS] for one in sets["train"]])
    moved = counts @ [found[z] - old[z] for z in SHIFTS]
    assert moved == pytest.approx(counts @ list(SHIFTS.values()), abs=0.5 * counts.sum(axis=1).max())

    with pytest.raises(InputError, match=r"train\.e0s: belongs to task finetune"):
        run("wrong", "", 1e-3, 1, task="train", train={"e0s": "lstsq"})
