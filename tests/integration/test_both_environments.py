"""Models of one environment used from the other: sampling, committees, evaluation, a teacher's labels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.evaluate import main as evaluate
from rlpath_core.backends import load_model
from rlpath_core.backends.environments import interpreter_of
from rlpath_core.backends.remote import RemoteModel
from rlpath_core.dft.engines.model import ModelEngine
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure, read_structures
from rlpath_core.testing.backend import BackendConformance

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
MACE = ROOT / "models" / "starter" / "manifest.json"
EQUIFORMER = ROOT / "models" / "starter-equiformer_v2" / "manifest.json"
GEMNET = ROOT / "models" / "starter-gemnet_oc" / "manifest.json"
DATA = ROOT / "models" / "starter" / "data"
PROGRAMS = ROOT / "tests" / "programs"


@pytest.fixture(scope="module")
def fairchem() -> Path:
    try:
        return interpreter_of("gemnet_oc")
    except InputError as error:
        pytest.skip(str(error))


def run(python: Path, folder: Path, *words: str | Path) -> str:
    """What ``python WORDS`` prints, run in ``folder`` with no Prefect server to be found."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1", "RLPATH_MACE_PYTHON": sys.executable}
    env |= {"PYTHONPATH": str(ROOT)}
    command = [str(python), *map(str, words)]
    end = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400)
    assert end.returncode == 0, end.stdout[-2000:] + end.stderr[-3000:]
    return end.stdout


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    return read_structures(DATA / "heldout.xyz")[:3]


@pytest.fixture(scope="module")
def native(fairchem: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """Energy, forces and embeddings as FairChem's own environment has them."""
    printed = run(
        fairchem, tmp_path_factory.mktemp("native"), PROGRAMS / "predict_here.py", GEMNET, DATA / "heldout.xyz"
    )
    answer: list[list[Any]] = json.loads(printed.splitlines()[-1])
    return answer


def test_the_same_model_here_and_there(native: list[list[Any]], structures: list[Structure]) -> None:
    model = load_model(GEMNET)
    assert isinstance(model, RemoteModel)
    for found, (energy, forces, nodes) in zip(model.predict(structures, embeddings=True), native, strict=True):
        assert found.energy == pytest.approx(energy, abs=1e-4)
        np.testing.assert_allclose(found.forces, forces, atol=1e-4)
        np.testing.assert_allclose(found.node_embedding, nodes, atol=1e-4)
    with pytest.raises(InputError, match="does not know Au"):
        model.predict([Structure(np.array([79]), np.zeros((1, 3)))])
    assert model.predict(structures[:1])[0].energy == pytest.approx(native[0][0], abs=1e-4), "an error ends nothing"


@pytest.fixture(scope="module")
def small(fairchem: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of the networks that FairChem's own tests have, by their names."""
    folder = tmp_path_factory.mktemp("small")
    run(fairchem, folder, PROGRAMS / "save_small_networks.py", ROOT / "tests" / "fairchem", folder)
    return folder


@pytest.fixture(scope="module")
def double(small: Path, fairchem: Path) -> Iterator[dict[str, RemoteModel]]:
    models = {
        name: RemoteModel(small / name / "manifest.json", python=fairchem, dtype="float64")
        for name in ("gemnet", "eqv2")
    }
    yield models
    for model in models.values():
        model.close()


class TestGemNetFromMacesEnvironment(BackendConformance):
    @pytest.fixture
    def model(self, double: dict[str, RemoteModel]) -> RemoteModel:
        return double["gemnet"]


class TestEquiformerFromMacesEnvironment(BackendConformance):
    @pytest.fixture
    def model(self, double: dict[str, RemoteModel]) -> RemoteModel:
        return double["eqv2"]


def test_a_checkpoint_of_another_model(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found in the other environment, said in this one."""
    bundle = tmp_path / "bundle"
    shutil.copytree(small / "gemnet", bundle, ignore=shutil.ignore_patterns("run"))
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"backend": "gemnet_oc"', '"backend": "equiformer_v2"'))
    monkeypatch.setattr("flows.cli.server_url", lambda: None)
    words = ["--manifest", str(manifest), "--data", str(DATA / "near.xyz"), "--device", "cpu"]
    assert evaluate(words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "gemnet_oc" in errors[0]
    assert "equiformer_v2" in errors[0]


def test_a_teacher_of_the_other_environment(native: list[list[Any]], structures: list[Structure]) -> None:
    labels = ModelEngine({"manifest": GEMNET}).calculate(structures)
    for label, (energy, forces, _) in zip(labels, native, strict=True):
        assert label.converged
        assert label.energy == pytest.approx(energy, abs=1e-4)
        np.testing.assert_allclose(label.forces, forces, atol=1e-4)


@pytest.mark.parametrize("leader", [EQUIFORMER, MACE], ids=["equiformer leads, in mace's", "mace leads, in fairchem's"])
def test_sampling_with_a_committee_of_both(leader: Path, fairchem: Path, tmp_path: Path) -> None:
    """The leader is the model of the other environment; the spread queues what the two disagree on."""
    python, other = (Path(sys.executable), MACE) if leader is EQUIFORMER else (fairchem, GEMNET)
    (tmp_path / "config.yaml").write_text("pipeline: {trigger: {max_force: 1.0e6, top_k_mean: 1.0e6, spread: 0.02}}\n")
    words = ["--structure_json", DATA / "start.xyz", "--manifest", leader, "--committee", other, "--device", "cpu"]
    words += ["--config", "config.yaml", "--steps", "6", "--walkers", "6", "--quench_steps", "5", "--seed", "2"]
    printed = run(python, tmp_path, "-m", "flows.sample", "--run_dir", tmp_path / "out", *words)
    assert "attempts_total" in printed
    queue = [json.loads(line) for line in (tmp_path / "out" / "dft_queue.jsonl").read_text().splitlines()]
    assert queue, "two networks disagree by more than 0.02 eV/Å somewhere"
    from sqlalchemy import text

    from rlpath_core.store import Store

    with Store(tmp_path / "out") as store, store.session() as session:
        assert session.execute(text("SELECT model_sha256 FROM runs")).scalar_one() == sha256_of(leader)


def test_evaluation_from_the_other_environment(fairchem: Path, tmp_path: Path) -> None:
    """The MACE starter measured by a process of FairChem's environment, which has no mace."""
    words = ["-m", "flows.evaluate", "--manifest", MACE, "--data", DATA / "near.xyz", "--device", "cpu"]
    here, there = (run(python, tmp_path, *words) for python in (Path(sys.executable), fairchem))
    metrics = [dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line) for printed in (here, there)]
    assert metrics[0].keys() == metrics[1].keys()
    for key in ("force_mae", "force_rmse", "energy_mae_per_atom"):
        assert float(metrics[0][key]) == pytest.approx(float(metrics[1][key]), rel=1e-4)
