"""run.yaml: the section of each backend's trainer, one check, and the way of one key from the file to its effect."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.run import main
from rlpath_core.errors import InputError
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.loop import Trainer
from rlpath_core.training.options import MaceTraining, RunSpec, read_run

ROOT = Path(__file__).parents[3]
EMT = "ase:ase.calculators.emt.EMT"


def written(folder: Path, **value: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"run_dir": "run", "data": {"train": "t.xyz", "test": "t.xyz"}} | value))
    return path


def test_a_model_without_a_trainer_is_evaluated_and_not_trained(tmp_path: Path) -> None:
    spec = read_run(written(tmp_path, backend="ase", task="evaluate", model={"manifest": EMT}))
    assert (spec.model.manifest, spec.run_dir) == (EMT, tmp_path / "run"), "a calculator is no path"
    with pytest.raises(InputError, match=r"run.yaml: backend: models of backend ase cannot be trained, only evaluated"):
        read_run(written(tmp_path, backend="ase", task="finetune", model={"manifest": EMT}))
    with pytest.raises(InputError, match=r"run.yaml: backend: no backend is called 'macee'. Did you mean 'mace'\?"):
        read_run(written(tmp_path, backend="macee", task="evaluate", model={"manifest": EMT}))


def test_a_fairchem_run_of_version_0_1_is_read(tmp_path: Path) -> None:
    """Its run.yaml holds the keys of MACE's trainer too, with their defaults."""
    train = {"config_yml": "fairchem.yml", "seed": 3}
    given = {"backend": "gemnet_oc", "task": "train"}
    new = read_run(written(tmp_path, **given, train=train))
    defaults = MaceTraining().model_dump(mode="json") | {"energy_loss_per": None}
    assert read_run(written(tmp_path, **given, train=defaults | train)) == new
    assert isinstance(new.train, FairChemTraining)
    with pytest.raises(InputError, match=r"train.lr: belongs to mace; FairChem has optim.lr_initial"):
        read_run(written(tmp_path, **given, train=defaults | train | {"lr": 0.5}))


@pytest.mark.slow
def test_the_way_of_one_key(
    configure: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``train.max_edges`` is checked once and passes the stops that docs/ARCHITECTURE.md lists, at most five."""
    configure(tmp_path / "run", train={"max_edges": 40, "epochs": 1})
    monkeypatch.setattr("flows.cli.server_url", lambda: None)
    checks, stacks = [], []
    complete, within = MaceTraining.complete, Trainer._within_budget

    def checked(self: MaceTraining, run: RunSpec) -> None:
        checks.append(self.max_edges)
        complete(self, run)

    def arrived(self: Trainer, *given: Any) -> Any:
        stacks.append([f"{Path(f.filename).relative_to(ROOT)}:{f.name}" for f in traceback.extract_stack()
                       if Path(f.filename).is_relative_to(ROOT) and "site-packages" not in f.filename])  # fmt: skip
        assert self.train.max_edges == 40
        return within(self, *given)

    monkeypatch.setattr(MaceTraining, "complete", checked)
    monkeypatch.setattr(Trainer, "_within_budget", arrived)
    assert main(["--config", str(tmp_path / "run.yaml")]) == 0
    assert "global_step" in capsys.readouterr().out
    assert checks == [40], "one check"
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## One key's way")[2]
    stops = [line for line in page.splitlines() if line[:1].isdigit()]
    assert 1 < len(stops) <= 5
    stack = [entry for entry in stacks[0] if "/tests/" not in f"/{entry}"]
    way = ["flows/run.py:act", "tasks/models.py:run", "rlpath_core/training/tasks.py:run",
           "rlpath_core/training/mace.py:train", "rlpath_core/training/loop.py:run"]  # fmt: skip
    assert [entry for entry in stack if entry in way] == way
    named = ["read_run", "tasks.models.run", "rlpath_core.training.run", "rlpath_core.training.mace.train", "Trainer"]
    assert all(name in stop for name, stop in zip(named, stops, strict=True))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["global_step"] == 4
