"""Every task of configs/run/fairchem_*.yaml by its command, from this environment, and what is wrong in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.io import read

from flows.run import main
from rlpath_core.backends.environments import interpreter_of
from rlpath_core.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs" / "run"
MODELS = CONFIGS.parents[1] / "models"
TASKS = ("train", "finetune", "resume", "evaluate", "infer", "export")
PATHS = ("model_in", "train", "val", "test", "replay", "manifest", "config_yml")
TINY = {
    "equiformer_v2": [
        "--model.backbone.num_layers=1", "--model.backbone.sphere_channels=8", "--model.backbone.edge_channels=8",
        "--model.backbone.lmax_list=[1]", "--model.backbone.mmax_list=[1]",
    ],
    "gemnet_oc": [
        "--model.backbone.num_blocks=1", "--model.backbone.emb_size_atom=8", "--model.backbone.emb_size_edge=8",
        "--model.backbone.quad_interaction=True", "--model.backbone.cutoff=4.0", "--model.backbone.cutoff_aint=4.0",
        "--model.backbone.cutoff_qint=4.0", "--model.backbone.cutoff_aeaint=4.0", "--model.backbone.num_radial=8",
    ],
}  # fmt: skip

try:
    interpreter_of("equiformer_v2")
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


def shortened(backend, folder):
    """The shipped file, with few structures, a tiny network, and its outputs in ``folder``."""
    file = CONFIGS / f"fairchem_{backend}.yaml"
    runs = yaml.safe_load(file.read_text())["runs"]
    assert tuple(run["task"] for run in runs) == TASKS == tuple(run["name"] for run in runs)

    def moved(path):
        there = Path(CONFIGS / path).resolve()
        made = MODELS / backend
        return str(folder / there.relative_to(made) if there.is_relative_to(made) else there)

    for run in runs:
        for section in (run, run.get("data", {}), run.get("model", {}), run.get("train", {})):
            section |= {key: moved(section[key]) for key in PATHS if isinstance(section.get(key), str)}
        run["run_dir"] = moved(run["run_dir"])
        if "train" in run:
            run["data"]["train_indices"] = {"max_samples": 6}
            run["data"]["val_indices"] = {"max_samples": 3}
            run["train"] |= {"progress_bar": False}
            epochs = 2 if run["task"] == "resume" else 1
            given = [word for word in run.get("backend_args", []) if not word.startswith("--optim.max_epochs")]
            run["backend_args"] = [*given, *TINY[backend], f"--optim.max_epochs={epochs}", "--optim.batch_size=3"]
        elif "data" in run:
            run["data"]["indices"] = list(range(4))
    path = folder / "run.yaml"
    path.write_text(json.dumps({"runs": runs}))
    return path


@pytest.mark.integration
@pytest.mark.parametrize("backend", ["equiformer_v2", pytest.param("gemnet_oc", marks=pytest.mark.nightly)])
def test_all_tasks_run_by_their_command(backend, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flows.cli.server_url", lambda: None)
    config = shortened(backend, tmp_path)

    def run(task, *params):
        return main(["--config", str(config), "--run", task, "--params", "device=cpu", *params])

    for task in TASKS:
        assert run(task) == 0, capsys.readouterr().err
    steps = [json.loads(line) for line in (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [line["global_step"] for line in steps if line["event"] == "validation"] == [2, 4]
    for name in ("train", "finetune"):
        artifacts = {path.name for path in (tmp_path / name / "artifacts").iterdir()}
        assert artifacts == {"best_model.pt", "manifest.json", "model.json"}
        assert (tmp_path / name / "checkpoints" / "checkpoint.pt").is_file()
        assert (tmp_path / name / "fairchem.log").stat().st_size > 1000
    parent = json.loads((tmp_path / "finetune" / "artifacts" / "manifest.json").read_text())["source"]
    assert parent["format"] == "rlpath-bundle"
    assert (tmp_path / "export" / "artifacts" / "manifest.json").is_file()
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert metrics["headline"]["of"] == "tag 2, 80-100 %"
    frames = read(tmp_path / "infer" / "predictions.extxyz", ":")
    assert np.isfinite([atoms.get_potential_energy() for atoms in frames]).all()


@pytest.mark.integration
def test_what_is_wrong_is_one_line_and_leaves_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flows.cli.server_url", lambda: None)
    config = shortened("equiformer_v2", tmp_path)
    other = MODELS / "starter-gemnet_oc"
    (tmp_path / "odd.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for task, params, said in (
        ("finetune", ["train.config_yml=nowhere.yml"], "nowhere.yml: train.config_yml: no such file"),
        (
            "finetune",
            [f"model_in={MODELS / 'starter'}"],
            "backend: is of backend mace, and the run is of equiformer_v2",
        ),
        ("finetune", [f"model_in={other}"], "backend: is of backend gemnet_oc, and the run is of equiformer_v2"),
        (
            "train",
            ["backend=gemnet_oc"],
            "model.name: is a network of backend equiformer_v2, and the run is of gemnet_oc",
        ),
        ("train", ["backend_python=/nowhere"], "backend_python: no such Python for equiformer_v2: /nowhere"),
        (
            "finetune",
            [f"model_in={tmp_path / 'odd.pt'}"],
            "odd.pt: not a file of tensors, damaged, or it holds pickled",
        ),
        ("resume", [f"model_in={other / 'best_model.pt'}"], "best_model.pt: not a checkpoint of a run of ours"),
    ):
        words = ["--config", str(config), "--run", task, "--params", "device=cpu", f"run_dir={tmp_path / 'wrong'}"]
        assert main([*words, *params]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert said in error
        assert "\n" not in error
        assert not (tmp_path / "wrong").exists()
    assert not Path("ran").exists()
