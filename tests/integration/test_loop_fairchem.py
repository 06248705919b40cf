"""Small loops with models that live in FairChem's environment: on Prefect's pools, and in one process."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import read, write
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from rlpath_core.backends.environments import interpreter_of
from rlpath_core.errors import InputError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "device=cpu",
    "labels_per_round=4",
    "sampling.steps=12",
    "sampling.walkers=6",
    "sampling.quench.steps=6",
    "update_steps=6",
    "backends.mace.train.save_every=100",
    "paths.max_searches=2",
    "paths.walkers=2",
    "paths.verify.hessian=never",
    "paths.verify.quench.fmax=0.2",
    "paths.searches.minmode.max_calls=20",
    "paths.searches.band.max_calls=20",
]


@pytest.fixture(autouse=True)
def environment_is_there() -> None:
    try:
        interpreter_of("equiformer_v2")
    except InputError as error:
        pytest.skip(str(error))


def words(folder: Path, *more: str) -> list[str]:
    few = folder / "few.xyz"
    write(few, read(ROOT / "models" / "starter" / "data" / "heldout.xyz", ":8"))
    own = [f"campaigns_dir={folder / 'campaigns'}", f"models_dir={folder / 'models'}", "campaign=fc"]
    return ["--params", *own, f"heldout={few}", f"near={few}", *SMALL, *more]


def run(folder: Path, module: str, *arguments: str) -> str:
    """``python -m module``, with a Prefect of its own, if any."""
    own = {"PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1", "RLPATH_PORT": "4391"}
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | own
    end = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    assert end.returncode == 0, end.stdout[-3000:] + end.stderr[-3000:]
    return end.stdout


def rounds_of(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    found: list[dict] = json.loads((folder / "campaigns" / "fc" / "rounds.json").read_text())  # type: ignore[type-arg]
    return found


def test_a_round_of_equiformer_v2_on_the_pools(tmp_path: Path) -> None:
    try:
        said = run(tmp_path, "flows.al_loop", "--services", *words(tmp_path, "backend=equiformer_v2", "rounds=1"))
        url = (tmp_path / "prefect" / "url").read_text().strip()
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            pools = {
                client.read_flow(run.flow_id).name: run.work_pool_name
                for run in client.read_flow_runs()
                if run.deployment_id is not None
            }
    finally:
        run(tmp_path, "flows.services", "down")
    assert pools == {
        "al-loop": "cpu",
        "evaluate-start": "gpu-fairchem",
        "explore": "gpu-fairchem",
        "find-paths": "gpu-fairchem",
        "label": "dft",
        "learn": "gpu-fairchem",
    }
    assert "campaign fc is done" in said
    rounds = rounds_of(tmp_path)
    assert [(entry["backend"], entry["labels"]) for entry in rounds] == [("equiformer_v2", 0), ("equiformer_v2", 4)]
    assert rounds[0]["model"]["sha256"] != rounds[1]["model"]["sha256"]
    assert (tmp_path / "models" / "fc" / "round-1" / "fairchem.log").exists(), "trained by FairChem itself"


@pytest.mark.nightly
def test_rounds_of_gemnet_oc_and_mace_in_turn_with_a_committee_of_both(tmp_path: Path) -> None:
    both = ["backend=[gemnet_oc,mace]", "rounds=2", "committee=true", "sampling.pipeline.trigger.spread=0.01"]
    for _ in range(2):  # the second finds it done
        said = run(tmp_path, "flows.al_loop", *words(tmp_path, *both), "--execution", "inline")
        assert "campaign fc is done" in said
    rounds = rounds_of(tmp_path)
    assert [entry["backend"] for entry in rounds] == ["gemnet_oc", "gemnet_oc", "mace"]
    assert [entry["labels"] for entry in rounds] == [0, 4, 8]
    start = {"gemnet_oc": rounds[0]["model"]["sha256"], "mace": rounds[0]["other_starts"]["mace"]["model"]["sha256"]}
    with sqlite3.connect(tmp_path / "campaigns" / "fc" / "rlpath.db") as connection:
        models = dict(connection.execute("SELECT sha256, backend FROM models").fetchall())
        parents = dict(connection.execute("SELECT sha256, parent_sha256 FROM models").fetchall())
        sampled = connection.execute("SELECT model_sha256 FROM runs WHERE kind = 'sampling' ORDER BY round").fetchall()
        reasons = connection.execute("SELECT DISTINCT trigger FROM queue").fetchall()
        learnt = dict(connection.execute("SELECT model_sha256, count(*) FROM training_labels GROUP BY 1").fetchall())
    first, second = (entry["model"]["sha256"] for entry in rounds[1:])
    assert models == {start["gemnet_oc"]: "gemnet_oc", start["mace"]: "mace", first: "gemnet_oc", second: "mace"}
    assert (parents[first], parents[second]) == (start["gemnet_oc"], start["mace"])
    assert [model for (model,) in sampled] == [start["gemnet_oc"], first], "the model of the round before"
    assert any("spread" in reason for (reason,) in reasons)
    assert learnt == {first: 4, second: 8}, "each round learns all labels so far"
