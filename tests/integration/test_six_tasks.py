"""Every task of configs/run by its command, in order: on GFN1-xTB labels made here, and on FairChem's own LMDB."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.io import read

from flows.run import main

CONFIGS = Path(__file__).parents[2] / "configs" / "run"
TASKS = ("train", "finetune", "resume", "evaluate", "infer", "export")
SHORT = {
    "examples": {"max_samples": 16, "train": {"epochs": 1}, "resume": {"epochs": 2}, "finetune": {"epochs": 1}},
    "oc22_emt": {"max_samples": 12, "train": {"epochs": 4}, "resume": {"epochs": 6}, "finetune": {"epochs": 2}},
}
PATHS = ("model_in", "train", "val", "test", "replay", "manifest", "input_json")


@pytest.mark.integration
@pytest.mark.parametrize("name", list(SHORT))
def test_all_tasks_run_by_their_command(name, tmp_path, capsys, monkeypatch):
    """The shipped file, shortened and with its outputs elsewhere."""
    monkeypatch.setattr("flows.cli.server_url", lambda: None)
    original, short = CONFIGS / f"{name}.yaml", SHORT[name]
    moved = {f"{run['run_dir']}": str(tmp_path / run["name"]) for run in yaml.safe_load(original.read_text())["runs"]}
    runs = []
    for run in yaml.safe_load(original.read_text())["runs"]:
        assert run["task"] == run["name"]
        for section in (run, run.get("data", {}), run.get("model", {}), run.get("train", {})):
            for key in PATHS:
                if isinstance(section.get(key), str):
                    section[key] = moved.get(section[key], str(CONFIGS / section[key]))
        run["run_dir"] = moved[run["run_dir"]]
        if run["task"] in ("train", "finetune", "resume"):
            run["train"] |= short[run["task"]]
            indices = run["data"].setdefault("train_indices", {})
            indices["max_samples"] = min(short["max_samples"], indices.get("max_samples", short["max_samples"]))
        if "data" in run and name == "examples":
            run["data"]["val_indices"] = {"max_samples": 8}
            if "test" in run["data"]:
                run["data"]["indices"] = list(range(6))
        runs.append(run)
    config = tmp_path / f"{name}.yaml"
    config.write_text(json.dumps({"runs": runs}))
    for task in TASKS:
        code = main(["--config", str(config), "--run", task, "--params", "device=cpu", "train.progress_bar=false"])
        assert code == 0, capsys.readouterr().err
    written = {p.name for p in Path(moved_of(moved, "export")).rglob("*") if p.is_file()}
    assert written == {"best_model.pt", "manifest.json", "model.json", "mace.model", "export.yaml"}
    metrics = json.loads((Path(moved_of(moved, "evaluate")) / "metrics.json").read_text())
    assert metrics["headline"]["of"] == "tag 2, 80-100 %"
    assert set(metrics["by_element"]) == ({"Cu", "O", "H"} if name == "oc22_emt" else {"Mg", "O", "H"})
    frames = read(Path(moved_of(moved, "infer")) / "predictions.extxyz", ":")
    assert np.isfinite([atoms.get_potential_energy() for atoms in frames]).all()


def moved_of(moved, task):
    return next(new for old, new in moved.items() if old.endswith(f"/{task}"))
